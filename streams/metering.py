"""METERING: one source partition's records in, one fate per event, partials and watermarks out (design §1, §4).

`step` folds a batch and is pure; `emit` and `checkpoint` are procedures of effects (`tables/effects.py`). Their order:

emit
  1. dead letters and changed partials, all acknowledged
  2. then the watermarks that cover them (a watermark is sent only after the partials it covers, design §2.5)

checkpoint
  1. emit
  2. chunks, acknowledged; commit (`tables/durable.py`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas import partials as wire
from schemas.deadletters import DeadLetter
from schemas.definitions import Definitions
from schemas.errors import PartitionStopped
from schemas.hashing import partition_for
from schemas.partials import NEVER, Partial, Watermark
from schemas.records import Batch, Out
from schemas.windows import WindowKey, decode_key
from streams.counting import Counting
from tables.durable import Durable
from tables.effects import Procedure, Produce
from tables.metering import MeteringTable, OpenPartial

LETTERS_AT_ONCE = 4096
"""Dead letters in one Produce at the most: a megabyte of envelopes may hold half a million that are no events."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics METERING writes to, and of its source."""

    usage: str
    partials: str
    dead_letters: str


class Metering:
    """One source partition: its table, the step over it, and what leaves.

    targets: M, how many partitions the partials topic has. Dead letters of a step wait in `dead_letters` until the next
    emit has them acknowledged.
    """

    def __init__(
        self,
        definitions: Definitions,
        topics: Topics,
        partition: int,
        targets: int,
        durable: Durable,
        table: MeteringTable,
    ) -> None:
        self.definitions = definitions
        self.table = table
        self.durable = durable
        self.dead_letters: list[DeadLetter] = []
        self._topics = topics
        self._partition = partition
        self._targets = targets
        self._counting = Counting(definitions, topics.usage, partition, targets, table)
        self._sent: list[Watermark | None] = [None] * targets

    def recover(self) -> Procedure[None]:
        """Restores the table. Raises PartitionStopped where it was counted for another number of targets."""
        yield from self.durable.recover()
        self.restored()

    def restored(self) -> None:
        """What follows a restored table: it must belong to this many targets."""
        found = len(self.table.folds)
        if found != self._targets:
            raise PartitionStopped(
                self._topics.usage,
                self._partition,
                f"its state sent to {found} partitions of {self._topics.partials}, which has {self._targets} now",
                hint="partition counts never change in place: use a new METERLINE_APP_ID with new topics",
                way="another-number-of-partitions",
            )

    def step(self, batch: Batch) -> None:
        """Folds the records of one batch that are not folded yet. A batch that leaves a gap is the caller's to refuse."""
        table = self.table
        self.dead_letters += self._counting.count(batch.packed(table.position))
        table.position = max(table.position, batch.end)
        assert table.ledger.balanced, "every event read met exactly one fate (design §4)"

    def emit(self, *, everywhere: bool = True) -> Procedure[None]:
        """Sends what changed since the last emit: dead letters and partials, then watermarks.

        everywhere: watermarks also to targets that got no partials in this emit, where theirs has moved.
        """
        letters, self.dead_letters = self.dead_letters, []
        sent = 0
        while len(letters) - sent > LETTERS_AT_ONCE:
            yield Produce(self._dead(letters[sent : sent + LETTERS_AT_ONCE]))
            sent += LETTERS_AT_ONCE
        records = self._dead(letters[sent:])
        changed, key = self.table.take_changed(), b"%d" % self._partition
        targets = self.table.target[changed.slots]
        in_rows = self.table.fit_rows(changed.slots)
        others: list[list[Partial]] = [[] for _ in range(self._targets)]
        for name, partial in changed.gone:
            others[partition_for(name.subject, self._targets)].append(_leaving(name, partial))
        for slot in changed.slots[~in_rows].tolist():
            name = decode_key(self.table.keys.key(slot))
            others[self.table.target[slot]].append(_leaving(name, self.table.at(slot)))
        told = set()
        for target, items in enumerate(others):
            slots = changed.slots[in_rows & (targets == target)]
            for value in wire.pack_all(self._partition, self.table.rows(slots), items, self.durable.limits.record):
                records.append(Out(self._topics.partials, target, key, value))
                told.add(target)
        if records:
            yield Produce(records)
        marks = [(t, mark) for t, mark in self._watermarks() if everywhere or t in told]
        if marks:
            yield Produce([Out(self._topics.partials, t, key, wire.encode(m)) for t, m in marks])
            for target, mark in marks:
                self._sent[target] = mark

    def _dead(self, letters: Sequence[DeadLetter]) -> list[Out]:
        return [
            Out(self._topics.dead_letters, 0, letter.key.encode(), value)
            for letter in letters
            for value in letter.records()
        ]

    def checkpoint(self, *, snapshot_due: bool = False) -> Procedure[bool]:
        """Emits, then makes the state durable. True if a checkpoint was written."""
        yield from self.emit()
        written = yield from self.durable.checkpoint(snapshot_due=snapshot_due)
        if written:
            self.table.accepted()
        return written

    def tick_due(self, now_ms: int, log_end: int | None) -> int | None:
        """The time of a tick that the partition's owner should append now, ms; None while it should not.

        now_ms: the wall clock. log_end: the partition's end as the last fetch saw it, None before any. Only an owner that
        has read to the end may say that nothing older is to be expected, or a backlog would be called late (design §3).
        """
        max_delay_ms = self.definitions.stream.max_delay_ms
        if max_delay_ms is None or self.table.position != log_end:
            return None
        time_ms = now_ms - max_delay_ms
        return time_ms if time_ms > self.table.watermark_ms else None

    def _watermarks(self) -> list[tuple[int, Watermark]]:
        table = self.table
        if table.position == 0 and table.watermark_ms == NEVER:
            return []
        marks = []
        for target in range(self._targets):
            mark = Watermark(self._partition, table.watermark_ms, table.position - 1, table.folds[target])
            if mark != self._sent[target]:
                marks.append((target, mark))
        return marks


def _leaving(key: WindowKey, partial: OpenPartial) -> Partial:
    members = b"".join(sorted(partial.fresh_members))
    return Partial(*key, partial.version, partial.share.contribution(), members)
