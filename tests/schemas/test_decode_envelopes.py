"""A record is events: one, or an envelope of them, and one bad event costs only itself (design §4)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import MAX_ELEMENTS, Malformed, RawEvent, decode, envelope
from schemas.refusals import MAX_DEPTH
from tests.schemas.samples import EVENT, an_event, event_bytes, one

GOOD = event_bytes()
DEEP = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

BAD_ELEMENTS = {
    "a number": b"5",
    "null": b"null",
    "a text": b'"x"',
    "an array": b"[]",
    "an array of events": b"[" + GOOD + b"]",
    "an empty object": b"{}",
    "an id that is a number": event_bytes(id=5),
    "an empty id": event_bytes(id=""),
    "an empty source": event_bytes(source=""),
    "no type": event_bytes(type=...),
    "another specversion": event_bytes(specversion="0.3"),
    "a subject that is a number": event_bytes(subject=7),
    "NaN": GOOD.replace(b":12,", b":NaN,"),
    "a literal that is none": GOOD.replace(b":12,", b":twelve,"),
    "a number with a zero in front": GOOD.replace(b":12,", b":012,"),
    "a lone surrogate": GOOD.replace(b"contoso", rb"con\ud800toso"),
    "a lone surrogate in the data": GOOD.replace(b"gpt-4o", rb"gpt\udfff"),
    "a byte that is not UTF-8": GOOD.replace(b"contoso", b"con\xfftoso"),
    "a byte in the data that is not UTF-8": GOOD.replace(b"gpt-4o", b"gpt\xc3("),
    "a surrogate in UTF-8": GOOD.replace(b"gpt-4o", b"\xed\xa0\x80"),
    "an id twice": GOOD.replace(b'"id":', b'"id":"e-0","id":'),
    "data twice": GOOD.replace(b'"data":', b'"data":{"tokens":1},"data":'),
    "too deep": GOOD.replace(b":12,", b":" + DEEP + b","),
    "far too deep": GOOD.replace(b":12,", b":" + b"[" * 100_000 + b"]" * 100_000 + b","),
    "nothing": b"",
}


@pytest.mark.parametrize("bad", BAD_ELEMENTS.values(), ids=BAD_ELEMENTS.keys())
@pytest.mark.parametrize("place", [0, 250, 500])
@pytest.mark.parametrize("separator", [b",", b" ,\n  "], ids=["dense", "spaced"])
def test_one_bad_event_among_five_hundred_costs_only_itself(bad: bytes, place: int, separator: bytes) -> None:
    elements = [event_bytes(id=f"e-{number}") for number in range(500)]
    elements.insert(place, bad)
    value = b"[" + separator.join(elements) + b"]"
    events = decode(value)
    assert len(events) == 501
    assert [event.index for event in events] == list(range(501))
    assert [event.raw for event in events] == elements
    malformed = [event for event in events if isinstance(event, Malformed)]
    assert [event.index for event in malformed] == [place]
    assert "expected" in malformed[0].reason
    good = [event for event in events if isinstance(event, RawEvent)]
    assert [event.id for event in good] == [f"e-{number}" for number in range(500)]


def test_several_bad_events_are_each_their_own() -> None:
    elements = [GOOD, b"1", GOOD, b"{}", BAD_ELEMENTS["NaN"], GOOD]
    events = decode(b"[" + b",".join(elements) + b"]")
    assert [isinstance(event, Malformed) for event in events] == [False, True, False, True, True, False]
    assert [event.raw for event in events] == elements


@pytest.mark.parametrize("value", [b"[]", b"[ ]", b" [\n] "])
def test_an_empty_envelope_is_one_malformed_event(value: bytes) -> None:
    assert decode(value) == [Malformed(0, value, "found an empty envelope, expected at least one CloudEvent")]


@pytest.mark.parametrize(
    "value",
    [
        b"[" + GOOD,
        b"[" + GOOD + b",",
        b"[" + GOOD + b"}]",
        b"[" + GOOD + b"]]",
        b"[" + GOOD + b"] x",
        b"[" + GOOD + b"}",
        b"[" + GOOD[:-20] + b"," + GOOD + b"]",
        b'["' + GOOD + b"]",
        b"[" * 200_000,
    ],
)
def test_an_envelope_whose_events_have_no_clear_ends_is_one_malformed_event(value: bytes) -> None:
    (event,) = decode(value)
    assert isinstance(event, Malformed)
    assert event.raw == value
    assert event.reason.startswith("found bytes that are not JSON (")


def test_an_envelope_of_more_elements_than_any_record_holds_is_one_malformed_event() -> None:
    assert len(decode(b"[" + b",".join([GOOD] * MAX_ELEMENTS) + b"]")) == MAX_ELEMENTS
    for element in (GOOD, b"1"):
        (event,) = decode(b"[" + b",".join([element] * (MAX_ELEMENTS + 1)) + b"]")
        assert isinstance(event, Malformed)
        assert event.reason == "found an envelope of 20001 elements, expected at most 20000"


def test_a_large_event_is_an_event() -> None:
    event = one(event_bytes(data={"tokens": 1, "text": "x" * 1_000_000}))
    assert len(event.raw) > 1_000_000
    (again,) = decode(b"[" + event.raw + b"]")
    assert again.raw == event.raw


def test_the_deepest_event_that_is_allowed_is_an_event() -> None:
    inner = MAX_DEPTH - 2  # the event and its data are two levels
    assert one(GOOD.replace(b":12,", b":" + b"[" * inner + b"]" * inner + b",")).subject == "contoso"
    brackets = one(event_bytes(data={"tokens": 1, "text": "[{" * 1000}))
    assert brackets.subject == "contoso", "brackets in a text are no levels"


@pytest.mark.parametrize("name", ["datacontenttype", "dataschema", "traceparent", "partitionkey", "index", "record"])
def test_attributes_it_does_not_need_are_ignored(name: str) -> None:
    value = envelope([an_event(**{name: "x"}), an_event(id="e-2", **{name: 'a "text": with quotes'})])
    first, second = decode(value)
    assert isinstance(first, RawEvent)
    assert isinstance(second, RawEvent)
    assert (first.id, second.id, second.index, second.record) == ("e-1", "e-2", 1, value)


def test_an_envelope_in_which_every_event_names_its_content_type_is_read_at_once() -> None:
    written = [an_event(id=f"e-{number}", datacontenttype="application/json") for number in range(3)]
    events = decode(orjson.dumps(written))
    assert [event.id for event in events if isinstance(event, RawEvent)] == ["e-0", "e-1", "e-2"]
    (base64,) = decode(orjson.dumps([an_event(data=..., data_base64="e30=")]))
    assert isinstance(base64, RawEvent) and base64.data_base64 == "e30="
    twice = orjson.dumps(written).replace(b'"e-1",', b'"e-1","datacontenttype":"text/plain",')
    assert [type(event) for event in decode(twice)] == [RawEvent, Malformed, RawEvent]


def test_an_event_cannot_say_where_it_came_from() -> None:
    event = one(event_bytes(**{"$index": 7, "$record": "forged"}))
    assert event.index == 0
    assert event.raw == event.record == event_bytes(**{"$index": 7, "$record": "forged"})


def test_null_attributes_are_absent_as_cloudevents_has_it() -> None:
    event = one(event_bytes(subject=None, time=None, datacontenttype=None))
    assert event.subject is None
    assert event.time is None


def test_an_envelope_that_was_written_reads_back() -> None:
    written = [an_event(id=str(number)) for number in range(3)]
    events = decode(envelope(written))
    assert [orjson.loads(event.raw) for event in events] == written


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
NAMES = st.sampled_from([*EVENT, "data_base64", "datacontenttype", "traceparent", "ext"])
ATTRIBUTE = st.tuples(NAMES, st.one_of(TEXTS, SCALARS, JSON))
REQUIRED = [(name, EVENT[name]) for name in ("specversion", "id", "source", "type")]
ELEMENTS = st.one_of(
    JSON.map(lambda value: ("json", value)),
    st.lists(ATTRIBUTE, max_size=4).map(lambda extra: ("event", [*REQUIRED, *extra])),
    st.permutations([*EVENT.items(), ("traceparent", "00-ab")]).map(lambda pairs: ("event", pairs)),
)
STYLES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : "), (",\t", " :")])


def _written(element: tuple[str, Any], style: tuple[str, str], ascii_only: bool) -> str:
    kind, content = element
    if kind == "json":
        return json.dumps(content, separators=style, ensure_ascii=ascii_only)
    comma, colon = style
    pairs = [
        json.dumps(name) + colon + json.dumps(value, separators=style, ensure_ascii=ascii_only)
        for name, value in content
    ]
    return "{" + comma.join(pairs) + "}"


def _is_event(text: str) -> bool:
    """The rules once more, on Python's own JSON."""
    pairs = json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs))
    if not isinstance(pairs, tuple):
        return False
    names = [name for name, _ in pairs[1]]
    read = [*EVENT, "data_base64", "datacontenttype"]
    if any(names.count(name) > 1 for name in read):
        return False
    event = dict(pairs[1])
    required = all(isinstance(event.get(name), str) and event[name] for name in ("id", "source", "type"))
    optional = ("subject", "time", "data_base64", "datacontenttype")
    texts = all(event.get(name) is None or isinstance(event[name], str) for name in optional)
    return required and texts and event.get("specversion") == "1.0"


