"""A message as a broker sees it: what it must read, what it may change, and all the rest byte for byte.

The bare message (properties, application properties, body, footer) is never re-encoded: a uuid message id, a
decimal, a body of any kind comes out as it went in. Around it the broker writes its own header (delivery count) and
annotations (sequence number, times), and lays an overlay over the application properties (dead-letter reason and
description, properties changed by an abandon), as azure.md 3.5, item 11 lists them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import codec
from .codec import DecodeError

BATCH_FORMAT = 0x80013700

_MESSAGE_ID, _CORRELATION_ID, _REPLY_TO, _GROUP_ID = 0, 5, 4, 10
_SCHEDULED = b"x-opt-scheduled-enqueue-time"
# What the service sets itself; a resent message must not carry the last journey's values.
_OURS = {
    b"x-opt-sequence-number",
    b"x-opt-enqueued-time",
    b"x-opt-locked-until",
    b"x-opt-lock-token",
    b"x-opt-message-state",
    b"x-opt-enqueue-sequence-number",
    b"x-opt-deadletter-source",
}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message to be stored.

    `head` are the header's first three fields (durable, priority, ttl), `annotations` a map, `bare` the sections from
    properties on: all encoded. `ttl_ms` and `scheduled_ms` (UTC) are None where the sender gave none.
    """

    message_id: str | None
    session_id: str | None
    ttl_ms: int | None
    scheduled_ms: int | None
    head: bytes
    annotations: bytes
    bare: bytes


def incoming(payload: bytes) -> Incoming:
    """Read one encoded message. Raises DecodeError.

    One without a message id is stored with a new one (SDKs rely on it, JavaScript's lock renewal for one); it is still
    `None` here, for such a message is nobody's duplicate.
    """
    head = codec.NULL * 3
    ttl_ms: int | None = None
    scheduled_ms: int | None = None
    annotations: list[tuple[bytes, bytes]] = []
    message_id = session_id = None
    has_properties = False
    bare = bytearray()
    for code, start, value_at, end in codec.sections_of(payload):
        if code == codec.HEADER:
            fields = codec.items_of(payload[value_at:end])[:3]
            fields += [codec.NULL] * (3 - len(fields))
            head = b"".join(fields)
            ttl_ms = codec.decode(fields[2])
        elif code == codec.ANNOTATIONS:
            for key, value in codec.pairs_of(payload[value_at:end]):
                name = codec.decode(key)
                if name == _SCHEDULED:
                    scheduled_ms = codec.decode(value)
                if name not in _OURS:
                    annotations.append((key, value))
        elif code == codec.DELIVERY_ANNOTATIONS:
            continue  # they end at the next node, which is here (AMQP 1.0 part 3, 3.2.2)
        else:
            if code == codec.PROPERTIES:
                has_properties = True
                fields = codec.items_of(payload[value_at:end])
                message_id = codec.text(_field(fields, _MESSAGE_ID))
                session_id = codec.text(_field(fields, _GROUP_ID))
                if message_id is None:
                    bare += _with_new_id(fields)
                    continue
            bare += payload[start:end]
    if message_id is None and not has_properties:
        bare[:0] = _with_new_id([])
    if scheduled_ms is not None and not isinstance(scheduled_ms, int):
        raise DecodeError("x-opt-scheduled-enqueue-time must be a timestamp")
    return Incoming(message_id, session_id, ttl_ms, scheduled_ms, head, codec.map_of(annotations), bytes(bare))


def _with_new_id(fields: list[bytes]) -> bytes:
    return codec.composite(codec.PROPERTIES, codec.string(uuid.uuid4().hex), *fields[1:])


def batch(payload: bytes) -> list[bytes]:
    """The encoded messages inside a batch (message format 0x80013700): each data section is one.

    Its other sections repeat what the first message says (azure.md 3.5, item 7) and are not read. Raises DecodeError.
    """
    inner = [
        codec.decode(payload[value_at:end])
        for code, _, value_at, end in codec.sections_of(payload)
        if code == codec.DATA
    ]
    if not inner:
        raise DecodeError("a batch without messages")
    return inner


