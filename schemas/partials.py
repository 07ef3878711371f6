"""What METERING tells CLOSING: packed partials and watermarks (design §1, §2.5), MessagePack, at most 64 KB a record.

A partial is cumulative: the whole of what one source partition has contributed to one window up to `through`. Only the
members of a unique count travel as deltas, and are united.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

from schemas.windows import WindowKey

NEVER = -(1 << 53)
"""A watermark before any time was seen, ms."""

RECORD_MAX = 64_000
"""Bytes a packed record may have: Event Hubs bills and meters by 64 KB (azure-docs: Event Hubs FAQ)."""

MEMBER_BYTES = 16
DIGEST_MOD = 1 << 128


class Contribution(msgspec.Struct, array_like=True, gc=False):
    """One source partition's cumulative share of one window.

    events: how many were counted. digest: sum of their 128-bit ids modulo 2^128. first, through: the usage offsets of the
    first and the last record folded in. amount: what the aggregation carries (sum, min, max, latest value; None for count
    and unique_count). at: for `latest`, (event time ms, offset, index in the envelope) of the amount.
    """

    events: int
    digest: bytes
    first: int
    through: int
    amount: Decimal | None = None
    at: tuple[int, int, int] | None = None


class Partial(msgspec.Struct, array_like=True, frozen=True):
    """A contribution on its way: which window, which meter version, and the new members (16 bytes each, joined)."""

    subject: str
    meter: str
    group: tuple[tuple[str, str], ...]
    start_ms: int
    size: str
    version: int
    share: Contribution
    members: bytes = b""

    @property
    def key(self) -> WindowKey:
        """The window this belongs to."""
        return WindowKey(self.subject, self.meter, self.group, self.start_ms, self.size)


class Partials(msgspec.Struct, array_like=True, frozen=True, tag="p"):
    """A packed record of partials of one source partition."""

    source: int
    items: list[Partial]


class Watermark(msgspec.Struct, array_like=True, frozen=True, tag="w"):
    """What one source partition promises one target: every partial up to `through` is in the log before this record.

    watermark_ms: the source's event-time watermark. through: last usage offset folded. folds: how many folds the source
    has ever sent to this target (the conservation ledger between the stages, design §4).
    """

    source: int
    watermark_ms: int
    through: int
    folds: int


StageRecord = Partials | Watermark

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Partials | Watermark] = msgspec.msgpack.Decoder(Partials | Watermark)


def encode(record: StageRecord) -> bytes:
    """The bytes of a record between the stages."""
    return _encoder.encode(record)


def decode(value: bytes) -> StageRecord:
    """A record between the stages. Raises msgspec.DecodeError for anything else: nobody else may write this topic."""
    return _decoder.decode(value)


def split_members(partial: Partial, limit: int = RECORD_MAX // 2) -> Iterator[Partial]:
    """The partial, its members cut into pieces of at most `limit` bytes: each piece carries the same cumulative share."""
    step = limit // MEMBER_BYTES * MEMBER_BYTES
    if len(partial.members) <= step:
        yield partial
        return
    for at in range(0, len(partial.members), step):
        yield msgspec.structs.replace(partial, members=partial.members[at : at + step])


def pack(source: int, partials: Iterable[Partial], limit: int = RECORD_MAX) -> Iterator[bytes]:
    """Packed records of at most `limit` bytes, in order. A single partial is far below the limit (design §6 bounds)."""
    items: list[msgspec.Raw] = []
    size = 16
    for whole in partials:
        for partial in split_members(whole, limit // 2):
            raw = _encoder.encode(partial)
            if items and size + len(raw) > limit:
                yield _encoder.encode(["p", source, items])
                items, size = [], 16
            items.append(msgspec.Raw(raw))
            size += len(raw)
    if items:
        yield _encoder.encode(["p", source, items])