@given(st.lists(ELEMENTS, min_size=1, max_size=8), STYLES, st.booleans())
def test_it_decides_as_the_rules_say_however_the_json_is_written(
    elements: list[tuple[str, Any]], style: tuple[str, str], ascii_only: bool
) -> None:
    texts = [_written(element, style, ascii_only) for element in elements]
    events = decode(("[" + style[0].join(texts) + "]").encode())
    assert [isinstance(event, RawEvent) for event in events] == [_is_event(text) for text in texts]
    assert [event.raw for event in events] == [text.encode() for text in texts]
    assert [event.index for event in events] == list(range(len(texts)))
    for text, event in zip(texts, events, strict=True):
        (alone,) = decode(text.encode()) if not text.startswith("[") else (event,)
        assert type(alone) is type(event), "an event has the same fate alone and in an envelope"
        if isinstance(event, RawEvent) and isinstance(alone, RawEvent):
            written = json.loads(text)
            assert (event.id, event.source, event.type) == (written["id"], written["source"], written["type"])
            assert (event.subject, event.time) == (written.get("subject"), written.get("time"))
            assert json.loads(bytes(event.data) or b"null") == written.get("data")
            assert bytes(alone.data) == bytes(event.data)


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='{}[]",:\\ua0 1', max_size=60).map(str.encode)))
def test_no_bytes_make_it_raise_and_none_are_lost(value: bytes) -> None:
    events = decode(value)
    assert events
    assert [event.index for event in events] == list(range(len(events)))
    for event in events:
        assert event.raw in value
        assert isinstance(event, RawEvent) or "found" in event.reason


@given(st.data())
def test_damage_to_an_envelope_never_makes_it_raise(data: st.DataObject) -> None:
    value = bytearray(envelope([an_event(id=str(number)) for number in range(3)]))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    events = decode(bytes(value))
    assert len(events) >= 1
    assert all(event.raw in value for event in events)
