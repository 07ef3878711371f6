"""AMQP 1.0 on the wire: values, performatives and frames, to bytes and back.

The one module that touches `azure.servicebus._pyamqp`, the codec inside the Azure SDK. That package is private, so
an SDK release may move it; it is used all the same because a server that speaks with the clients' own encoder and
decoder cannot drift from them, and because a third-party AMQP codec would be one more dependency for laptop mode
only. Everything else here sees plain `bytes`: a value in this module's vocabulary is its *encoding*, so what a client
sent can be passed on byte for byte (a symbol stays a symbol, a uuid a uuid), which the SDK's decoder alone cannot do.

Layouts follow OASIS AMQP 1.0, parts 1 (types) and 2 (transport). Decoding raises `DecodeError`, never anything else.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from azure.servicebus._pyamqp import _decode, _encode

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
ERROR, SOURCE, TARGET = 0x1D, 0x28, 0x29
HEADER, DELIVERY_ANNOTATIONS, ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES, DATA, SEQUENCE, VALUE, FOOTER = range(
    0x70, 0x79
)
AMQP_PROTOCOL: Final = b"AMQP\x00\x01\x00\x00"
SASL_PROTOCOL: Final = b"AMQP\x03\x01\x00\x00"
AMQP_FRAME, SASL_FRAME = 0, 1
HEARTBEAT: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"

_FRAME_HEADER = struct.Struct(">IBBH")
_UINT32 = struct.Struct(">I")
_DECODERS = cast(list[Callable[[memoryview], tuple[memoryview, Any]]], _decode._DECODE_BY_CONSTRUCTOR)


class DecodeError(ValueError):
    """The bytes are not AMQP 1.0."""


# --- values: Python to wire ---------------------------------------------------------------------------------------

NULL: Final = b"\x40"
TRUE: Final = b"\x41"
FALSE: Final = b"\x42"


def _scalar(encode: Callable[..., None]) -> Callable[[Any], bytes]:
    def encoded(value: Any) -> bytes:
        out = bytearray()
        encode(out, value)
        return bytes(out)

    return encoded


ubyte: Final = _scalar(_encode.encode_ubyte)
ushort: Final = _scalar(_encode.encode_ushort)
uint: Final = _scalar(_encode.encode_uint)
ulong: Final = _scalar(_encode.encode_ulong)
int32: Final = _scalar(_encode.encode_int)
long: Final = _scalar(_encode.encode_long)
timestamp: Final = _scalar(_encode.encode_timestamp)  # int milliseconds UTC
uuid_value: Final = _scalar(_encode.encode_uuid)
binary: Final = _scalar(_encode.encode_binary)
string: Final = _scalar(_encode.encode_string)
symbol: Final = _scalar(_encode.encode_symbol)


def boolean(value: bool) -> bytes:
    return TRUE if value else FALSE


def list_of(items: Sequence[bytes]) -> bytes:
    """A list of values that are encoded already."""
    return _compound(0x45 if not items else None, 0xC0, 0xD0, len(items), b"".join(items))


def map_of(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A map of keys and values that are encoded already, in this order."""
    flat = [part for pair in pairs for part in pair]
    return _compound(None, 0xC1, 0xD1, len(flat), b"".join(flat))


def array_of(items: Sequence[bytes]) -> bytes:
    """An array; `items` must share one fixed-width or variable-width constructor, the first byte of each."""
    constructor = items[0][:1]
    assert all(item[:1] == constructor for item in items), "an AMQP array has one type"
    body = constructor + b"".join(item[1:] for item in items)
    return b"\xf0" + _UINT32.pack(len(body) + 4) + _UINT32.pack(len(items)) + body


def wide_long(value: int) -> bytes:
    """A long in its eight-byte form, so that several fit one array."""
    return b"\x81" + struct.pack(">q", value)


def described(code: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes((code,)) + value


def composite(code: int, *fields: bytes) -> bytes:
    """A performative, outcome, terminus or error: a described list with every field given."""
    return described(code, list_of(fields))


def error(condition: str, description: str) -> bytes:
    """An error with its three fields: with two, a client waiting for a disposition hangs (azure.md 3.5, item 8)."""
    return composite(ERROR, symbol(condition), string(description), NULL)


def _compound(empty: int | None, small: int, large: int, count: int, body: bytes) -> bytes:
    if empty is not None:
        return bytes((empty,))
    if count <= 255 and len(body) < 255:
        return bytes((small, len(body) + 1, count)) + body
    return bytes((large,)) + _UINT32.pack(len(body) + 4) + _UINT32.pack(count) + body


# --- values: wire to Python ---------------------------------------------------------------------------------------


def end_of(data: bytes | memoryview, start: int) -> int:
    """Where the value that begins at `start` ends: the high nibble of a constructor gives its width (part 1, 1.2)."""
    try:
        constructor = data[start]
        if constructor == 0:
            return end_of(data, end_of(data, start + 1))
        family = constructor >> 4
        if family in _WIDTHS:
            end = start + 1 + _WIDTHS[family]
        elif family in (0xA, 0xC, 0xE):
            end = start + 2 + data[start + 1]
        elif family in (0xB, 0xD, 0xF):
            end = start + 5 + int(_UINT32.unpack_from(data, start + 1)[0])
        else:
            raise DecodeError(f"unknown AMQP constructor 0x{constructor:02x}")
    except (IndexError, struct.error, RecursionError) as short:
        raise DecodeError("an AMQP value ends too early") from short
    if end > len(data):
        raise DecodeError("an AMQP value ends too early")
    return end


_WIDTHS: Final = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}


