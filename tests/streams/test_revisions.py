"""A window's life: open, closed, revised, sealed; each revision with its delta and its reason (design §3)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.streams.road import EXACT
from tests.streams.stage import AGGREGATIONS, CLOSES, END, SEALS, Stage, key, made, member
from tests.usage import NOON
from tests.world import ClosingProcess


def closed() -> Stage:
    """A window that is closed with 3 events, 30."""
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(CLOSES)
    return stage


def test_a_window_closes_when_the_watermark_reaches_its_end_and_grace() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(END)
    stage.mark(CLOSES - 0.001)
    assert stage.revisions() == []
    stage.mark(CLOSES)
    assert stage.last() == (1, "30", "30", "closed", 3)


def test_an_open_window_shows_its_provisional_value() -> None:
    stage = Stage()
    stage.partial(3, 30)
    shown = stage.process.stage.describe(key())
    assert shown is not None
    assert (shown["state"], shown["revision"], shown["value"], shown["reason"]) == ("open", 0, "30", "open")
    assert stage.process.stage.describe(key(subject="nobody")) is None


def test_a_late_event_revises_its_own_window() -> None:
    stage = closed()
    stage.partial(4, 45)
    shown = stage.process.stage.describe(key())
    assert shown is not None
    assert (shown["state"], shown["pending"], shown["value"], shown["delta"]) == ("closed", True, "45", "15")
    assert len(stage.revisions()) == 1, "decided at watermarks only"
    stage.mark(CLOSES + 60)
    assert stage.last() == (2, "45", "15", "late", 4)
    assert stage.revisions()[-1]["window_start"] == "2026-01-01T12:00:00Z"


def test_a_window_is_revised_at_most_once_per_revise_every_of_watermark() -> None:
    stage = closed()
    for number in range(4, 60):
        stage.partial(number, number * 10)
        stage.mark(CLOSES + number)
    assert [document["revision"] for document in stage.revisions()] == [1]
    stage.mark(CLOSES + 60)
    assert stage.last() == (2, "590", "560", "late", 59)
    stage.partial(60, 600)
    stage.mark(CLOSES + 119)
    assert len(stage.revisions()) == 2
    stage.mark(CLOSES + 120)
    assert stage.last() == (3, "600", "10", "late", 60)


def test_without_a_change_there_is_no_revision() -> None:
    stage = closed()
    stage.again(0, 0)
    stage.mark(CLOSES + 300)
    assert len(stage.revisions()) == 1


def test_a_change_that_leaves_the_value_where_it_was_is_a_revision_of_its_events() -> None:
    stage = closed()
    stage.partial(4, 30)
    stage.mark(CLOSES + 60)
    assert stage.last() == (2, "30", "0", "late", 4)


def test_what_is_pending_at_the_seal_leaves_as_a_last_revision() -> None:
    stage = closed()
    slot = stage.process.table.windows.slot(key())
    shown = stage.process.stage.describe_slot(slot)
    assert shown == stage.process.stage.describe(key()) and shown is not None
    stage.partial(4, 40)
    stage.mark(SEALS - 10)
    assert stage.last() == (2, "40", "10", "late", 4)
    stage.partial(5, 50)
    stage.mark(SEALS - 0.001)
    assert len(stage.revisions()) == 2
    stage.mark(SEALS)
    assert stage.last() == (3, "50", "10", "seal", 5)
    assert stage.process.table.windows == {} and stage.process.table.counters.windows_sealed == 1
    assert stage.process.stage.describe(key()) is None and stage.process.stage.describe_slot(slot) is None


def test_a_watermark_that_leaps_over_everything_closes_and_seals_at_once() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(SEALS + 1000)
    assert [(d["revision"], d["reason"]) for d in stage.revisions()] == [(1, "closed")]
    assert stage.process.table.windows == {}


def test_a_sealed_window_is_never_made_again() -> None:
    stage = closed()
    stage.mark(SEALS, through=1000)
    stage.again(0)
    stage.partial(7, 70, through=1000)
    stage.mark(SEALS + 100, through=1001)
    assert len(stage.revisions()) == 1
    assert stage.process.table.windows == {}
    assert stage.alarms() == [], "nothing new: within what its source's watermark has covered"


def test_a_new_partial_of_a_sealed_window_is_an_alarm() -> None:
    stage = closed()
    stage.mark(SEALS, through=1000)
    stage.partial(7, 70, through=1001)
    assert stage.alarms() == ["partial_of_sealed_window"]
    assert stage.process.table.windows == {} and len(stage.revisions()) == 1
    assert stage.process.table.counters.alarms == {"partial_of_sealed_window": 1}
    alarm = stage.process.stage.alarms[0]
    assert alarm.where == "partials[0]" and "acme" in alarm.what and alarm.hint


def test_a_window_one_source_never_spoke_of_waits_for_that_source() -> None:
    stage = Stage(sources=2)
    stage.partial(3, 30, source=0)
    stage.mark(SEALS, source=0)
    assert stage.revisions() == []
    stage.mark(CLOSES - 1, source=1)
    assert stage.revisions() == []
    stage.mark(CLOSES, source=1)
    assert stage.last() == (1, "30", "30", "closed", 3)
    assert stage.revisions()[0]["receipt"]["watermark"] == "2026-01-01T12:01:05Z"


LIVES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "sum": [({"amount": "1.5"}, "1.5"), ({"amount": "-2.25"}, "-2.25"), ({"amount": "0.1"}, "0.1")],
    "count": [({}, "1"), ({}, "2"), ({}, "3")],
    "min": [
        ({"amount": "5"}, "5"),
        ({"amount": "-0.000000000000000001"}, "-0.000000000000000001"),
        ({"amount": "-7"}, "-7"),
    ],
    "max": [
        ({"amount": "5"}, "5"),
        ({"amount": "5.5"}, "5.5"),
        ({"amount": "99999999999999999999"}, "99999999999999999999"),
    ],
    "avg": [
        ({"amount": "1"}, "1"),
        ({"amount": "2.5"}, "1.25"),
        ({"amount": "10"}, "3.333333333333333333333333333333333"),
    ],
    "latest": [
        ({"amount": "5", "at": (NOON, 1, 0)}, "5"),
        ({"amount": "3", "at": (NOON + 1, 2, 0)}, "3"),
        ({"amount": "4", "at": (NOON + 2, 3, 0)}, "4"),
    ],
    "unique_count": [({"members": member(1)}, "1"), ({"members": member(1)}, "1"), ({"members": member(2)}, "2")],
}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_deltas_of_every_aggregation_sum_to_its_value(aggregation: str) -> None:
    stage = Stage()
    for number, (share, value) in enumerate(LIVES[aggregation], 1):
        stage.partial(number, meter=aggregation, **share)
        stage.mark(CLOSES + 60 * (number - 1))
        assert stage.last()[:2] == (number, value)
    told = Decimal(0)
    for document in stage.revisions():
        told = EXACT.add(told, Decimal(document["delta"]))
        assert told == Decimal(document["value"])
        assert document["aggregation"] == document["meter"] == aggregation


def test_the_life_goes_on_after_recovery_as_if_nothing_had_been() -> None:
    plain, broken = Stage(), Stage()
    for stage in (plain, broken):
        documents: list[Any] = []
        for events, second in ((1, 10), (2, CLOSES), (3, CLOSES + 30), (4, CLOSES + 90), (5, SEALS - 1), (6, SEALS)):
            stage.partial(events, events * 10)
            stage.mark(second)
            if stage is broken:
                documents += stage.revisions()
                stage.process.checkpoint()
                stage.process = ClosingProcess(stage.world)
    assert documents == plain.revisions()
    assert [document["reason"] for document in documents] == ["closed", "late", "late", "seal"]


def test_windows_that_close_together_leave_in_the_order_of_their_keys() -> None:
    stage = Stage()
    stage.pack(0, *[made(1, 1, subject=subject) for subject in "cab"])
    stage.mark(CLOSES)
    assert [document["subject"] for document in stage.revisions()] == ["a", "b", "c"]
