"""The generator's own ledger: what must come out of what was sent, worked out a second time.

Written from design.md §3–§5 and nothing else: it shares no line with `streams/`, `tables/` or the decoders of
`schemas/`, so that an error has to be made twice, in two ways, to pass. It keeps every contribution and adds up at the
end: slow and plain. One record after the other, per partition in offset order, `Ledger.judge` says the fate of each
event; `Ledger.windows` gives the final value of every window.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from typing import Any, NamedTuple

from local.reading import Invalid, Record, Rules, events, parse_time, reading, well_formed

DEAD = ("malformed", "invalid", "future", "too_late")
_SUMS = Context(prec=60, traps=[Inexact])
_AVERAGE = Context(prec=34, rounding=ROUND_HALF_EVEN)


class Key(NamedTuple):
    """One window. `group` is sorted by name; `start_ms` is ms UTC; `size` is ISO 8601, as documents write it."""

    subject: str
    meter: str
    group: tuple[tuple[str, str], ...]
    start_ms: int
    size: str


class Expected(NamedTuple):
    """What a window must show in the end."""

    value: Decimal
    events: int


@dataclass(slots=True)
class _Partition:
    """What one source partition's log says up to here: the highest time (None: no time yet), and ids with theirs."""

    watermark_ms: int | None = None
    counted_at_ms: dict[tuple[str, str], int] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Judges records and keeps what they contribute. Each partition in offset order; partitions may interleave."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._partitions: dict[int, _Partition] = defaultdict(_Partition)
        self._contributions: dict[Key, list[tuple[tuple[int, int, int, int], Any]]] = defaultdict(list)
        self.dead_letters: dict[tuple[int, int, int], str] = {}
        """(partition, offset, index in the envelope) -> why it is a dead letter (design §4)."""
        self._aggregations = {meter.slug: meter.aggregation for meter in rules.meters}

    def judge(self, record: Record) -> list[str]:
        """The fate of each event of a record, in order (design §4). `tick` and `tick_refused` are counted apart."""
        return self.judge_events(record, events(record))

    def judge_events(self, record: Record, decoded: Sequence[Any]) -> list[str]:
        """The same for events that were decoded elsewhere; of the record only its place and time are looked at."""
        partition = self._partitions[record.partition]
        fates = []
        for index, event in enumerate(decoded):
            fate = self._fate(partition, record, index, event)
            fates.append(fate)
            partition.counters[fate] += 1
            if not fate.startswith("tick"):
                partition.counters["read"] += 1
                if fate in DEAD:
                    partition.counters["dead_lettered"] += 1
                    self.dead_letters[record.partition, record.offset, index] = fate
        return fates

    def counters(self) -> dict[int, dict[str, int]]:
        """Per partition: read, counted, duplicate, unmatched, dead_lettered, late, ticks, and every reason of DEAD."""
        names = ("read", "counted", "duplicate", "unmatched", "dead_lettered", "late", "tick", "tick_refused", *DEAD)
        return {number: {name: state.counters[name] for name in names} for number, state in self._partitions.items()}

    def total(self) -> dict[str, int]:
        """The counters added up over the partitions."""
        added: Counter[str] = Counter()
        for counters in self.counters().values():
            added.update(counters)
        return dict(added)

    def folds(self) -> Counter[tuple[int, str]]:
        """(partition, subject) -> how many contributions to windows its events made: one per meter and window size."""
        return Counter(
            (partition, key.subject)
            for key, values in self._contributions.items()
            for (_, partition, _, _), _ in values
        )

    def windows(self) -> dict[Key, Expected]:
        """The final value and the number of events of every window that anything was counted in."""
        return {
            key: Expected(_aggregate(self._aggregations[key.meter], values), len(values))
            for key, values in self._contributions.items()
        }

    def _fate(self, partition: _Partition, record: Record, index: int, event: Any) -> str:
        if not well_formed(event):
            return "malformed"
        meters = [meter for meter in self.rules.meters if meter.event_type == event["type"]]
        limit_ms = record.timestamp_ms + self.rules.future_tolerance_ms
        try:
            if event["type"] == "meterline.tick":
                time_ms = parse_time(event.get("time"))
                if time_ms > limit_ms:
                    return "tick_refused"
                partition.watermark_ms = _highest(partition.watermark_ms, time_ms)
                return "tick"
            if not meters:
                return "unmatched"
            time_ms = parse_time(event.get("time"))
            readings = [reading(meter, event) for meter in meters]
        except Invalid:
            return "tick_refused" if event["type"] == "meterline.tick" else "invalid"
        if time_ms > limit_ms:
            return "future"
        before_ms = partition.watermark_ms
        horizon_ms = None if before_ms is None else before_ms - self.rules.correct_for_ms
        if horizon_ms is not None and time_ms < horizon_ms:
            return "too_late"
        partition.watermark_ms = _highest(before_ms, min(time_ms, record.timestamp_ms))
        identity = (event["source"], event["id"])
        counted_at_ms = partition.counted_at_ms.get(identity)
        if counted_at_ms is not None and (horizon_ms is None or counted_at_ms >= horizon_ms):
            return "duplicate"
        partition.counted_at_ms[identity] = time_ms
        rank = (time_ms, record.partition, record.offset, index)
        late = False
        for meter, (value, group) in zip(meters, readings, strict=True):
            for size, size_ms in meter.windows:
                start_ms = time_ms - time_ms % size_ms
                late |= before_ms is not None and start_ms + size_ms + meter.grace_ms <= before_ms
                key = Key(event["subject"], meter.slug, group, start_ms, size)
                self._contributions[key].append((rank, value))
        partition.counters["late"] += late
        return "counted"


def _aggregate(aggregation: str, values: Sequence[tuple[tuple[int, int, int, int], Any]]) -> Decimal:
    numbers: list[Any] = [value for _, value in values]
    if aggregation in ("sum", "count", "avg"):
        total = Decimal(0)
        for number in numbers:
            total = _SUMS.add(total, number)
        return _AVERAGE.divide(total, Decimal(len(numbers))) if aggregation == "avg" else total
    if aggregation == "unique_count":
        return Decimal(len(set(numbers)))
    assert aggregation in ("min", "max", "latest"), f"no rule for {aggregation}"
    if aggregation == "latest":  # ties by time, then source partition, offset and index (design §5)
        return Decimal(max(values, key=lambda contribution: contribution[0])[1])
    return Decimal(min(numbers) if aggregation == "min" else max(numbers))


def _highest(one: int | None, other: int) -> int:
    return other if one is None else max(one, other)
