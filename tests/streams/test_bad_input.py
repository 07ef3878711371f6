"""Bad input costs itself and nothing else: one dead letter with its own bytes, and the partition goes on (design §4, §6)."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.metering import LETTERS_AT_ONCE
from tables.effects import Produce
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import DEAD, USAGE, MeteringProcess, World

DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "none", "future_tolerance": "PT5M", "correct_for": "P1D"},
        "meters": [
            meter("total", minimum=0, group_by={"model": "/model"}),
            meter("users", "unique_count", value="/user", event_type="seen"),
            meter("calls", "count", event_type="call"),
        ],
    }
)
RECORD_LIMIT = 65_536


def world() -> tuple[World, MeteringProcess]:
    made = World(DEFINITIONS)
    return made, MeteringProcess(made)


def letters(made: World, process: MeteringProcess) -> list[dict[str, Any]]:
    """The dead letters after everything was read and emitted; every record of the topic fits into 64 KB."""
    process.read()
    process.emit()
    assert all(len(record.value or b"") <= RECORD_LIMIT for record in made.logs[DEAD, 0].records)
    return made.dead_letters()


def original(parts: list[dict[str, Any]]) -> bytes:
    """The bytes that the records of one dead letter join to."""
    assert [part["part"] for part in parts] == [*range(1, parts[0]["parts"] + 1)]
    return b"".join(base64.b64decode(part["original_base64"]) for part in parts)


def bad(**changes: Any) -> dict[str, Any]:
    return usage("bad", n=1) | changes


BAD: dict[str, tuple[dict[str, Any] | bytes, str, str]] = {
    "not JSON": (b"tokens=5", "malformed", "JSON"),
    "not UTF-8": (b"\xff\xfe{}", "malformed", ""),
    "no CloudEvent": ({"tokens": 5}, "malformed", "id"),
    "a number": (b"5", "malformed", ""),
    "an empty text as id": (bad(id=""), "malformed", "id"),
    "another specversion": (bad(specversion="0.3"), "malformed", "specversion"),
    "an empty envelope": (b"[]", "malformed", "empty envelope"),
    "an attribute twice": (b'{"specversion":"1.0","id":"1","id":"2","source":"s","type":"use"}', "malformed", "id"),
    "no data": (usage("bad"), "invalid", "data is missing"),
    "data that is no object": (bad(data=[1]), "invalid", "expected a JSON object"),
    "no value": (bad(data={"m": 1}), "invalid", "data has no /n"),
    "a wrong value": (bad(data={"n": "many"}), "invalid", "'many'"),
    "null": (bad(data={"n": None}), "invalid", "null"),
    "true": (bad(data={"n": True}), "invalid", "true"),
    "NaN": (
        b'{"specversion":"1.0","id":"1","source":"s","type":"use","subject":"a","data":{"n":NaN}}',
        "malformed",
        "",
    ),
    "NaN in a text": (bad(data={"n": "NaN"}), "invalid", "NaN"),
    "infinity": (bad(data={"n": "Infinity"}), "invalid", "Infinity"),
    "10^400": (orjson.dumps(bad(data={"n": 0})).replace(b'"n":0', b'"n":1e400'), "invalid", "20 digits before"),
    "10^-400": (orjson.dumps(bad(data={"n": 0})).replace(b'"n":0', b'"n":1e-400'), "invalid", "18 after"),
    "60 digits": (orjson.dumps(bad(data={"n": 0})).replace(b'"n":0', b'"n":' + b"1" * 60), "invalid", "20 digits"),
    "negative where forbidden": (bad(data={"n": -1}), "invalid", "at least 0"),
    "no time": (bad(time=None), "invalid", "time is missing"),
    "time without zone": (bad(time="2026-01-01T12:00:00"), "invalid", "zone"),
    "a time that is none": (bad(time="2026-02-30T12:00:00Z"), "invalid", "time"),
    "no subject": (bad(subject=None), "invalid", "subject is missing"),
    "an empty subject": (bad(subject=""), "invalid", "subject is empty"),
    "a subject of 10 KB": (bad(subject="s" * 10_000), "invalid", "at most 512"),
    "a group that is a list": (bad(data={"n": 1, "model": []}), "invalid", "expected a scalar"),
    "far in the future": (bad(time="2026-01-01T12:05:00.001Z"), "future", "ahead of its record"),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_one_dead_letter_with_its_reason_its_place_and_its_bytes(name: str) -> None:
    value, reason, detail = BAD[name]
    made, process = world()
    made.use(usage("good", n=1))
    offset = made.use(value)
    made.use(usage("good too", n=1))
    (letter,) = letters(made, process)
    assert (letter["reason"], letter["topic"], letter["partition"]) == (reason, USAGE, 0)
    assert (letter["offset"], letter["index"]) == (offset, 0)
    assert detail in letter["detail"]
    assert original([letter]) == made.logs[USAGE, 0].records[offset].value
    counts = process.table.ledger
    assert (counts.read, counts.counted, counts.dead_lettered, counts.reasons) == (3, 2, 1, {reason: 1})


def test_a_tombstone_is_one_event_read_and_one_dead_letter() -> None:
    made, process = world()
    made.logs[USAGE, 0].append(None, b"k", NOON)
    (letter,) = letters(made, process)
    assert (letter["reason"], original([letter])) == ("malformed", b"")


@pytest.mark.parametrize("place", [0, 250, 500])
@pytest.mark.parametrize("rotten", [b'{"id": 1}', b"{nonsense}", b'"text"', orjson.dumps(bad(time="yesterday"))])
def test_one_bad_event_among_500_good_ones_costs_only_itself(rotten: bytes, place: int) -> None:
    made, process = world()
    events: list[dict[str, Any] | bytes] = [usage(str(number), n=1) for number in range(500)]
    made.use(*events[:place], rotten, *events[place:])
    (letter,) = letters(made, process)
    assert (letter["offset"], letter["index"], original([letter])) == (0, place, rotten)
    assert process.table.ledger.counted == 500


def test_the_first_of_two_events_of_one_id_wins_whatever_they_say() -> None:
    made, process = world()
    made.use(usage("same", n=1))
    made.use(usage("same", subject="somebody else", n=1000))
    assert letters(made, process) == []
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (1, 1)
    assert [(key.subject, str(held.share.amount)) for key, held in process.table.partials.items()] == [("acme", "1")]


@pytest.mark.parametrize("subject", ["a/b", "a\\b", "a?b", "a#b", "ä" * 256, "\U0001f600", " ", "a\x00b", "~", "|"])
def test_any_subject_of_at_most_512_bytes_is_counted(subject: str) -> None:
    made, process = world()
    made.use(usage("1", subject=subject, n=1))
    assert letters(made, process) == []
    assert [key.subject for key in process.table.partials] == [subject]


def test_a_large_event_that_is_good_is_counted() -> None:
    made, process = world()
    made.use(usage("1", n=1, text="x" * 1_000_000))
    assert letters(made, process) == []
    assert process.table.ledger.counted == 1


@pytest.mark.parametrize("size", [44_999, 45_000, 45_001, 64_000, 90_001, 1_000_000])
def test_a_large_dead_letter_travels_in_parts_that_join_to_the_original_bytes(size: int) -> None:
    made, process = world()
    head = orjson.dumps(usage("1", text="") | {"subject": "x"})
    value = head.replace(
        b'"text":""', b'"text":"' + bytes(32 + number % 2 for number in range(size - len(head))) + b'"'
    )
    value = value.replace(b'"!', b'" ')
    made.use(value)
    assert len(value) == size
    parts = letters(made, process)
    assert original(parts) == value
    assert {(part["reason"], part["offset"], part["index"]) for part in parts} == {("invalid", 0, 0)}


@pytest.mark.parametrize("text", ["x" * 5000, "\x01" * 5000, "\U0001f600" * 5000, '"\\' * 2500])
def test_a_dead_letter_with_large_attributes_stays_within_64_kb(text: str) -> None:
    """Control characters take six bytes each in JSON, and every attribute is repeated for whoever reads the letter."""
    made, process = world()
    event = bad(id=text, source=text, subject=text, data={"n": text, "more": "y" * 100_000})
    made.use(event)
    assert original(letters(made, process)) == orjson.dumps(event)


@pytest.mark.parametrize("data", [b"[]", b"[1", b"[1]", b" [", b"[{}]", b"5", b"{", b""])
def test_bad_data_in_binary_mode_is_a_dead_letter_of_the_whole_value(data: bytes) -> None:
    """The value is the data there, and no envelope, though it may look like one."""
    made, process = world()
    names = {
        "specversion": b"1.0",
        "id": b"1",
        "source": b"s",
        "type": b"use",
        "subject": b"a",
        "time": b"2026-01-01T12:00:00Z",
    }
    headers = [(f"ce_{name}", value) for name, value in names.items()]
    made.logs[USAGE, 0].append(data, b"k", NOON, headers)
    (letter,) = letters(made, process)
    assert (letter["reason"], letter["index"], original([letter])) == ("invalid", 0, data)


def test_an_envelope_full_of_bad_events_is_as_many_dead_letters() -> None:
    made, process = world()
    events = [orjson.dumps(bad(id=str(number), time="no")) for number in range(3000)]
    made.use(*events)
    assert [original([letter]) for letter in letters(made, process)] == events


@pytest.mark.parametrize(
    ("before", "after", "counted"), [(b" [", b"]", 2), (b"\n[", b"]\n", 2), (b"[[", b"]]", 0), (b"[", b",[]]", 2)]
)
def test_white_space_around_an_envelope_costs_nothing_and_one_in_another_is_a_dead_letter(
    before: bytes, after: bytes, counted: int
) -> None:
    made, process = world()
    made.use(before + b",".join(orjson.dumps(usage(name, n=1)) for name in "ab") + after)
    found = letters(made, process)
    assert process.table.ledger.counted == counted
    assert [letter["reason"] for letter in found] == ["malformed"] * (b"[[" in before or b"[]" in after)


@pytest.mark.parametrize("first", ["1969-12-31T23:59:59-01:00", "9999-12-31T00:30:00+01:00"])
def test_a_time_is_judged_by_itself_and_not_by_what_was_read_before(first: str) -> None:
    """A moment that is valid in its zone and is none in UTC: were it remembered, a restart would change a fate."""
    made, process = world()
    made.use(usage("a", first, n=1), at_ms=NOON)
    made.use(usage("b", f"{first[:19]}Z", n=1), at_ms=NOON)
    found = letters(made, process)
    assert [letter["reason"] for letter in found if letter["offset"] == 1] == ["invalid"]
    process.checkpoint()
    assert MeteringProcess(made).table.ledger == process.table.ledger


@pytest.mark.parametrize("at_ms", [10**15, (1 << 62), (1 << 63) - 1])
def test_a_record_stamped_beyond_all_time_counts(at_ms: int) -> None:
    """Where producers stamp their records, they may stamp them with anything."""
    made, process = world()
    made.use(usage("a", n=1), at_ms=at_ms)
    assert letters(made, process) == []
    assert process.table.ledger.counted == 1


@pytest.mark.parametrize("number", [f"0.{'0' * 600}{'1' * 10_001}", f"1.{'1' * 10_001}e600"])
@pytest.mark.parametrize(
    "of", [meter("users", "unique_count", value="/n"), meter("calls", "count", group_by={"number": "/n"})]
)
def test_a_number_of_too_many_digits_is_invalid_to_whoever_reads_it(of: dict[str, Any], number: str) -> None:
    made = World(definitions({"meters": [of]}))
    process = MeteringProcess(made)
    made.use(orjson.dumps(usage("a", n=orjson.Fragment(number.encode()))))
    (letter,) = letters(made, process)
    assert letter["reason"] == "invalid" and "expected a number of at most 10000 digits" in letter["detail"]


def test_half_a_million_dead_letters_leave_a_few_thousand_at_a_time() -> None:
    """All of them at once would take gigabytes, for a megabyte that somebody sent."""
    made, process = world()
    for _ in range(2):
        made.use(b"[" + b"1," * 9_999 + b"1]", at_ms=NOON)
    process.read()
    sizes: list[int] = []
    made.fault = lambda effect: sizes.append(len(effect.records)) if isinstance(effect, Produce) else None
    process.emit()
    assert max(sizes) <= LETTERS_AT_ONCE and sum(sizes) >= 20_000
    found = made.dead_letters()
    assert [(letter["offset"], letter["index"]) for letter in found] == [
        (offset, index) for offset in range(2) for index in range(10_000)
    ]


def test_unknown_types_are_tallied_and_nothing_else_of_them_is_looked_at() -> None:
    made, process = world()
    made.use(usage("1", type="unheard.of", time_ms="no time at all"), usage("2", type="meterline.definitions"))
    assert letters(made, process) == []
    assert (process.table.ledger.read, process.table.ledger.unmatched) == (2, 2)


def as_json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return b"null"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
attribute = (
    st.sampled_from(["use", "seen", "call", "meterline.tick", "1.0", "a", "", "2026-01-01T12:00:00Z"]) | json_values
)
almost_events = st.fixed_dictionaries(
    {},
    optional={
        "specversion": st.just("1.0") | attribute,
        "id": st.text(max_size=5) | attribute,
        "source": st.just("s") | attribute,
        "type": attribute,
        "subject": attribute,
        "time": st.datetimes().map(lambda time: time.isoformat() + "Z") | attribute,
        "data": st.dictionaries(st.sampled_from(["n", "user", "model"]), json_values, max_size=3) | json_values,
        "data_base64": attribute,
    },
)


good_events = st.builds(lambda number, n: usage(f"e{number}", n=n), st.integers(0, 3), st.integers(0, 9))
good_records = st.tuples(
    st.sampled_from(["", " ", "\n", "\t\r\n"]),
    st.recursive(good_events, lambda inner: st.lists(inner, max_size=3), max_leaves=5).map(as_json),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60)
        | (json_values | almost_events | st.lists(almost_events | json_values, max_size=4)).map(as_json)
        | good_records.map(lambda record: record[0].encode() + record[1] + record[0].encode()),
        max_size=6,
    ),
    st.integers(-1, 4_000_000_000_000) | st.integers(-(1 << 63), (1 << 63) - 1),
)
@example([b" [" + as_json(usage("a", n=1)) + b"]"], NOON)
@example([b"[[" + as_json(usage("a", n=1)) + b"]]"], NOON)
@example([b"tokens=5"], (1 << 63) - 1)
@example([b"tokens=5"], -(1 << 63))
@example(
    [b'{"specversion":"1.0","id":"1","source":"s","type":"meterline.tick","time":"0001-01-01T00:00:00+23:59"}'], NOON
)
def test_no_record_whatever_stops_a_partition(values: list[bytes], at_ms: int) -> None:
    made, process = world()
    for value in values:
        made.logs[USAGE, 0].append(value, None, at_ms)
    found = letters(made, process)
    process.checkpoint()
    counts = process.table.ledger
    assert (
        counts.balanced and len({letter["offset"] * 1000 + letter["index"] for letter in found}) == counts.dead_lettered
    )
    assert MeteringProcess(made).table.ledger == counts


def test_a_dead_letter_written_twice_has_one_identity() -> None:
    made, process = world()
    made.use(b"bad")
    first = letters(made, process)
    again = MeteringProcess(made)
    assert letters(made, again) == first * 2
    assert {record.key for record in made.logs[DEAD, 0].records} == {b"usage/0/0/0"}


def test_too_old_is_too_late() -> None:
    made, process = world()
    made.use(usage("now", n=1))
    made.use(usage("old", NOON - 24 * 60 * MINUTE - 1, n=1))
    made.use(usage("just in time", NOON - 24 * 60 * MINUTE, n=1))
    (letter,) = letters(made, process)
    assert (letter["reason"], letter["offset"], letter["event_id"]) == ("too_late", 1, "old")
