"""An event on the wire: fixed order, exact time, and meterline reads every envelope at once, on its fast path."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterline_client import EventRefused, Producer
from meterline_client.events import Stamps, milliseconds
from meterline_client.hashing import partition_for
from schemas import events as wire
from schemas import hashing
from schemas.events import RawEvent, decode
from schemas.plain import decode_plain
from schemas.times import format_rfc3339
from tests.client.doubles import NOON_MS, SOURCE, TYPE, ManualClock, Recorder

NAME = st.from_regex(r"\A\w[\w/:.@ -]{0,39}\Z").filter(lambda name: " :" not in name)
"""Subjects and types as people choose them. White space or a control character before a colon needs decode's second step."""
WORD = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters='"\\:'), max_size=20)


class Odd(Enum):
    """orjson writes the value."""

    NAN = float("nan")


NUMBER = st.decimals(allow_nan=False, allow_infinity=False, places=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


async def envelope(*events: tuple[str, str, Any], id: str | None = None) -> bytes:
    recorder = Recorder(partitions=1)
    async with Producer(recorder, SOURCE, run="run0run0", clock=ManualClock()) as producer:
        for type, subject, data in events:
            producer.try_send(type, subject, data, id=id)
    (value,) = recorder.records[0]
    return value


async def test_the_attributes_stand_in_a_fixed_order_in_compact_json() -> None:
    assert await envelope((TYPE, "acme", {"n": Decimal("1.50")})) == (
        b'[{"specversion":"1.0","id":"run0run0-0-1","source":"//tests.meterline/client","type":"sample.request",'
        b'"subject":"acme","time":"2026-01-31T12:00:00.123Z","data":{"n":"1.50"}}]'
    )


async def test_an_id_of_the_callers_own_is_kept() -> None:
    (event,) = json.loads(await envelope((TYPE, "acme", 1), id='order "7"'))
    assert event["id"] == 'order "7"'


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def extended(extensions: dict[str, Any]) -> bytes:
    recorder = Recorder(partitions=1)
    async with Producer(recorder, SOURCE, run="run0run0", clock=ManualClock()) as producer:
        await producer.send(TYPE, "acme", {"n": 1}, extensions=extensions)
    (value,) = recorder.records[0]
    return value


async def test_extension_attributes_stand_between_time_and_data() -> None:
    value = await extended({"traceparent": TRACE, "priority": 7, "sampled": True})
    assert value.endswith(
        b'"time":"2026-01-31T12:00:00.123Z","traceparent":"%b","priority":7,"sampled":true,"data":{"n":1}}]'
        % TRACE.encode()
    )
    (event,) = decode(value)
    assert isinstance(event, RawEvent) and (event.id, bytes(event.data)) == ("run0run0-0-1", b'{"n":1}')


@pytest.mark.parametrize("name", ["", "Trace", "trace-parent", "trace_parent", "a" * 21, "über", 7])
async def test_a_name_that_cloudevents_does_not_have_is_refused(name: Any) -> None:
    with pytest.raises(EventRefused, match="cannot be the name of an extension attribute -> 1 to 20 lower-case"):
        await extended({name: "x"})


@pytest.mark.parametrize("name", ["id", "source", "type", "time", "data", "specversion", "subject", "dataschema"])
async def test_an_extension_is_no_second_attribute_of_cloudevents_own(name: str) -> None:
    with pytest.raises(EventRefused, match="is an attribute of CloudEvents itself"):
        await extended({name: "x"})


@pytest.mark.parametrize("value", [None, 1.5, 2**31, -(2**31) - 1, {"a": 1}, b"x", "line\nbreak", "\ud800"])
async def test_a_value_that_cloudevents_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(EventRefused, match="the extension attribute 'trace' cannot be"):
        await extended({"trace": value})


@given(
    st.dictionaries(st.from_regex(r"\A(x|ce)[a-z0-9]{0,10}\Z"), st.text() | st.booleans() | st.integers(), max_size=4)
)
def test_extensions_are_what_json_reads_back_or_refused(extensions: dict[str, Any]) -> None:
    try:
        value = asyncio.run(extended(extensions))
    except EventRefused:
        return
    (event,) = json.loads(value)
    assert {name: event[name] for name in extensions} == extensions


@given(st.lists(st.tuples(NAME, NAME, JSON), min_size=1, max_size=8))
def test_meterline_reads_every_envelope_whole_on_its_fast_path(events: list[tuple[str, str, Any]]) -> None:
    value = asyncio.run(envelope(*events))
    slow = pytest.MonkeyPatch()
    slow.setattr(wire, "_decode_each", lambda value: pytest.fail(f"the slow path was needed for {value!r}"))
    try:
        decoded = decode(value)
    finally:
        slow.undo()
    found = [(e.type, e.subject, json.loads(bytes(e.data))) for e in decoded if isinstance(e, RawEvent)]
    assert found == events
    assert [e.id for e in decoded if isinstance(e, RawEvent)] == [f"run0run0-0-{n}" for n in range(1, len(events) + 1)]


@given(
    st.lists(
        st.tuples(NAME, NAME, st.dictionaries(WORD, WORD | st.integers(-(2**63), 2**63) | NUMBER)),
        min_size=1,
        max_size=8,
    )
)
def test_usual_usage_is_plain_so_that_meterline_reads_it_as_columns(events: list[tuple[str, str, Any]]) -> None:
    value = asyncio.run(envelope(*events))
    plain, odd = decode_plain([value])
    assert odd == []
    assert [(e.type, e.subject, e.data) for e in plain.events] == [
        (type, subject, {key: format(v, "f") if isinstance(v, Decimal) else v for key, v in data.items()})
        for type, subject, data in events
    ]
    assert [len(e.time) for e in plain.events] == [24] * len(events)


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_has_24_characters_and_is_meterlines_own(ms: int) -> None:
    text = Stamps().text(ms).decode()
    assert len(text) == 24
    assert text == format_rfc3339(ms) or format_rfc3339(ms) == text.replace(".000Z", "Z")
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def test_a_time_with_a_zone_is_exact_and_one_without_is_refused() -> None:
    noon = datetime(2026, 1, 31, 14, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=2)))
    assert milliseconds(noon) == NOON_MS
    with pytest.raises(EventRefused, match="no time zone"):
        milliseconds(noon.replace(tzinfo=None))


