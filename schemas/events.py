"""Usage events: a Kafka record in, events out, each well formed or refused with its own bytes (design §4, *malformed*).

A record is one CloudEvent 1.0 in structured JSON, a JSON array of them (an envelope), or one in binary mode: `ce_*`
headers, the value is the data. What an event means for the meters is `schemas/reader.py`'s business.

Three steps, each only where the one before could not be sure:

1. the whole record at once, typed, and a few counts over all of it that prove it sound
2. element by element, typed, with an exact look at the bytes of those that counting does not prove sound
3. a search for the elements' ends that needs no valid JSON inside them, so that one bad event costs only itself
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import orjson

from schemas.refusals import MAX_DEPTH, explain, flaw, split_elements
from schemas.times import format_rfc3339

RESERVED_PREFIX = "meterline."
"""Event types that belong to the stream itself; the HTTP API and the meters file refuse them."""
TICK_TYPE = "meterline.tick"
"""The clock as a record: nothing older than its `time` is to be expected on this partition (design §3)."""
DEFINITIONS_TYPE = "meterline.definitions"
"""A change of definitions as a record (design §3)."""
MAX_ELEMENTS = 20_000
"""Elements of one envelope. More do not fit into 1 MB as events, so more are a mistake, and one dead letter (design §6)."""

NO_DATA = msgspec.Raw(b"")
Text = Annotated[str, msgspec.Meta(min_length=1)]
"""A required attribute: never empty."""
EventVersion = Literal["1.0"]


class RawEvent(msgspec.Struct, gc=False):
    """One well-formed CloudEvent, its data not parsed yet. Attributes it does not know (extensions) are ignored.

    subject, time, datacontenttype, data_base64: as written, None where absent or null. data: its JSON as written, empty
    where absent. index: its place in the envelope, 0 for a single event. record: the whole Kafka value it came in.
    """

    id: Text
    source: Text
    type: Text
    specversion: EventVersion
    subject: str | None = None
    time: str | None = None
    data: msgspec.Raw = NO_DATA
    data_base64: str | None = None
    datacontenttype: str | None = None
    # Never from the wire: set after decoding, whatever an event says under these names, which no attribute can have.
    index: Any = msgspec.field(default=0, name="$index")
    record: Any = msgspec.field(default=b"", name="$record")

    @property
    def raw(self) -> bytes:
        """The original bytes of just this event, for a dead letter; cut out of its record only when asked for."""
        record: bytes = self.record
        index: int = self.index
        if record.lstrip()[:1] != b"[" or len(self.data) == len(record):  # in binary mode the record is all data
            return record
        return split_elements(record)[index]


class Malformed(msgspec.Struct, frozen=True):
    """What is no event: its place in the envelope, its own original bytes, and what was found and expected."""

    index: int
    raw: bytes
    reason: str


_ONE = msgspec.json.Decoder(RawEvent)
_MANY = msgspec.json.Decoder(list[RawEvent])
_FAILURES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_REQUIRED = (b'"id"', b'"source"', b'"type"', b'"specversion"')
_OPTIONAL = (b'"subject"', b'"time"', b'"data"', b'"data_base64"', b'"datacontenttype"')
_SHALLOW = 2 * (MAX_DEPTH - 1)
"""Data shorter than this cannot nest too deep: every level takes two bytes, and the event itself is a level."""


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> list[RawEvent | Malformed]:
    """The events of one Kafka record, in order; at least one, whatever the bytes: what is no event is Malformed.

    value: the record's value, None for a tombstone. headers: the record's headers, which decide on binary mode. Never
    raises, and decides by the bytes alone.
    """
    if headers:
        attributes = _binary_attributes(headers)
        if attributes:
            return [_decode_binary(value, attributes)]
    if value is None:
        return [Malformed(0, b"", "found a null value (a tombstone), expected a CloudEvent")]
    try:
        if value[:1] == b"{":
            event = _ONE.decode(value)
            if _proven_one(value, event, value, 0):
                return [event]
            return _decode_each(value)
        events = _MANY.decode(value)
    except _FAILURES:
        return _decode_each(value)
    if not 0 < len(events) <= MAX_ELEMENTS or not _proven(value, events):
        return _decode_each(value)
    return events  # type: ignore[return-value]


def _proven(value: bytes, events: list[RawEvent]) -> bool:
    """Completes the events, and tells whether counting proves them free of what decoders pass over in silence.

    That is: bytes that are not UTF-8 inside of `data`, nesting too deep, and an attribute written twice, of which they
    take the last, and a second `id` or `data` is money. Every key ends in `":`, unless white space comes between; so
    where as many are written outside of `data` as there are attributes, none is written twice. False: not proven.
    """
    optional = 0
    for index, event in enumerate(events):
        event.index = index
        event.record = value
        if event.subject is not None:
            optional += 1
        if event.time is not None:
            optional += 1
        if event.datacontenttype is not None:
            optional += 1
        if event.data_base64 is not None:
            optional += 1
    data = [event.data for event in events]
    sizes = [*map(len, data)]
    if max(sizes) >= _SHALLOW:
        for item in data:
            if len(item) >= _SHALLOW and _opens(bytes(item)) >= MAX_DEPTH:
                return False
    count = len(events)
    return _attributes_once(value, b"".join(data), count, optional + count - sizes.count(0))


def _proven_one(element: bytes, event: RawEvent, record: bytes, index: int) -> bool:
    """The same for one event and its own bytes."""
    event.index = index
    event.record = record
    data = bytes(event.data)
    if len(data) >= _SHALLOW and _opens(data) >= MAX_DEPTH:
        return False
    optional = (
        (event.subject is not None)
        + (event.time is not None)
        + (event.datacontenttype is not None)
        + (event.data_base64 is not None)
        + (data != b"")
    )
    return _attributes_once(element, data, 1, optional)


def _attributes_once(value: bytes, data: bytes, count: int, optional: int) -> bool:
    """`data`: that of all events, joined. `optional`: how many attributes they have besides the required ones."""
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    if b"\n" in value or b"\t" in value or b"\r" in value or (b" " in value and b" :" in value):
        return False
    if value.count(b'":') - data.count(b'":') == len(_REQUIRED) * count + optional:
        return True
    # There are extension attributes, or a text that looks like a key: count key by key.
    if b"\\" in value or _opens(value) - _opens(data) >= count + MAX_DEPTH:
        return False
    if any(value.count(key) - data.count(key) != count for key in _REQUIRED):
        return False
    return sum(value.count(key) - data.count(key) for key in _OPTIONAL) == optional


def _opens(value: bytes) -> int:
    return value.count(b"{") + value.count(b"[")


def _decode_each(value: bytes) -> list[RawEvent | Malformed]:
    if value.lstrip()[:1] != b"[":
        return [_decode_one(value, value, 0)]
    try:
        elements = split_elements(value)
    except ValueError as error:
        return [Malformed(0, value, str(error))]
    if not elements:
        return [Malformed(0, value, "found an empty envelope, expected at least one CloudEvent")]
    if len(elements) > MAX_ELEMENTS:
        found = f"found an envelope of {len(elements)} elements, expected at most {MAX_ELEMENTS}"
        return [Malformed(0, value, found)]
    return [_decode_one(element, value, index) for index, element in enumerate(elements)]


def _decode_one(element: bytes, record: bytes, index: int) -> RawEvent | Malformed:
    try:
        event = _ONE.decode(element)
    except _FAILURES:
        return Malformed(index, element, flaw(element) or explain(element))
    if not _proven_one(element, event, record, index):
        reason = flaw(element)
        if reason:
            return Malformed(index, element, reason)
    return event


def is_binary(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether a record's headers make it one event in binary mode."""
    return bool(headers) and bool(_binary_attributes(headers))


