"""What was sent, what the usage log holds of it, and the ledger's judgement of that.

A producer that has to send again, because the broker died with its answer, may put a record into the log twice: that is
what deduplication is for, so it is counted and no difference. A record that is missing, or that nobody sent, is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from local.checking import Mismatch
from local.ledger import Ledger
from local.readback import UsageLog
from local.reading import events
from settings import Settings
from transport.sending import UsageProducer

RESENDS = 5


class Witness(UsageProducer):
    """A producer that remembers, by hash, what it was given, and outlives its broker. records: how many so far, ticks too."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, resends=RESENDS)
        self.records = 0
        self.sent: Counter[int] = Counter()

    async def send(
        self, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """As `UsageProducer.send`."""
        self.records += 1
        self.sent[_name(partition, value, headers)] += 1
        await super().send(partition, key, value, headers)


class Court:
    """Reads the usage log as it grows, and has the ledger judge every record. ends: per partition, up to where it read.

    tickers: per partition, who wrote its ticks, one after the other: a worker's ticks carry the name of its incarnation.
    """

    def __init__(self, usage: UsageLog, ledger: Ledger, sent: Counter[int]) -> None:
        self.ends: dict[int, int] = {}
        self.tickers: dict[int, list[str]] = {}
        self._usage = usage
        self._ledger = ledger
        self._sent = sent
        self._found: Counter[int] = Counter()
        self._foreign = 0

    async def sit(self) -> int:
        """Judges what is new in the log; how many records that were."""
        count = 0
        async for record in self._usage.read():
            count += 1
            self.ends[record.partition] = record.offset + 1
            decoded = events(record)
            fates = self._ledger.judge_events(record, decoded)
            name = _name(record.partition, record.value or b"", record.headers)
            if name in self._sent:
                self._found[name] += 1
            elif all(fate.startswith("tick") for fate in fates):  # a worker's own clock
                self.tickers.setdefault(record.partition, []).append(str(decoded[0]["id"]).rpartition("-")[0])
            else:
                self._foreign += 1
        return count

    @property
    def copies(self) -> int:
        """How many records the log holds once more than they were sent."""
        return (self._found - self._sent).total()

    @property
    def ticks(self) -> int:
        """How many ticks the workers wrote."""
        return sum(map(len, self.tickers.values()))

    @property
    def zombie_ticks(self) -> int:
        """How many ticks an owner wrote after its successor had written one."""
        return sum(_overtaken(names) for names in self.tickers.values())

    def verdict(self) -> list[Mismatch]:
        """What was sent and acknowledged is there, and nothing else but the workers' own ticks."""
        lost = (self._sent - self._found).total()
        found = [Mismatch("usage log", "records acknowledged that are not there", 0, lost)] if lost else []
        return found + ([Mismatch("usage log", "records that nobody sent", 0, self._foreign)] if self._foreign else [])


def _name(partition: int, value: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    return hash((partition, value, tuple(headers)))


def _overtaken(names: Sequence[str]) -> int:
    """How many of the names come after one that first came later."""
    first = {name: place for place, name in reversed(list(enumerate(names)))}
    count, latest = 0, 0
    for name in names:
        count += first[name] < latest
        latest = max(latest, first[name])
    return count
