"""One event, one fate, in this order: malformed, unmatched, invalid, future, too late, duplicate, counted (design §4)."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.partials import NEVER
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import USAGE, MeteringProcess, World

DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "PT30S", "future_tolerance": "PT5M", "correct_for": "PT1H"},
        "meters": [meter("total", windows=["PT1M", "PT1H"]), meter("calls", "count", grace="PT10M")],
    }
)
HOUR = 60 * MINUTE


class Partition:
    """One usage partition that is folded record by record; says each event's fate."""

    def __init__(self) -> None:
        self.world = World(DEFINITIONS)
        self.process = MeteringProcess(self.world)

    def fate(self, *events: dict[str, Any] | bytes, at_ms: int = NOON, **more: Any) -> str:
        """What became of a record's events, `late` and `keyless` as well."""
        before = self.process.table.ledger.describe()
        self.world.use(*events, at_ms=at_ms, **more)
        self.process.read()
        after = self.process.table.ledger.describe()
        apart = ("read", "dead_lettered")
        return " ".join(name for name, count in after.items() if count > before.get(name, 0) and name not in apart)

    @property
    def watermark(self) -> int:
        """Ms after noon."""
        return self.process.table.watermark_ms - NOON


WORST: dict[str, Any] = {"n": "no number"}
FAR, OLD = NOON + 10 * MINUTE, NOON - 2 * HOUR


@pytest.mark.parametrize(
    ("event", "fate"),
    [
        (usage("known", FAR, type="unheard.of", **WORST) | {"specversion": "2"}, "dead_lettered_malformed"),
        (usage("known", FAR, type="unheard.of", **WORST), "unmatched"),
        (usage("known", FAR, **WORST), "dead_lettered_invalid"),
        (usage("known", FAR, n=1), "dead_lettered_future"),
        (usage("known", OLD, n=1), "dead_lettered_too_late"),
        (usage("known", NOON, n=1), "duplicate"),
        (usage("new", NOON, n=1), "counted"),
    ],
)
def test_the_first_fate_that_fits_is_the_events(event: dict[str, Any], fate: str) -> None:
    partition = Partition()
    partition.fate(usage("known", n=1))
    assert partition.fate(event) == fate
    assert partition.process.table.ledger.balanced


def test_an_event_exactly_at_the_limit_of_the_future_is_counted() -> None:
    partition = Partition()
    assert partition.fate(usage("a", NOON + 5 * MINUTE, n=1)) == "counted"
    assert partition.fate(usage("b", NOON + 5 * MINUTE + 1, n=1)) == "dead_lettered_future"


def test_an_event_exactly_at_the_limit_of_correction_is_counted_and_late() -> None:
    partition = Partition()
    partition.world.tick(NOON)
    assert partition.fate(usage("a", NOON - HOUR, n=1)) == "counted late ticks"
    assert partition.fate(usage("b", NOON - HOUR - 1, n=1)) == "dead_lettered_too_late"


def test_late_is_an_event_for_a_window_that_has_closed_by_end_and_grace() -> None:
    partition = Partition()
    partition.world.tick(NOON + 5 * SECOND - 1)
    assert partition.fate(usage("a", NOON - 1, n=1)) == "counted ticks", "within the grace of 5 s"
    partition.world.tick(NOON + 5 * SECOND)
    assert partition.fate(usage("b", NOON - 1, n=1)) == "counted late ticks"
    assert partition.fate(usage("c", NOON, n=1)) == "counted"


def test_an_event_is_judged_by_the_watermark_before_it() -> None:
    partition = Partition()
    assert partition.fate(usage("a", NOON, n=1), usage("b", NOON - HOUR, n=1), usage("c", NOON - HOUR - 1, n=1)) == (
        "counted late dead_lettered_too_late"
    )
    assert partition.process.table.ledger.counted == 2
    other = Partition()
    assert other.fate(usage("c", NOON - HOUR - 1, n=1), usage("a", NOON, n=1)) == "counted"


def test_the_first_event_ever_is_never_too_late() -> None:
    partition = Partition()
    assert partition.watermark == NEVER - NOON
    assert partition.fate(usage("a", NOON - 1000 * HOUR, n=1)) == "counted"


@pytest.mark.parametrize(
    ("event", "raised"),
    [
        (usage("new", NOON + 1, n=1), 1),
        (usage("known", NOON + 1, n=1), 1),
        (usage("new", NOON + 3 * MINUTE, n=1), 2 * SECOND),
        (usage("new", NOON - 1, n=1), 0),
        (usage("new", NOON + 6 * MINUTE, n=1), 0),
        (usage("new", NOON + 1, **WORST), 0),
        (usage("new", NOON + 1, type="unheard.of"), 0),
    ],
    ids=["counted", "duplicate", "to its record's time at most", "never back", "future", "invalid", "unmatched"],
)
def test_what_raises_the_watermark_and_how_far(event: dict[str, Any], raised: int) -> None:
    partition = Partition()
    partition.fate(usage("known", NOON, n=1))
    partition.fate(event, at_ms=NOON + 2 * SECOND)
    assert partition.watermark == raised