@given(st.binary(max_size=64), st.integers(1, 2000))
def test_the_partition_is_the_one_that_meterline_and_kafka_take(key: bytes, partitions: int) -> None:
    assert partition_for(key, partitions) == (hashing.murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(
    ("type", "subject", "data", "said"),
    [
        (TYPE, "", 1, "1 to 512 bytes"),
        (TYPE, "é" * 257, 1, "found 514"),
        (TYPE, "\ud800", 1, "no valid text"),
        ("", "acme", 1, "cannot be the type"),
        ("meterline.tick", "acme", 1, "reserved"),
        (TYPE, "acme", {1, 2}, "no JSON"),
        (TYPE, "acme", Decimal("NaN"), "no JSON"),
        (TYPE, "acme", {"n": float("nan"), "m": None}, "no NaN"),
        (TYPE, "acme", {"n": Odd.NAN}, "no NaN"),
        (TYPE, "acme", {"deep": [1, ({"n": -float("inf")},)]}, "no NaN"),
    ],
)
async def test_what_could_never_be_counted_is_refused_at_once(type: str, subject: str, data: Any, said: str) -> None:
    recorder = Recorder()
    async with Producer(recorder, SOURCE) as producer:
        with pytest.raises(EventRefused, match=said):
            await producer.send(type, subject, data)
        assert producer.ledger().accepted == 0
        sent = await producer.send(TYPE, "acme", 1)
        assert sent.event_id.endswith("-1"), "a refused event takes no id"
