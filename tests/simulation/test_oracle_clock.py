"""The oracle's watermark, and what is late by it, against cases worked out by hand from design.md §3."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.oracle_logs import MINUTE, NOON, SECOND, Logs, meter, tick, use, without


def test_an_event_raises_the_watermark_to_its_records_time_at_most() -> None:
    logs = Logs()
    logs.read(use("1", NOON - SECOND))
    logs.read(use("2", NOON + MINUTE))
    assert [logs.oracle.watermark_ms(0, position) for position in range(3)] == [None, NOON - SECOND, NOON]


def test_a_watermark_never_falls() -> None:
    logs = Logs()
    logs.read(use("1"), use("2", NOON - MINUTE), tick(NOON - MINUTE))
    assert logs.oracle.watermark_ms(0, 1) == NOON


def test_a_duplicate_raises_the_watermark_too() -> None:
    logs = Logs()
    logs.read(use("1", NOON - MINUTE), use("1", NOON))
    assert logs.oracle.watermark_ms(0, 1) == NOON


def test_dead_letters_and_unmatched_events_raise_no_watermark() -> None:
    logs = Logs()
    logs.read(use("1", n="bad"), use("2", NOON + 2 * MINUTE), use("3", type="other"), None)
    assert logs.oracle.watermark_ms(0, 1) is None


def test_a_tick_raises_the_watermark_to_its_own_time_even_ahead_of_its_record() -> None:
    logs = Logs()
    assert logs.read(tick(NOON + MINUTE)) == ["tick"]
    assert logs.oracle.watermark_ms(0, 1) == NOON + MINUTE


@pytest.mark.parametrize("time", [NOON + MINUTE + 1, "soon", None])
def test_a_tick_too_far_ahead_or_unreadable_is_refused_and_does_nothing(time: Any) -> None:
    logs = Logs()
    assert logs.read(without(tick("soon"), "time") if time is None else tick(time)) == ["tick_refused"]
    assert logs.oracle.watermark_ms(0, 1) is None


def test_an_event_in_an_envelope_is_judged_by_the_watermark_that_those_before_it_left() -> None:
    logs = Logs()
    assert logs.read(use("1", NOON - 6 * MINUTE), tick(NOON), use("2", NOON - 6 * MINUTE)) == [
        "counted",
        "tick",
        "too_late",
    ]


def test_each_partition_has_its_own_clock() -> None:
    logs = Logs(sources=2)
    logs.read(tick(NOON), source=1)
    assert logs.read(use("1", NOON - 6 * MINUTE)) == ["counted"]
    assert logs.oracle.watermark_ms(1, 1) == NOON


def test_an_event_is_late_once_the_watermark_is_at_the_end_and_grace_of_one_of_its_windows() -> None:
    logs = Logs(meter(windows=["PT1M", "PT2M"], grace="PT10S"))
    logs.read(tick(NOON + 69_999), at_ms=NOON + 2 * MINUTE)
    logs.read(use("1"), at_ms=NOON + 2 * MINUTE)
    assert logs.oracle.counters(0, 2)["late"] == 0
    logs.read(tick(NOON + 70_000), at_ms=NOON + 2 * MINUTE)
    logs.read(use("2"), at_ms=NOON + 2 * MINUTE)
    assert logs.oracle.counters(0, 4)["late"] == 1


def test_what_a_duplicate_or_a_dead_letter_is_late_for_is_not_tallied() -> None:
    logs = Logs()
    logs.read(use("1"), tick(NOON + MINUTE), use("1"), use("2", n="bad"))
    assert logs.oracle.counters(0, 1)["late"] == 0


def test_every_way_to_write_an_instant_is_the_same_instant() -> None:
    logs = Logs()
    for time in ("2026-01-01T12:00:00.0019Z", "2026-01-01T17:30:00.001+05:30", "2026-01-01t04:00:00.001-08:00"):
        logs.read(use(time, time), at_ms=NOON + SECOND)
        assert logs.oracle.watermark_ms(0, logs.ends[0]) == NOON + 1
    assert logs.oracle.windows()[logs.window()].events == 3
