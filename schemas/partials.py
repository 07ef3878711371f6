"""What METERING tells CLOSING: packed partials and watermarks (design §1, §2.5), MessagePack, at most 64 KB a record.

A partial is cumulative: the whole of what one source partition has contributed to one window up to `through`. Only the
members of a unique count travel as deltas, and are united.

A partial whose amount is a machine word travels as a row of columns (`Rows`, `schemas/blocks.py`); one that carries more, as
an object (`Partial`): a longer amount, `latest` with its place, members. To who joins them they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from schemas import blocks
from schemas.block_kernels import without_zeros
from schemas.blocks import Column
from schemas.numbers import SUM
from schemas.texts import Texts
from schemas.windows import WindowKey, decode_key, encode_key

T = TypeVar("T")

NEVER = -(1 << 53)
"""A watermark before any time was seen, ms."""

_LATEST_MS = 253_402_300_799_999
"""The last ms of the year 9999."""
RECORD_MAX = 64_000
"""Bytes a packed record may have: Event Hubs bills and meters by 64 KB (azure-docs: Event Hubs FAQ)."""

MEMBER_BYTES = 16
DIGEST_BYTES = 16
DIGEST_MOD = 1 << 128
PLACES_MAX = 18
"""Digits behind the point that an amount of a row may have (design §5)."""
COLUMNS = 8
"""Of a row (`Rows`)."""
_ROWS_HEAD = 32
"""Bytes around a block, at most."""


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


class Rows(NamedTuple):
    """Partials as rows of machine words.

    keys: `encode_key` of their windows. words: int64 of shape (rows, COLUMNS): the meter's version, events, the high and the
    low word of the digest, first, through, units, places; the amount is units x 10^-places; places -1: there is none.
    """

    keys: Texts
    words: Column

    @classmethod
    def of(cls, partials: Iterable[Partial]) -> tuple[Rows, list[Partial]]:
        """Of partials that are objects, in order; and those of them that are no rows."""
        keys, found, others = [], [], []
        for partial in partials:
            share = partial.share
            amount = scaled(share.amount)
            if amount is None or share.at is not None or partial.members:
                others.append(partial)
                continue
            keys.append(encode_key(partial.key))
            found.append(row_of(partial.version, share, amount))
        return cls(Texts.of(keys), np.array(found, np.int64).reshape(-1, COLUMNS)), others

    @classmethod
    def stacked(cls, keys: Texts, columns: list[Column]) -> Rows:
        """Of the columns that `columns` gives."""
        return cls(keys, np.stack(columns, axis=1))

    def columns(self) -> Column:
        """The words of shape (COLUMNS, rows), as they are packed: amounts without the zeros at their end."""
        columns = self.words.T.copy()
        without_zeros(columns[-2], columns[-1])
        return columns

    def partials(self) -> list[Partial]:
        """As objects."""
        digests = self.words[:, 2:4].astype(">i8").tobytes()
        return [
            Partial(
                *decode_key(key),
                version,
                Contribution(events, digests[16 * row : 16 * row + 16], first, through, amount_of(units, places)),
            )
            for row, (key, (version, events, _, _, first, through, units, places)) in enumerate(
                zip(self.keys.tolist(), self.words.tolist(), strict=True)
            )
        ]


class PartialRows(NamedTuple):
    """A packed record of partials of one source partition, as rows."""

    source: int
    rows: Rows

    @property
    def items(self) -> list[Partial]:
        """As objects."""
        return self.rows.partials()


class _PartialRows(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    source: int
    block: bytes


StageRecord = Partials | PartialRows | Watermark

_encoder = msgspec.msgpack.Encoder()
_share_decoder = msgspec.msgpack.Decoder(tuple[int, Contribution])
_decoder: msgspec.msgpack.Decoder[Partials | _PartialRows | Watermark] = msgspec.msgpack.Decoder(
    Partials | _PartialRows | Watermark
)


def scaled(amount: Decimal | None) -> tuple[int, int] | None:
    """Units and places of an amount, (0, -1) where there is none; None where it does not fit a row."""
    if amount is None:
        return 0, -1
    _, digits, exponent = amount.normalize(SUM).as_tuple()
    assert isinstance(exponent, int), "a number"
    places = max(0, -exponent)
    if places > PLACES_MAX or len(digits) + exponent > 19:
        return None
    units = int(amount.scaleb(places, SUM))
    return (units, places) if -1 << 63 <= units < 1 << 63 else None


def row_of(version: int, share: Contribution, amount: tuple[int, int]) -> tuple[int, ...]:
    """The words of a row. amount: units and places."""
    high, low = np.frombuffer(share.digest, ">i8").tolist()
    return version, share.events, high, low, share.first, share.through, *amount


def amount_of(units: int, places: int) -> Decimal | None:
    """The amount of a row, as a contribution on a wire has it."""
    return None if places < 0 else Decimal(units).scaleb(-places, SUM).normalize(SUM)


def encode_share(version: int, share: Contribution) -> bytes:
    """A contribution and its meter's version, by themselves."""
    return _encoder.encode((version, share))


def decode_share(value: bytes) -> tuple[int, Contribution]:
    """What `encode_share` encoded."""
    return decoded(_share_decoder, value)


def decoded(decoder: msgspec.msgpack.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    """What a decoder reads. Raises msgspec.DecodeError for what it does not, for a text that is not UTF-8, too."""
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def encode(record: Partials | Watermark) -> bytes:
    """The bytes of a record between the stages."""
    return _encoder.encode(record)


def decode(value: bytes) -> StageRecord:
    """A record between the stages. Raises msgspec.DecodeError for anything else: nobody else may write this topic."""
    message = decoded(_decoder, value)
    if isinstance(message, Watermark) and not NEVER <= message.watermark_ms <= _LATEST_MS:
        raise msgspec.DecodeError("its watermark is a time that cannot be written")
    if isinstance(message, Partials):
        for partial in message.items:
            share = partial.share
            if share.events < 0 or len(share.digest) != DIGEST_BYTES or len(partial.members) % MEMBER_BYTES:
                raise msgspec.DecodeError("one of its partials counts what cannot be counted")
    if not isinstance(message, _PartialRows):
        return message
    keys, columns = blocks.unpack(message.block, COLUMNS)
    check_columns(columns)
    return PartialRows(message.source, Rows.stacked(keys, columns))


def check_columns(columns: list[Column]) -> None:
    """Whether the columns of `Rows` that were read somewhere are such: else raises msgspec.DecodeError."""
    events, places = columns[1], columns[-1]
    if int(events.min()) < 0 or int(places.min()) < -1 or int(places.max()) > PLACES_MAX:
        raise msgspec.DecodeError("its rows count what cannot be counted")


def pack_rows(source: int, rows: Rows, limit: int = RECORD_MAX) -> Iterator[bytes]:
    """Packed records of at most `limit` bytes, in order."""
    for block in blocks.pack(rows.keys, rows.columns(), limit - _ROWS_HEAD):
        yield _encoder.encode(_PartialRows(source, block))


def pack_all(source: int, rows: Rows, others: list[Partial], limit: int = RECORD_MAX) -> Iterator[bytes]:
    """Packed records of rows, then of others; of those that are rows after all, the rows first."""
    more, objects = Rows.of(others)
    for some in (rows, more):
        if len(some.words):
            yield from pack_rows(source, some, limit)
    yield from pack(source, objects, limit)


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