def decode(data: bytes | memoryview) -> Any:
    """The Python value of one encoding. Strings, symbols and binaries are all `bytes`: look at the encoding to tell."""
    try:
        view = memoryview(data)
        return _DECODERS[view[0]](view[1:])[1]
    except (IndexError, KeyError, TypeError, ValueError, struct.error, RecursionError) as broken:
        raise DecodeError("undecodable AMQP value") from broken


def items_of(data: bytes | memoryview) -> list[bytes]:
    """The encodings of a list's or map's members; none for null."""
    constructor = data[0] if len(data) else 0x40
    if constructor in (0x40, 0x45):
        return []
    if constructor in (0xC0, 0xC1):
        at, count = 3, data[2] if len(data) > 2 else 0
    elif constructor in (0xD0, 0xD1):
        at, count = 9, int(_UINT32.unpack_from(data, 5)[0]) if len(data) >= 9 else 0
    else:
        raise DecodeError("a list or a map was expected")
    items = []
    while count:
        end = end_of(data, at)
        items.append(bytes(data[at:end]))
        at, count = end, count - 1
    return items


def pairs_of(data: bytes | memoryview) -> list[tuple[bytes, bytes]]:
    """The encoded keys and values of a map."""
    items = items_of(data)
    if len(items) % 2:
        raise DecodeError("a map with a key and no value")
    return list(zip(items[::2], items[1::2], strict=True))


def fields_of(described_list: bytes | memoryview) -> list[bytes]:
    """The encoded fields of a described list, such as a source; none for null."""
    if len(described_list) == 0 or described_list[0] == 0x40:
        return []
    if described_list[0] != 0:
        raise DecodeError("a described value was expected")
    return items_of(described_list[end_of(described_list, 1) :])


def sections_of(message: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """A message's sections: (descriptor, start of the section, start of its value, end)."""
    at = 0
    while at < len(message):
        if message[at] != 0:
            raise DecodeError("a message section must be a described value")
        value_at = end_of(message, at + 1)
        code = decode(message[at + 1 : value_at])
        end = end_of(message, value_at)
        if not isinstance(code, int):
            raise DecodeError("a message section must have a numeric descriptor")
        yield code, at, value_at, end
        at = end


def text(value: Any) -> str | None:
    """A decoded string, symbol, uuid or number as text; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, uuid.UUID):
        return str(value)
    return str(value)


# --- frames -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Frame:
    """One frame that arrived. `fields` are decoded and padded with their defaults; `body` is what came, undecoded."""

    channel: int
    code: int
    fields: list[Any]
    body: bytes
    payload: bytes = b""

    def raw_fields(self) -> list[bytes]:
        """The fields as they were encoded, to be echoed exactly; a shorter list where the client omitted the rest."""
        return fields_of(self.body)


def frame(channel: int, performative: bytes, payload: bytes = b"", frame_type: int = AMQP_FRAME) -> bytes:
    size = 8 + len(performative) + len(payload)
    return _FRAME_HEADER.pack(size, 2, frame_type, channel) + performative + payload


# Which fields are numbers, and which of those must be there (part 2, 2.7); what is done with them relies on it.
_NUMBERS: Final = {
    OPEN: (2, 3, 4),
    BEGIN: (1, 2, 3),
    ATTACH: (1, 3, 4),
    FLOW: (0, 1, 2, 3, 4, 5, 6),
    TRANSFER: (0, 1, 3),
    DISPOSITION: (1, 2),
    DETACH: (0,),
}
_REQUIRED: Final = {OPEN: (), BEGIN: (1, 2), ATTACH: (1,), FLOW: (1,), TRANSFER: (0,), DISPOSITION: (1,), DETACH: (0,)}


class Framer:
    """Bytes as they arrive, cut into protocol headers and frames."""

    def __init__(self, max_frame_size: int) -> None:
        self._buffer = bytearray()
        self._max = max_frame_size

    def feed(self, data: bytes) -> Iterator[bytes | Frame]:
        """Yield each complete protocol header (8 bytes) or frame; empty frames (heartbeats) are passed over.

        Raises DecodeError where the stream cannot be AMQP: the connection is past saving then.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= 8:
                if self._buffer[at : at + 4] == b"AMQP":
                    at += 8
                    yield bytes(self._buffer[at - 8 : at])
                    continue
                size, offset, kind, channel = _FRAME_HEADER.unpack_from(self._buffer, at)
                if size < 8 or size > self._max or offset < 2 or offset * 4 > size or kind not in (0, 1):
                    raise DecodeError("not an AMQP frame")
                if len(self._buffer) - at < size:
                    break
                body = bytes(self._buffer[at + offset * 4 : at + size])
                at += size
                if body:
                    yield _frame_of(channel, body)
        finally:
            del self._buffer[:at]


def _frame_of(channel: int, body: bytes) -> Frame:
    if body[:2] == b"\x00\x80":  # an eight-byte descriptor is legal too; the SDK's decoder wants the short one
        body = b"\x00\x53" + body[9:10] + body[10:]
    if body[:2] != b"\x00\x53":
        raise DecodeError("a frame must hold a described performative")
    try:
        code, fields = _decode.decode_frame(memoryview(body))
    except (IndexError, KeyError, TypeError, ValueError, struct.error, RecursionError) as broken:
        raise DecodeError("undecodable frame") from broken
    for index in _NUMBERS.get(code, ()):
        value = fields[index]
        if not isinstance(value, int) and (value is not None or index in _REQUIRED[code]):
            raise DecodeError(f"field {index} of performative 0x{code:02x} must be a number")
    payload = bytes(fields.pop()) if code == TRANSFER else b""
    return Frame(channel, code, fields, body, payload)
