"""A duration is a fixed ISO 8601 duration, in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("PT0S", 0),
        ("PT0.5S", 500),
        ("PT0,25S", 250),
        ("PT0.100000000S", 100),
        ("PT30S", 30_000),
        ("PT1M", 60_000),
        ("PT90M", 5_400_000),
        ("PT1H", 3_600_000),
        ("PT1H30M15.125S", 5_415_125),
        ("P1D", 86_400_000),
        ("P1DT2H", 93_600_000),
        ("P1W", 604_800_000),
    ],
)
def test_fixed_durations_are_read_exactly(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["P1M", "P1Y", "P1Y6M", "P1M2D", "P1MT5M"])
def test_months_and_years_are_refused_because_their_length_is_not_fixed(text: str) -> None:
    with pytest.raises(ValueError, match=r"calendar duration.*not supported yet, expected a fixed one"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1DT", "1H", "pt1h", "PT1H ", "-PT1H", "PT-1H", "PT1", "P1H", "PT1D", "PT1M1H", "PT١M", "1"],
)
def test_what_is_no_iso_8601_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not an ISO 8601 duration; expected one like"):
        parse_duration(text)


def test_finer_than_a_millisecond_is_refused_rather_than_rounded() -> None:
    with pytest.raises(ValueError, match="finer than a millisecond"):
        parse_duration("PT0.0005S")


@given(st.integers(min_value=0, max_value=10**14))
def test_every_duration_comes_back_from_its_text(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("PT60M", "PT1H"), ("PT3600S", "PT1H"), ("PT24H", "P1D"), ("P1W", "P7D"), ("PT0.500S", "PT0.5S"), ("P0D", "PT0S")],
)
def test_equal_durations_have_one_text(written: str, canonical: str) -> None:
    assert format_duration(parse_duration(written)) == canonical


def test_a_negative_duration_has_no_text() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        format_duration(-1)