def outgoing(
    head: bytes,
    annotations: bytes,
    bare: bytes,
    *,
    delivery_count: int,
    extra: Iterable[tuple[str, bytes]],
    overlay: Mapping[str, bytes] | None = None,
    lock_token: uuid.UUID | None = None,
) -> bytes:
    """The encoded message for a receiver: `extra` annotations added, `overlay` application properties laid over.

    `lock_token` goes into the delivery annotations, where Go's SDK looks for it on messages that came over management.
    """
    fields = codec.items_of(b"\xc0" + bytes((len(head) + 1, 3)) + head)
    header = codec.composite(codec.HEADER, *fields, codec.NULL, codec.uint(delivery_count))
    pairs = codec.pairs_of(annotations)
    pairs += [(codec.symbol(key), value) for key, value in extra]
    if overlay:
        bare = _overlaid(bare, overlay)
    if lock_token is not None:
        token = (codec.symbol("x-opt-lock-token"), codec.uuid_value(lock_token))
        header += codec.described(codec.DELIVERY_ANNOTATIONS, codec.map_of([token]))
    return header + codec.described(codec.ANNOTATIONS, codec.map_of(pairs)) + bare


def _overlaid(bare: bytes, overlay: Mapping[str, bytes]) -> bytes:
    """Application properties come after the properties and before the body; keys of the overlay win."""
    pairs: list[tuple[bytes, bytes]] = []
    before, after = b"", b""
    for code, start, value_at, end in codec.sections_of(bare):
        if code == codec.PROPERTIES:
            before += bare[start:end]
        elif code == codec.APPLICATION_PROPERTIES:
            kept = codec.pairs_of(bare[value_at:end])
            pairs += [(key, value) for key, value in kept if codec.text(codec.decode(key)) not in overlay]
        else:
            after += bare[start:end]
    pairs += [(codec.string(key), value) for key, value in overlay.items()]
    return before + codec.described(codec.APPLICATION_PROPERTIES, codec.map_of(pairs)) + after


def _field(fields: list[bytes], index: int) -> Any:
    return codec.decode(fields[index]) if index < len(fields) else None


# --- requests to $cbs and $management ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A request: `message_id` still encoded, so that the answer's correlation id has the very same type."""

    message_id: bytes
    reply_to: str | None
    properties: Mapping[str, Any]
    body: Any
    raw_body: bytes

    def operation(self) -> str:
        return codec.text(self.properties.get("operation")) or ""

    def argument(self, name: str) -> Any:
        """A member of the body's map, decoded; None where it is absent."""
        return self.body.get(name.encode()) if isinstance(self.body, dict) else None

    def raw_argument(self, name: str) -> bytes:
        """The same member as it was encoded; an encoded null where it is absent."""
        for key, value in codec.pairs_of(self.raw_body) if self.raw_body[:1] in (b"\xc1", b"\xd1") else []:
            if codec.text(codec.decode(key)) == name:
                return value
        return codec.NULL


def request(payload: bytes) -> Request:
    """Read a request. Raises DecodeError."""
    message_id, reply_to, body, raw_body = codec.NULL, None, None, codec.NULL
    properties: dict[str, Any] = {}
    for code, _, value_at, end in codec.sections_of(payload):
        value = payload[value_at:end]
        if code == codec.PROPERTIES:
            fields = codec.items_of(value)
            message_id = fields[_MESSAGE_ID] if fields else codec.NULL
            reply_to = codec.text(_field(fields, _REPLY_TO))
        elif code == codec.APPLICATION_PROPERTIES:
            properties = {codec.text(codec.decode(k)) or "": codec.decode(v) for k, v in codec.pairs_of(value)}
        elif code == codec.VALUE:
            body, raw_body = codec.decode(value), value
    return Request(message_id, reply_to, properties, body, raw_body)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `body` is an encoded value. `status` is an int on the wire: other languages' SDKs insist on it."""

    status: int
    description: str
    condition: str | None = None
    body: bytes = codec.NULL

    def encoded(self, request: Request, *, hyphens: bool) -> bytes:
        """`hyphens`: $cbs and Event Hubs say `status-code`, Service Bus' $management says `statusCode`."""
        status, description, condition = (
            ("status-code", "status-description", "error-condition")
            if hyphens
            else ("statusCode", "statusDescription", "errorCondition")
        )
        pairs = [
            (codec.string(status), codec.int32(self.status)),
            (codec.string(description), codec.string(self.description)),
        ]
        if self.condition:
            pairs.append((codec.string(condition), codec.symbol(self.condition)))
        properties = [codec.NULL] * 13
        properties[_CORRELATION_ID] = request.message_id
        return (
            codec.composite(codec.PROPERTIES, *properties)
            + codec.described(codec.APPLICATION_PROPERTIES, codec.map_of(pairs))
            + codec.described(codec.VALUE, self.body)
        )


def lock_token_of(value: Any) -> uuid.UUID | None:
    """A lock token from a decoded uuid; None for anything else."""
    return value if isinstance(value, uuid.UUID) else None
