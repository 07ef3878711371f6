"""What an event means: for each meter of its type a group, and a quantity or a member."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.definitions import Definitions
from schemas.errors import DataError
from schemas.reader import _KEPT, _MOMENTS, Measurement, Reader
from schemas.times import format_rfc3339, parse_rfc3339
from tests.schemas.samples import a_meter, event_bytes, measure, one, with_data


def test_it_measures_once_per_meter_sorted_by_slug() -> None:
    by_model = {"model": "/model"}
    meters = (
        a_meter("unique_count", "/user", slug="users"),
        a_meter("sum", slug="tokens", group_by=by_model),
        a_meter("count", None, slug="requests", group_by=by_model),
        a_meter("max", slug="largest"),
        a_meter("sum", slug="other", event_type="storage.snapshot"),
    )
    measured = measure(one(event_bytes()), *meters)
    assert measured.time_ms == 1769860800000
    assert measured.subject == "contoso"
    model = (("model", "gpt-4o"),)
    largest, requests, tokens, users = measured.measurements
    assert requests == Measurement(meters[2], model, None, None)
    assert largest == Measurement(meters[3], (), Decimal(12), None)
    assert tokens == Measurement(meters[1], model, Decimal(12), None)
    assert users[:3] == (meters[0], (), None)
    assert isinstance(users.member, bytes)
    assert len(users.member) == 16


def test_it_knows_which_types_any_meter_reads() -> None:
    reader = Reader(Definitions(meters=(a_meter(),)))
    assert reader.matches("api.request")
    assert not reader.matches("api.requests")


def test_meters_that_share_a_value_but_not_its_minimum_each_have_their_own_rule() -> None:
    strict, lax = a_meter(slug="a", minimum=Decimal(0)), a_meter(slug="b")
    assert [m.quantity for m in measure(one(event_bytes()), strict, lax).measurements] == [12, 12]
    assert measure(with_data('{"tokens":-1}'), lax).measurements[0].quantity == -1


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"gpt-4o"', "gpt-4o"),
        ('""', ""),
        ("null", ""),
        ("true", "true"),
        ("false", "false"),
        ("7", "7"),
        ("1.50", "1.5"),
        ("1E2", "100"),
        ("-0.0", "0"),
        ('"1.50"', "1.50"),
        ('"€"', "€"),
        ('"' + "x" * 512 + '"', "x" * 512),
        ('"' + "é" * 256 + '"', "é" * 256),
    ],
)
def test_a_group_value_is_the_text_of_a_scalar(written: str, text: str) -> None:
    event = with_data(f'{{"tokens":1,"g":{written}}}')
    assert measure(event, a_meter(group_by={"g": "/g"})).measurements[0].group == (("g", text),)


def test_a_missing_dimension_loses_no_money() -> None:
    meter = a_meter(group_by={"b": "/x/y/z", "a": "/tokens/0"})
    (measurement,) = measure(one(event_bytes()), meter).measurements
    assert measurement.group == (("a", ""), ("b", ""))
    assert measurement.quantity == 12


def test_deeper_pointers_and_lists_are_followed() -> None:
    event = with_data('{"usage":{"total":"1.5"},"items":[{"sku":"A/1"}]}')
    meter = a_meter(value="/usage/total", group_by={"sku": "/items/0/sku"})
    assert measure(event, meter).measurements[0][1:3] == ((("sku", "A/1"),), Decimal("1.5"))


def member(written: str) -> bytes:
    """The member that stands for a value as it is written in JSON."""
    found = measure(with_data(f'{{"user":{written}}}'), a_meter("unique_count", "/user")).measurements[0].member
    assert found is not None
    return found


@pytest.mark.parametrize(
    "same",
    [("1", "1.0", "1e0", "10e-1"), ("0", "-0", "-0.0", "0e999999"), ('"a"', '"\\u0061"'), ("1e999999", "10e999998")],
)
def test_equal_values_are_one_member_however_they_are_written(same: tuple[str, ...]) -> None:
    assert len({member(written) for written in same}) == 1


def test_texts_numbers_and_booleans_are_told_apart() -> None:
    written = ["1", '"1"', "true", '"true"', "false", '"n1"', '"s1"', '""', "0", "1" * 60, "1" * 59 + "2", '"1.0"']
    assert len({member(text) for text in written}) == len(written)


def test_members_are_stable_between_releases_because_state_holds_them() -> None:
    assert member('"u-1"').hex() == "257d06d2f0a38852f752a4d958ef7b09"
    assert member("1.50").hex() == "bea3a5f1e7b98bcc93d14c75daa8b11b"


@given(
    st.integers(0, 253_402_300_799_999),
    st.sampled_from(["Z", "+00:00", "z", "-00:00", "+05:30", "-11:00"]),
    st.text("0123456789", max_size=9),
    st.sampled_from("Tt "),
)
def test_a_time_is_read_as_parse_rfc3339_reads_it(time_ms: int, zone: str, fraction: str, mark: str) -> None:
    text = (
        format_rfc3339(time_ms - time_ms % 1000)[:-1].replace("T", mark) + (f".{fraction}" if fraction else "") + zone
    )
    expected = parse_rfc3339(text)
    event = one(event_bytes(time=text))
    if 0 <= expected <= 253_402_214_399_999:
        assert measure(event).time_ms == measure(event).time_ms == expected


def test_more_seconds_than_are_remembered_are_all_read_right() -> None:
    start_ms = parse_rfc3339("2026-01-31T12:00:00Z")
    for number in [*range(_KEPT + 10), 0]:
        text = format_rfc3339(start_ms + number * 1000)
        assert measure(one(event_bytes(time=text))).time_ms == start_ms + number * 1000
    assert 0 < len(_MOMENTS) <= _KEPT


def test_a_leap_second_is_the_next_second() -> None:
    assert measure(one(event_bytes(time="2016-12-31T23:59:60Z"))).time_ms == parse_rfc3339("2017-01-01T00:00:00Z")
    assert measure(one(event_bytes(time="2016-12-31T23:59:60.9Z"))).time_ms == parse_rfc3339("2017-01-01T00:00:00Z")


@pytest.mark.parametrize("fraction", [".", ".１２３", ".12３", ".123３", ".1 3", ".+12", ".123x", ".1234Z"])
def test_a_strange_fraction_is_refused_though_its_minute_is_known(fraction: str) -> None:
    assert measure(one(event_bytes(time="2026-01-31T12:00:00Z")))
    with pytest.raises(Exception, match="is not an RFC 3339 time"):
        measure(one(event_bytes(time=f"2026-01-31T12:00:00{fraction}Z")))


def test_what_was_read_before_changes_no_group() -> None:
    reader = Reader(Definitions(meters=(a_meter(group_by={"g": "/g", "h": "/h"}),)))
    written = ['"1"', "1", "true", '"true"', "null", '""', "1.0", '"1.0"']
    for _ in range(2):
        groups = [
            reader.measure(with_data(f'{{"tokens":1,"g":{text},"h":"x"}}')).measurements[0].group for text in written
        ]
        assert [dict(group)["g"] for group in groups] == ["1", "1", "true", "true", "", "", "1", "1.0"]
    many = [f'{{"tokens":1,"g":"{number}"}}' for number in range(5000)]
    assert [dict(reader.measure(with_data(text)).measurements[0].group)["g"] for text in many] == [
        str(number) for number in range(5000)
    ]


def test_a_count_of_events_needs_no_data() -> None:
    event = one(
        b'{"specversion":"1.0","id":"1","source":"s","type":"api.request","subject":"who","time":"2026-01-31T12:00:00Z"}'
    )
    (measurement,) = measure(event, a_meter("count", None, group_by={"model": "/model"})).measurements
    assert measurement.group == (("model", ""),)


def test_null_is_no_data_and_a_count_of_events_needs_none() -> None:
    """Some serializers write what is not there as null."""
    event = one(event_bytes(data=None))
    assert [m.quantity for m in measure(event, a_meter("count", None)).measurements] == [None]


def test_the_end_of_the_last_window_is_a_time_that_can_be_written() -> None:
    last_ms = measure(one(event_bytes(time="9999-12-30T23:59:59.999Z"))).time_ms
    assert format_rfc3339(last_ms + 86_400_000) == "9999-12-31T23:59:59.999Z"
    with pytest.raises(DataError, match="between the years 1970 and 9999"):
        measure(one(event_bytes(time="9999-12-31T00:00:00Z")))
