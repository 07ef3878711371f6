"""A block: keys, and columns of whole numbers beside them, as bytes: between the stages and in a changelog.

Each column takes 0, 1, 2, 4 or 8 bytes a row, as few as hold what its values are above the least of them. Little-endian:

====================  =======================================================================================
rows, columns         u32, u8: how many; the lengths of the keys are the first column
per column            i64: its least value; u8: bytes a row
columns               one behind the other
keys                  one behind the other
====================  =======================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.block_kernels import block_written, row_width
from schemas.texts import Texts

Column = npt.NDArray[np.int64]

_HEAD = struct.Struct("<IB")
_SCALE = struct.Struct("<qB")


def still(column: npt.NDArray[Any], kind: Any) -> npt.NDArray[Any]:
    """A column as kernels are compiled for: in one piece, and not to be written."""
    view = np.ascontiguousarray(column, kind).view()
    view.flags.writeable = False
    return view


def pack(keys: Texts, columns: Sequence[Column] | Column, limit: int) -> Iterator[bytes]:
    """The blocks of rows in order, none of more than `limit` bytes, but for a single row that is longer.

    columns: int64, one behind the other or an array of them; unsigned words as they are seen so.
    """
    lengths = keys.stops - keys.starts
    if not len(lengths):
        return
    assert lengths.min() > 0, "a key has a byte at least"
    words = np.stack([lengths, *columns])
    head = _HEAD.size + _SCALE.size * len(words)
    ends = np.cumsum(lengths + row_width(words))
    texts = still(keys.letters, np.uint8), still(keys.starts, np.int64), still(keys.stops, np.int64)
    begin = before = 0
    while begin < len(ends):
        end = max(begin + 1, int(np.searchsorted(ends, before + limit - head, side="right")))
        after = int(ends[end - 1])
        out = np.empty(head + after - before, np.uint8)
        yield out[: block_written(*texts, words, begin, end, out)].tobytes()
        begin, before = end, after


def unpack(block: bytes, columns: int) -> tuple[Texts, list[Column]]:
    """The rows of a block that has so many columns. Raises msgspec.DecodeError for what is none."""
    at = _HEAD.size + _SCALE.size * (columns + 1)
    if len(block) < at or _HEAD.unpack_from(block)[1] != columns + 1:
        raise msgspec.DecodeError("it is no block of as many columns")
    rows = _HEAD.unpack_from(block)[0]
    found: list[Column] = []
    for number in range(columns + 1):
        least, width = _SCALE.unpack_from(block, _HEAD.size + _SCALE.size * number)
        if width not in (0, 1, 2, 4, 8) or not 0 < rows <= len(block) or at + rows * width > len(block):
            raise msgspec.DecodeError("its columns are cut off")
        column = np.full(rows, least, np.int64)
        if width:
            column.view(np.uint64)[:] += np.frombuffer(block, f"<u{width}", rows, at)
        found.append(column)
        at += rows * width
    lengths = found[0]
    if int(lengths.min()) < 1 or int(lengths.max()) > len(block) or int(lengths.sum()) != len(block) - at:
        raise msgspec.DecodeError("its keys are cut off")
    stops = np.cumsum(lengths) + at
    return Texts(np.frombuffer(block, np.uint8), stops - lengths, stops), found[1:]
