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
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.block_kernels import joined
from schemas.texts import Texts

Column = npt.NDArray[np.int64]

_HEAD = struct.Struct("<IB")
_SCALE = struct.Struct("<qB")
_WORD = (1 << 64) - 1


def still(column: npt.NDArray[Any], kind: Any) -> npt.NDArray[Any]:
    """A column as kernels are compiled for: in one piece, and not to be written."""
    view = np.ascontiguousarray(column, kind).view()
    view.flags.writeable = False
    return view


def pack(keys: Texts, columns: list[Column]) -> bytes:
    """The block of some rows, at least one. columns: int64; unsigned words as they are seen so."""
    lengths = keys.stops - keys.starts
    scales, parts = [], []
    for column in (lengths, *columns):
        least = int(column.min())
        above = column.view(np.uint64) - np.uint64(least & _WORD)
        width = _width(int(above.max()))
        scales.append(_SCALE.pack(least, width))
        if width:
            parts.append(above.astype(f"<u{width}").tobytes())
    letters = np.empty(int(lengths.sum()), np.uint8)
    joined(still(keys.letters, np.uint8), still(keys.starts, np.int64), still(keys.stops, np.int64), letters)
    return b"".join([_HEAD.pack(len(lengths), len(scales)), *scales, *parts, letters.tobytes()])


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


def portions(keys: Texts, columns: list[Column], limit: int) -> Iterator[slice]:
    """The rows in order, cut so that no block of a portion exceeds `limit` bytes, but for a single row that does."""
    lengths = keys.stops - keys.starts
    if not len(lengths):
        return
    widths = [_width(int(column.max()) - int(column.min())) for column in (lengths, *columns)]
    ends = np.cumsum(lengths + sum(widths))
    limit -= _HEAD.size + _SCALE.size * len(widths)
    begin = 0
    while begin < len(ends):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(begin, end)
        begin = end


def _width(most: int) -> int:
    return next(width for width in (0, 1, 2, 4, 8) if most < 1 << 8 * width)
