"""The digest of a set of definitions stands for what changes a number, and only that (design §3)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from schemas.definitions import Definitions, StreamSettings, Window
from schemas.meters import parse
from tests.schemas.samples import a_meter

ONE = a_meter(slug="one", group_by={"model": "/model"})
TWO = a_meter("count", None, slug="two")


def test_the_digest_is_the_same_for_the_same_definitions_whatever_their_order() -> None:
    assert Definitions(meters=(ONE, TWO)).digest == Definitions(meters=(TWO, ONE)).digest
    assert len(Definitions().digest) == 64


def test_the_digest_is_stable_between_releases_because_partitions_carry_it() -> None:
    digest = Definitions(meters=(ONE, TWO)).digest
    assert digest == "1e5320bab2f7c149c3a0f795a2758d7a6c32f6ef8e46237edfa07dae1b214c6d"


@pytest.mark.parametrize(
    "change",
    [
        {"slug": "other"},
        {"event_type": "other"},
        {"aggregation": "max"},
        {"value": None},
        {"group_by": ()},
        {"windows": (Window.parse("PT1M"),)},
        {"grace_ms": 0},
        {"minimum": Decimal(0)},
        {"version": 2},
    ],
)
def test_the_digest_changes_with_everything_that_changes_a_number(change: dict[str, Any]) -> None:
    changed = Definitions(meters=(replace(ONE, **change), TWO))
    assert changed.digest != Definitions(meters=(ONE, TWO)).digest


@pytest.mark.parametrize(
    "change", [{"max_delay_ms": None}, {"future_tolerance_ms": 1}, {"correct_for_ms": 1}, {"revise_every_ms": 1}]
)
def test_the_digest_changes_with_the_stream_settings(change: dict[str, Any]) -> None:
    assert Definitions(stream=replace(StreamSettings(), **change)).digest != Definitions().digest


def test_the_digest_does_not_change_with_prose_or_sources() -> None:
    plain = "meters: [{slug: a, event_type: t, aggregation: count}]"
    prose = "meters: [{slug: a, event_type: t, aggregation: count, description: What, unit: requests}]"
    source = "\nsources: {x: {format: csv, type: t, subject: s, time: T, data: {a: A}}}"
    assert parse(plain).digest == parse(prose).digest == parse(plain + source).digest


def test_equal_minimums_written_differently_have_one_digest() -> None:
    first, second = (Definitions(meters=(replace(ONE, minimum=Decimal(text)),)) for text in ("1.50", "1.5"))
    assert first.digest == second.digest


def test_meters_are_found_by_event_type_sorted_by_slug() -> None:
    other = replace(ONE, slug="three", event_type="other")
    found = Definitions(meters=(TWO, ONE, other)).by_event_type
    assert {kind: [meter.slug for meter in meters] for kind, meters in found.items()} == {
        "api.request": ["one", "two"],
        "other": ["three"],
    }


@pytest.mark.parametrize(
    ("text", "size", "size_ms"),
    [
        ("PT1M", "PT1M", 60_000),
        ("PT60M", "PT1H", 3_600_000),
        ("PT90M", "PT1H30M", 5_400_000),
        ("PT24H", "P1D", 86_400_000),
    ],
)
def test_a_window_has_one_canonical_size(text: str, size: str, size_ms: int) -> None:
    assert Window.parse(text) == Window(size, size_ms)


@pytest.mark.parametrize("text", ["PT0S", "PT30S", "PT7M", "PT1M30S", "PT67.5S", "PT25H", "P2D", "P1W", "P1M", "hour"])
def test_a_window_that_does_not_divide_a_day_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="PT1M"):
        Window.parse(text)


def test_windows_are_aligned_to_the_epoch_before_it_too() -> None:
    hour = Window.parse("PT1H")
    assert hour.start_of(3_600_000) == hour.start_of(7_199_999) == 3_600_000
    assert hour.start_of(-1) == -3_600_000
