"""Usage events: a Kafka record in, events out, each well formed or refused with its own bytes (design §4, *malformed*).

A record is one CloudEvent 1.0 in structured JSON, a JSON array of them (an envelope), or one in binary mode: `ce_*`
headers, the value is the data. The whole is decoded at once, typed; only where that fails, element by element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import orjson

from schemas.refusals import explain, split_elements
from schemas.times import format_rfc3339

RESERVED_PREFIX = "meterline."
"""Event types that belong to the stream itself; the HTTP API and the meters file refuse them."""
TICK_TYPE = "meterline.tick"
"""The clock as a record: nothing older than its `time` is to be expected on this partition (design §3)."""
DEFINITIONS_TYPE = "meterline.definitions"
"""A change of definitions as a record (design §3)."""

NO_DATA = msgspec.Raw(b"")
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class RawEvent(msgspec.Struct, gc=False):
    """One well-formed CloudEvent, its data not parsed yet.

    time and subject are as written, None where absent or null. data: its JSON as written, empty where absent.
    index: its place in the envelope, 0 for a single event. record: the bytes of the whole Kafka value.
    """

    id: _Text
    source: _Text
    type: _Text
    specversion: Literal["1.0"]
    subject: str | None = None
    time: str | None = None
    data: msgspec.Raw = NO_DATA
    data_base64: str | None = None
    # Never from the wire: set after decoding, whatever the event says under these unlikely names.
    index: Any = msgspec.field(default=0, name="$index")
    record: Any = msgspec.field(default=b"", name="$record")

    @property
    def raw(self) -> bytes:
        """The original bytes of just this event, for a dead letter; cut out of its record only when asked for."""
        record: bytes = self.record
        if record.lstrip()[:1] != b"[":
            return record
        index: int = self.index
        return split_elements(record)[index]


class Malformed(msgspec.Struct, frozen=True):
    """What is no event: its place in the envelope, its own original bytes, and what was found and expected."""

    index: int
    raw: bytes
    reason: str


_ONE = msgspec.json.Decoder(RawEvent)
_MANY = msgspec.json.Decoder(list[RawEvent])
_FAILURES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> list[RawEvent | Malformed]:
    """The events of one Kafka record, in order; at least one, whatever the bytes: what is no event is Malformed.

    value: the record's value, None for a tombstone. headers: the record's headers. Never raises.
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
            event.record = value
            if not value.isascii():
                value.decode()
            return [event]
        events = _MANY.decode(value)
        if not value.isascii():
            value.decode()
    except _FAILURES:
        return _decode_each(value)
    if not events:
        return [Malformed(0, value, "found an empty envelope, expected at least one CloudEvent")]
    for index, event in enumerate(events):
        event.record = value
        event.index = index
    return events  # type: ignore[return-value]


def _decode_each(value: bytes) -> list[RawEvent | Malformed]:
    if value.lstrip()[:1] != b"[":
        return [_decode_one(value, value, 0)]
    try:
        elements = split_elements(value)
    except ValueError as error:
        return [Malformed(0, value, str(error))]
    if not elements:
        return [Malformed(0, value, "found an empty envelope, expected at least one CloudEvent")]
    return [_decode_one(element, value, index) for index, element in enumerate(elements)]


def _decode_one(element: bytes, record: bytes, index: int) -> RawEvent | Malformed:
    try:
        element.decode()
        event = _ONE.decode(element)
    except _FAILURES as error:
        return Malformed(index, element, explain(element, error))
    event.index = index
    event.record = record
    return event


def _binary_attributes(headers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """The `ce_*` headers without their prefix; none where the content type says structured (Kafka binding)."""
    attributes = {}
    for name, header in headers:
        lower = name.lower()
        if lower.startswith("ce_"):
            attributes[lower[3:]] = header
        elif lower == "content-type" and header is not None and header.startswith(b"application/cloudevents"):
            return {}
    return attributes


def _decode_binary(value: bytes | None, attributes: Mapping[str, bytes]) -> RawEvent | Malformed:
    if value is None:
        return Malformed(0, b"", "found a null value (a tombstone), expected the data of a CloudEvent")
    known = {}
    for name in ("specversion", "id", "source", "type", "subject", "time"):
        header = attributes.get(name)
        if header is not None:
            try:
                known[name] = header.decode()
            except UnicodeDecodeError:
                return Malformed(0, value, f"found bytes that are not UTF-8 in the header ce_{name}, expected text")
    encoded = orjson.dumps(known)
    try:
        event = _ONE.decode(encoded)
    except _FAILURES as error:
        return Malformed(0, value, f"{explain(encoded, error)} (in the ce_ headers)")
    event.data = msgspec.Raw(value)
    event.record = value
    return event


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
