"""Plain events, many at once: what nearly every record of a fetched batch holds, decoded in one go.

A plain event is a CloudEvent in structured JSON of the usual attributes whose data, if any, is an object. Records of one
event each are joined by newlines and decoded as lines, an envelope as an array; then a few counts over all the bytes prove
what decoders pass over in silence (`schemas/events.py` says what that is). What is not proven is no worse than slow: it is
decoded record by record there, and comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from schemas.events import MAX_ELEMENTS, EventVersion, Text
from schemas.refusals import MAX_DEPTH

CHUNK = 16
"""Where lines cannot be decoded together, so many are tried together, so that one odd event costs its neighbours little."""


class PlainEvent(msgspec.Struct, gc=False):
    """As `schemas.events.RawEvent`, its data decoded: ints are ints, other numbers the bytes that were written."""

    id: Text
    source: Text
    type: Text
    specversion: EventVersion
    subject: Text
    time: str
    data: dict[str, Any] | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET


class Plain(NamedTuple):
    """Plain events and where each stands: the number of its record in the batch, and its place in the envelope."""

    events: list[PlainEvent]
    records: list[int]
    indexes: list[int]


_line = msgspec.json.Decoder(PlainEvent, float_hook=str.encode)
_array = msgspec.json.Decoder(list[PlainEvent], float_hook=str.encode)
_FAILURES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ATTRIBUTES = 6
_LINE_BREAK, _SPACE, _QUOTE, _COLON, _BRACKET, _OPEN, _CLOSE = b'\n ":[{}'
Letters = npt.NDArray[np.uint8]


def decode_plain(values: Sequence[bytes | None], plain: Sequence[bool] | None = None) -> tuple[Plain, list[int]]:
    """The plain events of records' values, in order, and the numbers of the records that need a closer look.

    plain: False for values that are not to be tried, those with headers of binary mode.
    """
    if plain is None:
        events = _lines(values)
        if events is not None:
            return Plain(events, list(range(len(events))), [0] * len(events)), []
    singles: list[int] = []
    odd: list[int] = []
    found: dict[int, list[PlainEvent]] = {}
    for number, value in enumerate(values):
        first = value[:1] if value is not None and (plain is None or plain[number]) else b""
        if first == b"{":
            singles.append(number)
        elif first == b"[":
            held = _envelope(value)  # type: ignore[arg-type]
            if held is None:
                odd.append(number)
            else:
                found[number] = held
        else:
            odd.append(number)
    size = len(singles)
    if plain is None and size == len(values):  # all of them together were tried
        size = CHUNK if size > 1 else 0
    odd += _piecewise(values, singles, found, size)
    return _in_order(found), sorted(odd)


def _in_order(found: dict[int, list[PlainEvent]]) -> Plain:
    whole = Plain([], [], [])
    for number in sorted(found):
        events = found[number]
        whole.events.extend(events)
        whole.records.extend([number] * len(events))
        whole.indexes.extend(range(len(events)))
    return whole


def _piecewise(
    values: Sequence[bytes | None], singles: list[int], found: dict[int, list[PlainEvent]], size: int
) -> Iterator[int]:
    """Puts into `found` what is plain, so many at once and then by the chunk, and gives the numbers of the rest."""
    while size:
        rest: list[int] = []
        for at in range(0, len(singles), size):
            numbers = singles[at : at + size]
            events = _lines([values[number] for number in numbers])
            if events is None:
                rest += numbers
            else:
                found.update((number, [event]) for number, event in zip(numbers, events, strict=True))
        singles, size = rest, CHUNK if size > CHUNK else 0
    yield from singles


def _lines(values: Sequence[bytes | None]) -> list[PlainEvent] | None:
    """The events of values of one event each; None where any of them is not proven plain."""
    try:
        text = b"\n".join(values)  # type: ignore[arg-type]
    except TypeError:
        return None
    letters = np.frombuffer(text, np.uint8)
    breaks = np.flatnonzero(letters == _LINE_BREAK)
    # Where one line ends with a brace and the next begins with one, no value goes on from line to line.
    if (
        len(breaks) != len(values) - 1
        or text[:1] != b"{"
        or text[-1:] != b"}"
        or not (letters[breaks - 1] == _CLOSE).all()
        or not (letters[breaks + 1] == _OPEN).all()
    ):
        return None
    try:
        events = _line.decode_lines(text)
    except _FAILURES:
        return None
    # As many values as lines, and at least one on each.
    return events if len(events) == len(values) and _proven(text, letters, events, 0) else None


def _envelope(value: bytes) -> list[PlainEvent] | None:
    try:
        events = _array.decode(value)
    except _FAILURES:
        return None
    if not 0 < len(events) <= MAX_ELEMENTS:
        return None
    return events if _proven(value, np.frombuffer(value, np.uint8), events, 1) else None


def _proven(text: bytes, letters: Letters, events: list[PlainEvent], brackets: int) -> bool:
    """Whether no key is there twice, no byte is not UTF-8, and nothing nests too deep.

    Without an escape or white space before a colon, every `":` ends a key. So where there are as many as keys were
    decoded, none was written twice.
    """
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    if b"\\" in text:
        return False
    before, colons = letters[:-1], letters[1:] == _COLON
    if (b" " in text or b"\n" in text or b"\t" in text or b"\r" in text) and (colons & (before <= _SPACE)).any():
        return False
    held = [event.data for event in events]
    keys = _ATTRIBUTES * len(events) + sum([event.datacontenttype is not UNSET for event in events])
    if UNSET in held:
        held = [data for data in held if data is not UNSET]
    keys += len(held) + sum(map(len, held))  # type: ignore[arg-type]
    opened = np.count_nonzero(letters == _OPEN) - len(events) - len(held)
    opened += np.count_nonzero(letters == _BRACKET) - brackets
    if opened:  # objects or lists within the data, or a text with such a bracket
        if opened >= MAX_DEPTH - 2:
            return False
        keys += sum([_keys_within(data) for data in held])
    return int(np.count_nonzero(colons & (before == _QUOTE))) == keys


def _keys_within(value: Any) -> int:
    """How many keys the objects within an object or a list have."""
    inside: int = 0
    for item in value.values() if type(value) is dict else value:
        if type(item) is dict:
            inside += len(item) + _keys_within(item)
        elif type(item) is list:
            inside += _keys_within(item)
    return inside
