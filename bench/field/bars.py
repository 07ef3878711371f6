"""The bars that meterline has set itself, each with what was measured in the same run. A bar that was not measured is not met."""

from __future__ import annotations

from dataclasses import dataclass

from bench.field.records import Runs, Spread
from bench.field.titles import ENVELOPES, MILLION, MILLION_ENVELOPES, ONE_K

_OURS = ("meterline", ONE_K)
_PACKED = ("meterline-envelopes", ENVELOPES)


@dataclass(frozen=True, slots=True)
class Bar:
    """bar: what must be reached, or, with `at_most`, not be exceeded. found: None where it was not measured."""

    what: str
    bar: float
    found: Spread | None
    unit: str = "x"
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """By the median; None where it was not measured."""
        if self.found is None:
            return None
        return self.found.median <= self.bar if self.at_most else self.found.median >= self.bar


def bars(runs: Runs) -> list[Bar]:
    """All of them, in the order of the issue."""
    streams, flink = "Kafka Streams, in memory", "Flink, heap"

    def against(what: str, bar: float, other: str, ours: tuple[str, str] = _OURS, given: str = ONE_K) -> Bar:
        return Bar(what, bar, runs.ratio(ours, (other, given)))

    found = [
        against("single records: stock Faust", 25, "faust"),
        against("single records: Quix Streams", 5, "quix"),
        against(f"single records: {streams}, with deduplication", 2.5, "kafka-streams-dedupe"),
        against(f"single records: {streams}, without", 1.0, "kafka-streams"),
        against(f"single records: {flink}, with deduplication", 1.5, "flink-dedupe"),
        against(f"envelopes: {streams}, without, single records", 2.5, "kafka-streams", _PACKED),
        against("single records: `getmany` and typed decode alone", 0.55, "floor-decode"),
        against("envelopes: fetch and decode alone", 0.45, "floor-decode-envelopes", _PACKED, ENVELOPES),
    ]
    for name, title in (("meterline", "single records"), ("meterline-envelopes", "envelopes")):
        seen = runs.latency(name)
        spread = Spread.of([seen.p99_s] if seen is not None and not seen.unseen else [])
        found.append(Bar(f"{title}: event to visible total, p99, at half speed", 1.5, spread, "s", at_most=True))
    for title, ours, million in (("single records", _OURS, MILLION), ("envelopes", _PACKED, MILLION_ENVELOPES)):
        cost = runs.ratio(ours, (ours[0], million))
        found.append(Bar(f"{title}: cost of an event, 1,000,000 keys over 1,000", 1.5, cost, at_most=True))
    found.append(
        Bar("two workers' events per CPU-second over one's", 0.85, runs.ratio(("meterline-two", ONE_K), _OURS))
    )
    return found
