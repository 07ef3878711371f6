"""A window's identity, its revisions and the one JSON document that both sinks carry (design §2.7, §4).

Document fields (body of the invoice message, and item in Cosmos): `id` = `window_id`, `meter`, `meter_version`,
`aggregation`, `subject`, `group`, `window_start`, `window_end` (RFC 3339, UTC), `window_size` (ISO 8601), `revision`
(int, from 1), `value` and `delta` (decimal strings), `events` (int), `reason`, `receipt`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import orjson

from schemas.blocks import still
from schemas.texts import Texts
from schemas.times import format_basic, format_rfc3339
from schemas.window_kernels import LAST_START_MS, key_parted, key_subjects

if TYPE_CHECKING:
    from schemas.partials import Contribution


class WindowKey(NamedTuple):
    """One window of one meter for one subject and group. Times are ms UTC; `size` is the ISO-8601 text."""

    subject: str
    meter: str
    group: tuple[tuple[str, str], ...]
    start_ms: int
    size: str


_encoder = msgspec.msgpack.Encoder()
_behind_decoder = msgspec.msgpack.Decoder(tuple[str, tuple[tuple[str, str], ...], int, str])


def encode_key(key: WindowKey) -> bytes:
    """A window's key between the stages and in a changelog."""
    return _encoder.encode(tuple(key))


def decode_key(raw: bytes) -> WindowKey:
    """The window's key that `encode_key` encoded. Equal parts of keys are the same objects: there are millions of keys.

    So the subject is cut out here, and what follows it is looked up before it is decoded. MessagePack: a text's length is
    in the low bits of its first byte, or in the one or two bytes behind it.
    """
    head = raw[1]
    if head < 0xC0:
        begin, end = 2, 2 + (head & 0x1F)
    elif head == 0xD9:
        begin, end = 3, 3 + raw[2]
    else:
        begin, end = 4, 4 + int.from_bytes(raw[2:4], "big")
    return tuple.__new__(WindowKey, (raw[begin:end].decode(), *_behind_subject(raw[end:])))


def beginning(subject: str) -> bytes:
    """What the keys of a subject's windows begin with."""
    return b"\x95" + _encoder.encode(subject)


def subjects_of(keys: Texts) -> Texts:
    """The subjects of windows, by their keys."""
    letters, subjects = still(keys.letters, np.uint8), np.empty((2, len(keys.starts)), np.int64)
    key_subjects(letters, still(keys.starts, np.int64), still(keys.stops, np.int64), subjects)
    return Texts(letters, *subjects)


def check_keys(keys: Texts) -> None:
    """Whether these are windows' keys: else raises msgspec.DecodeError."""
    rows = len(keys.starts)
    letters, starts, stops = still(keys.letters, np.uint8), still(keys.starts, np.int64), still(keys.stops, np.int64)
    meters, sizes, starts_ms = np.empty((2, rows), np.int64), np.empty((2, rows), np.int64), np.empty(rows, np.int64)
    if key_parted(letters, starts, stops, meters, sizes, starts_ms) < rows:
        raise msgspec.DecodeError("one of its windows has no key")


def foreign_key(raw: bytes) -> bool:
    """Whether these bytes are no window's key as `encode_key` writes it."""
    try:
        key = decode_key(raw)
        return encode_key(key) != raw or not 0 <= key.start_ms <= LAST_START_MS
    except (IndexError, UnicodeDecodeError, msgspec.DecodeError):
        return True


@lru_cache(maxsize=1 << 16)
def _behind_subject(raw: bytes) -> tuple[str, tuple[tuple[str, str], ...], int, str]:
    return _behind_decoder.decode(b"\x94" + raw)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of one window, ready to leave: its ids and its document, which never changes once written.

    body: the document as UTF-8 JSON, bytes; the same bytes on every resend (design §2.6).
    """

    window_id: str
    revision: int
    subject: str
    body: bytes

    @property
    def message_id(self) -> str:
        """Service Bus `MessageId` and id of the ledger item: `window_id:revision`, at most 128 characters."""
        return f"{self.window_id}:{self.revision}"


@lru_cache(maxsize=1 << 17)
def window_id(key: WindowKey) -> str:
    """`slug~size~start~` and 26 characters of base32 SHA-256 (128 bits) over the canonical key (design §2.7).

    At most 63 + 5 + 16 + 26 + 3 characters, so that `MessageId` stays within Service Bus's 128; no `/ \\ ? #`, which
    Cosmos forbids in ids.
    """
    canonical = orjson.dumps(
        [key.subject, key.meter, dict(key.group), format_rfc3339(key.start_ms), key.size], option=orjson.OPT_SORT_KEYS
    )
    digest = base64.b32encode(hashlib.sha256(canonical).digest()[:16]).decode().rstrip("=").lower()
    return id_beginning(key) + digest


def id_beginning(key: WindowKey) -> str:
    """What stands before the digest in a window's id."""
    return f"{key.meter}~{key.size}~{format_basic(key.start_ms)}~"


def session_id(subject: str) -> str:
    """The Service Bus session of a subject: itself, or its SHA-256 in hex where it exceeds 128 characters (design §6)."""
    return subject if len(subject) <= 128 else hashlib.sha256(subject.encode()).hexdigest()


def document(
    key: WindowKey,
    *,
    aggregation: str,
    unit: str,
    version: int,
    end_ms: int,
    revision: int,
    value: str,
    delta: str,
    events: int,
    reason: str,
    receipt: dict[str, object],
) -> dict[str, object]:
    """The one JSON object of a window: Cosmos item, invoice message body and item of `/v1/totals` (fields: module docstring).

    value, delta: decimal strings. reason: `closed` (revision 1), `late` (usage for a closed window), `seal` (what was
    pending when the window was sealed), `open` where no revision was made yet.
    """
    name = window_id(key)
    return {
        "id": name,
        "window_id": name,
        "meter": key.meter,
        "meter_version": version,
        "aggregation": aggregation,
        "unit": unit,
        "subject": key.subject,
        "group": dict(key.group),
        "window_start": format_rfc3339(key.start_ms),
        "window_end": format_rfc3339(end_ms),
        "window_size": key.size,
        "revision": revision,
        "value": value,
        "delta": delta,
        "events": events,
        "reason": reason,
        "receipt": receipt,
    }


def receipt(
    shares: Mapping[int, Contribution], *, watermark_ms: int | None, version: int, events: int, digest: bytes
) -> dict[str, object]:
    """What a window's total rests on, for whoever doubts it (design §4).

    Per source partition: events counted, the first and last usage offset that contributed, and the order-independent
    digest of the event ids (sum of their BLAKE2b-128 modulo 2^128, hex); the same over all; the watermark that decided.
    """
    return {
        "events": events,
        "digest": digest.hex(),
        "watermark": None if watermark_ms is None else format_rfc3339(watermark_ms),
        "meter_version": version,
        "sources": [
            {
                "partition": source,
                "events": share.events,
                "first_offset": share.first,
                "last_offset": share.through,
                "digest": share.digest.hex(),
            }
            for source, share in sorted(shares.items())
        ],
    }
