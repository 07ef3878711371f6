"""The independent ledger: one fate per event in the order of design §4, and final values as in §5."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.ledger import Key, Ledger
from local.reading import Invalid, Record, Rules, duration_ms, parse_time
from schemas.times import format_rfc3339

MINUTE = 60_000
HOUR = 60 * MINUTE
NOON = parse_time("2026-03-01T12:00:00Z")
DOCUMENT: dict[str, Any] = {
    "stream": {"future_tolerance": "PT5M", "correct_for": "P1D"},
    "meters": [
        {
            "slug": "tokens",
            "event_type": "call",
            "aggregation": "sum",
            "value": "/tokens",
            "group_by": {"model": "/model"},
            "windows": ["PT1M", "PT60M"],
            "grace": "PT5S",
            "minimum": 0,
        }
    ],
}


def event(time_ms: int | str = NOON, **changes: Any) -> dict[str, Any]:
    time = time_ms if isinstance(time_ms, str) else format_rfc3339(time_ms)
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "call", "subject": "a", "time": time}
    return {**event, "data": {"tokens": 10, "model": "m"}, **changes}


class Log:
    """A log of one or more partitions and the ledger that judges it; append time is `now_ms`."""

    def __init__(self, document: dict[str, Any] = DOCUMENT, now_ms: int = NOON + HOUR) -> None:
        self.ledger = Ledger(Rules.of(document))
        self.now_ms = now_ms
        self._offsets: dict[int, int] = {}

    def append(self, value: Any, partition: int = 0, headers: tuple[tuple[str, bytes], ...] = ()) -> list[str]:
        offset = self._offsets.get(partition, -1) + 1
        self._offsets[partition] = offset
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ledger.judge(Record(partition, offset, self.now_ms, body, headers))


def tick(time_ms: int) -> dict[str, Any]:
    return event(time_ms, id=f"tick-{time_ms}", type="meterline.tick", data=None)


@pytest.mark.parametrize("body", [b"no json", b"[]", b"17", b"\xff", b"", b'{"specversion":"1.0"}', b"[NaN]"])
def test_what_cannot_be_decoded_is_one_event_read_and_one_dead_letter(body: bytes) -> None:
    log = Log()
    assert log.append(body) == ["malformed"]
    assert log.ledger.total()["read"] == log.ledger.total()["dead_lettered"] == 1


def test_of_an_envelope_only_the_bad_event_is_a_dead_letter() -> None:
    good = [event(id=str(number)) for number in range(500)]
    fates = Log().append([*good[:250], {"id": "x"}, *good[250:]])
    assert fates.count("counted") == 500
    assert fates[250] == "malformed"


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        ({"type": "other", "time": None}, "unmatched"),
        ({"time": None}, "invalid"),
        ({"time": "2026-03-01T12:00:00"}, "invalid"),
        ({"time": "2027-03-01T12:00:00Z", "data": {}}, "invalid"),
        ({"data": {"tokens": -1}}, "invalid"),
        ({"data": {"tokens": int("9" * 60)}}, "invalid"),
        ({"data": {"tokens": True}}, "invalid"),
        ({"data": {"tokens": "NaN"}}, "invalid"),
        ({"data": {"tokens": 1, "model": {}}}, "invalid"),
        ({"subject": None}, "invalid"),
        ({"subject": "ä" * 257}, "invalid"),
        ({"subject": 7}, "malformed"),
        ({"data": {"tokens": "1.50"}}, "counted"),
        ({"data": {"tokens": 10**19}}, "counted"),
        ({"data": {"tokens": 10**20}}, "invalid"),
    ],
)
def test_fates_come_in_the_order_of_the_design(change: dict[str, Any], fate: str) -> None:
    assert Log().append(event(**change)) == [fate]


def test_more_than_the_tolerance_ahead_of_the_record_is_future_and_moves_no_watermark() -> None:
    log = Log(now_ms=NOON)
    assert log.append(event(NOON + 5 * MINUTE + 1)) == ["future"]
    assert log.append(event(NOON + 5 * MINUTE, id="2")) == ["counted"]
    assert log.append(event(NOON - 24 * HOUR - 1, id="3")) == ["too_late"], "the watermark is the record's own time"
    assert log.append(event(NOON - 24 * HOUR, id="4")) == ["counted"]
    assert log.ledger.total()["late"] == 1


def test_late_is_counted_against_the_watermark_before_the_event() -> None:
    log = Log()
    log.append([event(NOON), event(NOON + MINUTE + 4_999, id="2"), event(NOON, id="3")])
    assert log.ledger.total()["late"] == 0
    log.append([event(NOON + MINUTE + 5_000, id="4"), event(NOON, id="5")])
    assert log.ledger.total()["late"] == 1


def test_an_id_is_known_exactly_as_long_as_its_time_is_not_too_late() -> None:
    log = Log(now_ms=NOON + 48 * HOUR)
    assert log.append(event(NOON)) == ["counted"]
    assert log.append(tick(NOON + 24 * HOUR)) == ["tick"]
    assert log.append(event(NOON + 24 * HOUR)) == ["duplicate"]
    assert log.append(tick(NOON + 24 * HOUR + 1)) == ["tick"]
    assert log.append(event(NOON + 24 * HOUR)) == ["counted"], "a retry stamped anew is a new event"


def test_a_duplicate_raises_the_watermark_too() -> None:
    log = Log(now_ms=NOON + 48 * HOUR)
    log.append(event(NOON))
    assert log.append(event(NOON + 24 * HOUR)) == ["duplicate"]
    assert log.append(event(NOON - 1, id="2")) == ["too_late"]


def test_a_dead_letters_id_is_not_remembered() -> None:
    log = Log()
    assert log.append([event(data={}), event()]) == ["invalid", "counted"]


def test_the_same_id_on_another_partition_is_another_event() -> None:
    log = Log()
    assert log.append(event()) == log.append(event(), partition=1) == ["counted"]


def test_a_tick_too_far_ahead_is_refused_and_ticks_are_no_events() -> None:
    log = Log(now_ms=NOON)
    assert log.append(tick(NOON + 5 * MINUTE + 1)) == ["tick_refused"]
    assert log.append(tick(NOON + 5 * MINUTE)) == ["tick"]
    total = log.ledger.total()
    assert (total["read"], total["tick"], total["tick_refused"]) == (0, 1, 1)


def test_a_tick_without_a_time_is_a_refused_tick_not_a_dead_letter() -> None:
    log = Log(now_ms=NOON)
    assert log.append({**event(), "type": "meterline.tick", "time": "yesterday"}) == ["tick_refused"]
    assert log.ledger.total()["read"] == 0


def test_binary_mode_takes_attributes_from_headers_and_data_from_the_value() -> None:
    attributes = event()
    data = attributes.pop("data")
    headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
    log = Log()
    assert log.append(data, headers=headers) == ["counted"]
    assert log.append(b"no json", headers=(*headers[:1], ("ce_id", b"2"), *headers[2:])) == ["invalid"]


def test_sizes_are_written_in_one_way_and_windows_begin_at_the_epoch() -> None:
    log = Log()
    log.append(event(NOON + 90_000))
    starts = {(key.size, key.start_ms) for key in log.ledger.windows()}
    assert starts == {("PT1M", NOON + MINUTE), ("PT1H", NOON)}


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        ("sum", "6.3"),
        ("count", "4"),
        ("min", "0.1"),
        ("max", "3.1"),
        ("avg", "1.575"),
        ("latest", "2"),
        ("unique_count", "3"),
    ],
)
def test_the_seven_aggregations(aggregation: str, value: str) -> None:
    meter = {**DOCUMENT["meters"][0], "aggregation": aggregation, "windows": ["PT1H"]}
    log = Log({"meters": [meter]})
    numbers = [("3.1", 1), ("0.1", 0), ("2", 2), ("1.1", 1)] if aggregation != "unique_count" else []
    numbers = numbers or [("3.1", 1), ("1", 0), ("2", 2), ("2.0", 1)]
    for number, (text, second) in enumerate(numbers):
        body = json.dumps(event(NOON + second, id=str(number), data={"tokens": 0})).replace(": 0}", f": {text}}}")
        assert log.append(body.encode()) == ["counted"]
    key = Key("a", "tokens", (("model", ""),), NOON, "PT1H")
    assert log.ledger.windows()[key] == (Decimal(value), 4)


def test_latest_breaks_ties_by_partition_then_offset_then_index() -> None:
    document = {"meters": [{**DOCUMENT["meters"][0], "aggregation": "latest", "windows": ["PT1M"], "group_by": {}}]}
    log = Log(document)
    log.append(event(id="1", data={"tokens": 7}), partition=1)
    log.append(event(id="2", data={"tokens": 8}), partition=0)
    log.append([event(id="3", data={"tokens": 9}), event(id="4", data={"tokens": 10})], partition=0)
    assert [expected.value for expected in log.ledger.windows().values()] == [Decimal(7)]
    log.append([event(id="3", data={"tokens": 1}), event(id="4", data={"tokens": 2})], partition=1)
    assert [expected.value for expected in log.ledger.windows().values()] == [Decimal(2)]


def test_an_average_is_rounded_once_at_34_digits_half_even() -> None:
    document = {"meters": [{**DOCUMENT["meters"][0], "aggregation": "avg", "windows": ["PT1M"], "group_by": {}}]}
    log = Log(document)
    for number, tokens in enumerate((1, 0, 1)):
        log.append(event(id=str(number), data={"tokens": tokens}))
    assert [expected.value for expected in log.ledger.windows().values()] == [Decimal("0." + "6" * 33 + "7")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3 * 24 * 60), st.booleans()), max_size=60))
def test_the_equation_holds_and_nothing_is_counted_twice(steps: list[tuple[int, int, bool]]) -> None:
    """Against a brute force over the whole history: the highest time is the watermark, the last count decides."""
    log = Log(now_ms=NOON + 72 * HOUR)
    history: list[tuple[int, str, str]] = []
    for identity, minute, ticking in steps:
        time_ms = NOON + minute * MINUTE
        watermark = max((t for t, _, fate in history if fate in ("tick", "counted", "duplicate")), default=None)
        horizon = None if watermark is None else watermark - 24 * HOUR
        counted = [t for t, known, fate in history if known == str(identity) and fate == "counted"]
        if ticking:
            expected = "tick"
        elif horizon is not None and time_ms < horizon:
            expected = "too_late"
        elif counted and (horizon is None or counted[-1] >= horizon):
            expected = "duplicate"
        else:
            expected = "counted"
        assert log.append(tick(time_ms) if ticking else event(time_ms, id=str(identity))) == [expected]
        history.append((time_ms, "" if ticking else str(identity), expected))
    total = log.ledger.total()
    kinds = ("counted", "duplicate", "unmatched", "dead_lettered")
    assert total.get("read", 0) == sum(total.get(kind, 0) for kind in kinds)
    hours = [expected for key, expected in log.ledger.windows().items() if key.size == "PT1H"]
    assert sum(expected.events for expected in hours) == total.get("counted", 0)


@pytest.mark.parametrize(("text", "ms"), [("PT0S", 0), ("PT30S", 30_000), ("P1DT2H", 26 * HOUR), ("P1W", 168 * HOUR)])
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["P", "PT", "P1M", "1H", "", "PT1.5S"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_ms(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("1970-01-01T00:00:01.9999Z", 1999), ("1970-01-01t01:00:00+01:00", 0), ("1969-12-31 23:59:60z", 0)],
)
def test_times(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["", None, "1970-01-01", "1970-02-30T00:00:00Z", "1970-01-01T00:00:00"])
def test_other_times_are_refused(text: str | None) -> None:
    with pytest.raises(Invalid):
        parse_time(text)
