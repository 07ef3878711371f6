"""Decoded together or one by one: a plain event is the same, and nothing that is not proven is taken for one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
import pytest

from schemas.events import Malformed, decode, is_binary
from schemas.plain import decode_plain
from tests.schemas.samples import event_bytes

PLAIN = event_bytes()
HEAD = PLAIN[:-1]


def data(text: str) -> bytes:
    """An event with this text as its data."""
    return event_bytes(data=orjson.Fragment(text.encode()))


ODD = {
    "a tombstone": None,
    "nothing": b"",
    "an empty envelope": b"[]",
    "no JSON": b"{",
    "two values": PLAIN + PLAIN,
    "two values with a comma": PLAIN + b"," + PLAIN,
    "a line break between": PLAIN + b"\n" + PLAIN,
    "a line break inside": PLAIN.replace(b'","', b'",\n"', 1),
    "white space before a colon": PLAIN.replace(b'":', b'" :', 1),
    "white space behind": PLAIN + b" ",
    "an attribute twice": HEAD + b',"id":"other"}',
    "an attribute twice, once in disguise": HEAD + b',"\\u0069d":"other"}',
    "data twice": HEAD + b',"data":{}}',
    "a key of data twice": data('{"tokens":1,"tokens":2}'),
    "a key twice further in": data('{"tokens":1,"more":{"a":1,"a":2}}'),
    "a key twice in a list": data('{"tokens":1,"more":[{"a":1,"a":2}]}'),
    "bytes that are no UTF-8": PLAIN.replace(b"contoso", b"con\xff\xfetoso"),
    "data too deep": data('{"a":' + "[" * 200 + "]" * 200 + "}"),
    "data in base64": HEAD + b',"data_base64":"e30="}',
    "an extension": HEAD + b',"traceparent":"00"}',
    "null for data": event_bytes(data=None),
    "a list for data": data("[1]"),
    "no subject": event_bytes(subject=...),
    "an empty id": event_bytes(id=""),
    "another specversion": event_bytes(specversion="0.3"),
    "an escape": event_bytes(subject='a "b"'),
}
TAKEN = {
    "plain": PLAIN,
    "an envelope": b"[" + PLAIN + b"," + event_bytes(id="2") + b"]",
    "white space behind colons": PLAIN.replace(b'":', b'": '),
    "letters beyond ASCII": event_bytes(subject="grün & söhne"),
    "a content type": event_bytes(datacontenttype="application/json"),
    "no data": event_bytes(data=...),
    "objects and lists within": data('{"tokens":1,"more":{"a":[1,{"b":2}]},"list":[[],[{"c":{}}]]}'),
    "texts with brackets and colons": data('{"tokens":1,"text":"{[:,:]}"}'),
    "a number that no Decimal holds": data('{"tokens":1e99999999999999999999}'),
    "numbers of all kinds": data('{"a":1,"b":1.50,"c":-0.0,"d":1E2,"e":12345678901234567890123,"f":true,"g":null}'),
}


def agree(values: Sequence[bytes | None]) -> list[int]:
    """Everything that was taken is what `decode` makes of its record. The numbers of those that were not."""
    plain, odd = decode_plain(values)
    taken: dict[int, list[Any]] = {}
    for event, number, index in zip(plain.events, plain.records, plain.indexes, strict=True):
        assert index == len(taken.setdefault(number, []))
        taken[number].append(event)
    assert sorted([*taken, *odd]) == list(range(len(values)))
    for number, events in taken.items():
        exact = decode(values[number])
        assert len(exact) == len(events)
        for one, other in zip(events, exact, strict=True):
            assert not isinstance(other, Malformed), other
            assert (one.id, one.source, one.type, one.subject, one.time) == (
                other.id, other.source, other.type, other.subject, other.time,
            )  # fmt: skip
            held = {} if one.data is msgspec.UNSET else one.data
            assert held == (msgspec.json.Decoder(float_hook=str.encode).decode(other.data) if other.data else {})
    return odd


@pytest.mark.parametrize("value", TAKEN.values(), ids=TAKEN)
def test_what_is_plain_is_taken(value: bytes) -> None:
    assert agree([value]) == []
    assert agree([PLAIN, value, PLAIN]) == []


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_what_is_not_is_left_and_costs_its_neighbours_nothing(value: bytes | None) -> None:
    assert agree([value]) == [0]
    assert agree([PLAIN] * 40 + [value] + [PLAIN] * 40)[:1] <= [40]
    assert 40 in agree([PLAIN] * 40 + [value] + [PLAIN] * 40)


def test_one_odd_record_sends_no_more_than_its_chunk_the_long_way() -> None:
    assert len(agree([PLAIN] * 500 + [b"{"] + [PLAIN] * 500)) <= 16


def test_a_value_that_goes_on_in_the_next_record_is_never_put_together() -> None:
    """Three records, three values, and not one to each."""
    assert agree([HEAD + b',"data":', b"{}}", PLAIN + PLAIN]) == [0, 1, 2]
    assert agree([b'{"data":[{}', b"{}]}", PLAIN + b" " + PLAIN]) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(60))
def test_any_mixture_of_records_is_what_each_of_them_is(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [*TAKEN.values(), *ODD.values(), b"[" + PLAIN + b"," + HEAD + b"]", b'["no event",' + PLAIN + b"]"]
    agree([PLAIN if rng.random() < 0.6 else rng.choice(kinds) for _ in range(rng.randint(1, 60))])


def test_headers_of_binary_mode_alone_are_looked_at_one_by_one() -> None:
    assert is_binary([("ce_id", b"1")]) and not is_binary([("meterline-routed", b"1")])
    assert decode_plain([PLAIN, PLAIN], [True, False])[1] == [1]