def _binary_attributes(headers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """The `ce_*` headers without their prefix; none where the content type says structured (Kafka binding §3)."""
    attributes = {}
    for name, header in headers:
        lower = name.lower()
        if lower.startswith("ce_") and header is not None:
            attributes[lower[3:]] = header
        elif lower == "content-type" and header is not None and header.startswith(b"application/cloudevents"):
            return {}
    return attributes


def _decode_binary(value: bytes | None, attributes: Mapping[str, bytes]) -> RawEvent | Malformed:
    if value is None:
        return Malformed(0, b"", "found a null value (a tombstone), expected the data of a CloudEvent")
    known = {}
    for name in ("specversion", "id", "source", "type", "subject", "time"):
        if name in attributes:
            try:
                known[name] = _header_text(attributes[name])
            except UnicodeDecodeError:
                return Malformed(0, value, f"found bytes that are not UTF-8 in the header ce_{name}, expected text")
    encoded = orjson.dumps(known)
    try:
        event = _ONE.decode(encoded)
    except _FAILURES:
        return Malformed(0, value, f"{explain(encoded)}, in the headers ce_*")
    event.data = msgspec.Raw(value)
    event.record = value
    return event


def _header_text(header: bytes) -> str:
    """Text of a header. What was sent over AMQP comes with AMQP's type code and length (Event Hubs, protocol exchange)."""
    if header[:1] == b"\xa1" and len(header) >= 2 and len(header) == 2 + header[1]:
        header = header[2:]
    elif header[:1] == b"\xb1" and len(header) == 5 + int.from_bytes(header[1:5], "big"):
        header = header[5:]
    return header.decode()


def envelope(events: Iterable[Mapping[str, object]]) -> bytes:
    """A JSON array of CloudEvents as one record's value."""
    return orjson.dumps(list(events))


def tick(time_ms: int, source: str, id: str) -> bytes:
    """A tick as a record's value: nothing older than `time_ms` is to be expected on this partition (design §3)."""
    return orjson.dumps(
        {"specversion": "1.0", "type": TICK_TYPE, "source": source, "id": id, "time": format_rfc3339(time_ms)}
    )


def event_id_digest(source: str, id: str) -> bytes:
    """16 bytes that stand for (`source`, `id`): BLAKE2b over the length-prefixed source, then the id (design §4)."""
    text = source.encode()
    return hashlib.blake2b(b"%d:%b%b" % (len(text), text, id.encode()), digest_size=16).digest()
