"""A table of keys: byte strings that are each given a small number, its slot, so that what belongs to a key stands in arrays.

A key takes its own bytes, 20 more, and 12 to 24 in the index; while a table grows, up to twice that. The hash is salted with a
secret of this process: keys that were made to collide don't. Nothing that can be observed depends on it.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.blocks import still
from schemas.texts import Letters, Places, Texts
from tables.kernels import (
    FREE,
    GARBAGE,
    LENGTH,
    LIVE,
    NEXT,
    USED,
    key_slots,
    keys_beginning,
    keys_hashed,
    keys_indexed,
    keys_moved,
    keys_removed,
    spots_of,
)

Flags = npt.NDArray[np.bool_]

_LEAST = 16
_COMPACTED = 1 << 12
"""Bytes of garbage that are not worth a thought."""
_SALT = np.array([secrets.randbits(64), secrets.randbits(64)], np.uint64)


def grown(column: npt.NDArray[Any], least: int, fill: int = 0) -> npt.NDArray[Any]:
    """A column with room for at least so many rows along its last axis; at least doubled where it was too small."""
    size = column.shape[-1]
    if least <= size:
        return column
    longer = np.empty((*column.shape[:-1], max(least, 2 * size)), column.dtype)
    longer[..., :size], longer[..., size:] = column, fill
    return longer


def lengthened(rows: npt.NDArray[Any], least: int, fill: int = 0) -> npt.NDArray[Any]:
    """The same of rows that stand one behind the other: along the first axis."""
    size = len(rows)
    if least <= size:
        return rows
    longer = np.empty((max(least, 2 * size), *rows.shape[1:]), rows.dtype)
    longer[:size], longer[size:] = rows, fill
    return longer


class KeyTable:
    """Keys and their slots. Which slots are given out depends only on the calls so far: a removed key's is the next."""

    def __init__(self) -> None:
        self._index = np.zeros(2 * _LEAST, np.uint64)
        self._arena = np.zeros(64 * _LEAST, np.uint8)
        self._spots = np.full((_LEAST, 2), -1, np.int64)
        self._free = np.zeros(_LEAST, np.int32)
        self._counts = np.zeros(5, np.int64)

    def __len__(self) -> int:
        """How many keys there are."""
        return int(self._counts[LIVE])

    @property
    def size(self) -> int:
        """How many slots were ever given out: all slots are below."""
        return int(self._counts[NEXT])

    def slots_of(self, texts: Texts, add: bool) -> tuple[Places, Flags]:
        """The slots of keys, in the order given, -1 where one is missing; and which were added now. A key may come twice."""
        rows = len(texts.starts)
        slots, new = np.empty(rows, np.int64), np.empty(rows, np.bool_)
        letters, starts, stops = (
            still(texts.letters, np.uint8),
            still(texts.starts, np.int64),
            still(texts.stops, np.int64),
        )
        hashes = np.empty(rows, np.uint64)
        keys_hashed(letters, starts, stops, _SALT, hashes)
        row = 0
        while True:
            row = key_slots(
                letters, starts, stops, row, add, hashes, self._index, self._arena, self._spots, self._free,
                self._counts, slots, new,
            )  # fmt: skip
            if row == rows:
                return slots, new
            self._grow(int(stops[row] - starts[row]))

    def slot(self, key: bytes) -> int:
        """The slot of one key, or -1."""
        return int(self.slots_of(Texts.of([key]), False)[0][0])

    def __contains__(self, slot: int) -> bool:
        """Whether a key has this slot."""
        return 0 <= slot < self.size and bool(self._spots[slot, LENGTH] >= 0)

    def key(self, slot: int) -> bytes:
        """The key that has this slot."""
        begin, length = self._spots[slot].tolist()
        assert length >= 0, "the slot of a key"
        return self._arena[begin : begin + length].tobytes()

    def texts(self, slots: Places) -> Texts:
        """The keys that have these slots: each must have one. They stay what they are, whatever becomes of the table."""
        starts, stops = np.empty((2, len(slots)), np.int64)
        spots_of(still(slots, np.int64), self._spots, starts, stops)
        return Texts(self._arena, starts, stops)

    def slots(self, begin: int = 0, end: int | None = None) -> Places:
        """Every slot that has a key now, ascending; of those from `begin` to `end`, exclusive."""
        size = self.size if end is None else min(end, self.size)
        found: Places = np.flatnonzero(self._spots[begin:size, LENGTH] >= 0) + begin
        return found

    def beginning(self, prefix: bytes) -> Places:
        """The slots of the keys that begin so, ascending."""
        found = np.empty(self.size, np.int64)
        letters = np.frombuffer(prefix, np.uint8)
        size = keys_beginning(letters, self._arena, self._spots, self.size, found)
        return found[:size]

    def remove(self, slots: Places) -> None:
        """These keys are gone; each must be there."""
        done = keys_removed(
            still(slots, np.int64), _SALT, self._index, self._arena, self._spots, self._free, self._counts
        )
        assert done == len(slots), "the slot of a key"
        if self._counts[GARBAGE] > max(_COMPACTED, int(self._counts[USED]) // 2):
            self._move(len(self._arena))

    def _grow(self, length: int) -> None:
        """Room for one more key of this length, at least. What was given out of the arena is not touched: it is copied."""
        if 3 * (len(self) + 1) > 2 * len(self._index):
            index = np.zeros(2 * len(self._index), np.uint64)
            keys_indexed(self._index, index)
            self._index = index
        if self._counts[USED] + length > len(self._arena):
            self._move(2 * max(length, len(self._arena)))
        if self._counts[FREE] == 0 and self.size == len(self._spots):
            self._spots = lengthened(self._spots, self.size + 1, -1)
            self._free = grown(self._free, self.size + 1)

    def _move(self, size: int) -> None:
        arena: Letters = np.empty(size, np.uint8)
        used = int(self._counts[USED])
        if self._counts[GARBAGE] < used // 8:
            arena[:used] = self._arena[:used]
        else:
            self._counts[USED] = keys_moved(self._arena, self._spots, self.size, arena)
            self._counts[GARBAGE] = 0
        self._arena = arena