def test_a_tick_raises_the_watermark_and_is_no_event() -> None:
    partition = Partition()
    partition.world.tick(NOON + MINUTE)
    assert partition.fate(usage("a", NOON, n=1)) == "counted ticks"
    assert partition.watermark == MINUTE
    assert partition.process.table.ledger.read == 1


def test_an_old_tick_changes_nothing() -> None:
    partition = Partition()
    partition.world.tick(NOON)
    partition.world.tick(NOON - MINUTE)
    partition.process.read()
    assert (partition.watermark, partition.process.table.ledger.ticks) == (0, 2)


def test_a_tick_ahead_of_its_record_is_refused_beyond_the_tolerance() -> None:
    partition = Partition()
    partition.world.tick(NOON + 5 * MINUTE, at_ms=NOON)
    partition.world.tick(NOON + 5 * MINUTE + 1, at_ms=NOON)
    partition.process.read()
    ledger = partition.process.table.ledger
    assert (partition.watermark, ledger.ticks, ledger.ticks_refused, ledger.read) == (5 * MINUTE, 1, 1, 0)


@pytest.mark.parametrize(
    "time", [None, "", "now", "2026-01-01T12:00:00", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59Z"]
)
def test_a_tick_without_a_valid_time_is_refused_and_apart_from_the_equation(time: str | None) -> None:
    partition = Partition()
    assert partition.fate(usage("t", type="meterline.tick") | {"time": time}) == "ticks_refused"
    assert partition.process.table.ledger.read == 0 and partition.process.stage.dead_letters == []


def test_a_tick_in_an_envelope_counts_for_the_events_after_it() -> None:
    partition = Partition()
    tick = usage("t", NOON + 2 * HOUR, type="meterline.tick")
    partition.fate(usage("a", n=1), tick, usage("b", n=1), at_ms=NOON + 2 * HOUR)
    ledger = partition.process.table.ledger
    assert (ledger.read, ledger.counted, ledger.reasons, ledger.ticks) == (2, 1, {"too_late": 1}, 1)
    assert [letter.index for letter in partition.process.stage.dead_letters] == [2]


def test_events_without_a_key_are_counted_as_such() -> None:
    partition = Partition()
    assert partition.fate(usage("a", n=1), usage("b", n=1), key=None) == "counted keyless"
    assert partition.process.table.ledger.keyless == 2
    assert partition.fate(usage("c", n=1), key=b"k") == "counted"


def test_a_partition_key_sent_over_amqp_is_a_key() -> None:
    """Event Hubs hands it to Kafka consumers as a header (azure-docs: exchange of events between protocols)."""
    partition = Partition()
    value = partition.world.logs[USAGE, 0]
    value.append(b"{}", None, NOON, [("x-opt-partition-key", b"k")])
    partition.process.read()
    assert partition.process.table.ledger.keyless == 0


def test_an_event_feeds_every_window_of_every_meter_of_its_type() -> None:
    partition = Partition()
    partition.fate(usage("a", NOON + 90 * SECOND, n=7), at_ms=NOON + 2 * MINUTE)
    partials = partition.process.table.partials.items()
    found = {(key.meter, key.size): (key.start_ms - NOON, held.share.events) for key, held in partials}
    assert found == {("total", "PT1M"): (MINUTE, 1), ("total", "PT1H"): (0, 1), ("calls", "PT1M"): (MINUTE, 1)}


def test_a_window_begins_with_its_start_and_ends_before_its_end() -> None:
    partition = Partition()
    for number, time_ms in enumerate((NOON - 1, NOON, NOON + MINUTE - 1, NOON + MINUTE)):
        partition.fate(usage(str(number), time_ms, n=1), at_ms=NOON + 2 * MINUTE)
    partials = partition.process.table.partials.items()
    minutes = {key.start_ms - NOON: held.share.events for key, held in partials if key.meter == "calls"}
    assert minutes == {-MINUTE: 1, 0: 2, MINUTE: 1}


@pytest.mark.parametrize(
    ("now", "end", "due"),
    [(90, 1, 60), (30, 1, None), (31, 1, 1), (90, 2, None), (90, None, None), (-60, 1, None)],
    ids=["lags", "exactly max_delay", "a second more", "backlog", "before any fetch", "clock behind"],
)
def test_a_tick_is_due_where_all_is_read_and_the_watermark_lags(now: int, end: int | None, due: int | None) -> None:
    """Times in seconds after noon, where the one event of the partition was; `max_delay` is 30 s."""
    partition = Partition()
    partition.fate(usage("a", NOON, n=1))
    found = partition.process.stage.tick_due(NOON + now * SECOND, end)
    assert found == (None if due is None else NOON + due * SECOND)


def test_without_max_delay_no_tick_is_ever_due() -> None:
    world = World(definitions({"stream": {"max_delay": "none"}, "meters": [meter("total")]}))
    process = MeteringProcess(world)
    assert process.stage.tick_due(NOON, 0) is None
