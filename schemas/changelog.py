"""What a checkpoint is made of: numbered chunks of entries, MessagePack, at most 64 KB each (design §2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from schemas.partials import RECORD_MAX, decoded


class Entry(NamedTuple):
    """One remembered thing: its kind, its key, its value, or None where it was touched and is gone (a removal).

    Of a packed kind (`tables/replay.py`) the value is a block of many, with their keys in it (`schemas/blocks.py`).
    """

    kind: str
    key: bytes
    value: bytes | None


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """Chunk `index` of `of` of the checkpoint that leads from source offset `start` to source offset `end`.

    writer, number: whose checkpoint this is and the how manyth: chunks of different owners never complete each other.
    partitions: how many partitions the source topic has. definitions: digest of the definitions it was folded with.
    snapshot: (changelog offset to read from, source offset it begins at) of the newest complete, accepted snapshot.
    first_act: an empty snapshot, a partition's very first record.
    """

    writer: str
    number: int
    index: int
    of: int
    start: int
    end: int
    partitions: int
    definitions: str
    snapshot: tuple[int, int]
    first_act: bool
    entries: Sequence[tuple[str, bytes, bytes | None]]


class Label(msgspec.Struct, array_like=True, frozen=True):
    """A chunk whose entries are not looked at yet: fields as in `Chunk`. entries: for `decode_entries`."""

    writer: str
    number: int
    index: int
    of: int
    start: int
    end: int
    partitions: int
    definitions: str
    snapshot: tuple[int, int]
    first_act: bool
    entries: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Chunk)
_label_decoder = msgspec.msgpack.Decoder(Label)
_entries_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes, bytes | None]])
_CHUNK_FIELDS = 512
"""Bytes that everything but the entries may take."""
_ENTRY_FIELDS = 24
"""Bytes that stand around a block in an entry."""


def encode(chunk: Chunk) -> bytes:
    """The bytes of a chunk."""
    return _encoder.encode(chunk)


def decode(value: bytes) -> Chunk:
    """A chunk. Raises msgspec.DecodeError for anything else: a changelog has no other writers."""
    return decoded(_decoder, value)


def decode_label(value: bytes) -> Label:
    """A chunk by its label alone. Raises msgspec.DecodeError for what is none."""
    return decoded(_label_decoder, value)


def decode_entries(raw: msgspec.Raw) -> list[tuple[str, bytes, bytes | None]]:
    """The entries of a chunk: kind, key, value. Raises msgspec.DecodeError where they are none."""
    return decoded(_entries_decoder, raw)


def block_max(limit: int = RECORD_MAX) -> int:
    """Bytes that a block may have, so that two fill a chunk of `limit` bytes."""
    return (limit - _CHUNK_FIELDS) // 2 - _ENTRY_FIELDS


def split(entries: Iterable[Entry], limit: int = RECORD_MAX) -> list[list[Entry]]:
    """Entries in groups of which a chunk stays within `limit` bytes; at least one group, an empty one if there is nothing.

    An entry larger than that stays whole; none of ours comes near 64 KB.
    """
    groups: list[list[Entry]] = [[]]
    limit -= _CHUNK_FIELDS
    size = 0
    for entry in entries:
        cost = len(entry.kind) + len(entry.key) + len(entry.value or b"") + 12
        if groups[-1] and size + cost > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += cost
    return groups
