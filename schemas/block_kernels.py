"""Kernels of schemas/ (see `schemas/compiled.py`): blocks written, amounts written in one way."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel, part

Array = Any
"""A numpy array; each kernel's docstring says of what."""
AHEAD = 32
"""Rows whose first byte is looked at before any of them is worked on: so a processor waits for all of them at once, where
they lie anywhere in its memory, and not for one after the other."""


@part
def width_of(above: Any) -> int:
    """Bytes of a number that is not negative: 0, 1, 2, 4 or 8."""
    if above < 1:
        return 0
    if above < 1 << 8:
        return 1
    if above < 1 << 16:
        return 2
    return 4 if above < 1 << 32 else 8


@part
def put(out: Array, at: int, word: Any, width: int) -> None:
    """A word, little-endian, its lower bytes only. Written one by one, they are stored at once where the compiler sees all."""
    if width == 1:
        out[at] = word & np.uint64(0xFF)
    elif width == 2:
        for number in range(2):
            out[at + number] = (word >> np.uint64(8 * number)) & np.uint64(0xFF)
    elif width == 4:
        for number in range(4):
            out[at + number] = (word >> np.uint64(8 * number)) & np.uint64(0xFF)
    elif width == 8:
        for number in range(8):
            out[at + number] = (word >> np.uint64(8 * number)) & np.uint64(0xFF)


@kernel
def row_width(words: Array) -> int:
    """Bytes a row takes at most in a block of any of these rows. words: as `block_written`."""
    found = 0
    for number in range(len(words)):
        least = most = words[number, 0]
        for row in range(words.shape[1]):
            least, most = min(least, words[number, row]), max(most, words[number, row])
        found += width_of(np.uint64(most) - np.uint64(least))
    return found


@kernel
def block_written(letters: Array, starts: Array, stops: Array, words: Array, begin: int, end: int, out: Array) -> int:
    """Writes the block (`schemas/blocks.py`) of the rows from `begin` to `end`, exclusive; gives how many bytes it has.

    letters, starts, stops: the keys, each of a byte at least. words: (columns, rows), int64, the lengths of the keys first.
    out: uint8, with room.
    """
    put(out, 0, np.uint64(end - begin), 4)
    out[4] = len(words)
    scale, at = 5, 5 + 9 * len(words)
    for number in range(len(words)):
        least = most = words[number, begin]
        for row in range(begin, end):
            least, most = min(least, words[number, row]), max(most, words[number, row])
        width = width_of(np.uint64(most) - np.uint64(least))
        put(out, scale, np.uint64(least), 8)
        out[scale + 8] = width
        scale += 9
        if width == 1:
            for row in range(begin, end):
                put(out, at + row - begin, np.uint64(words[number, row]) - np.uint64(least), 1)
        elif width == 2:
            for row in range(begin, end):
                put(out, at + 2 * (row - begin), np.uint64(words[number, row]) - np.uint64(least), 2)
        elif width == 4:
            for row in range(begin, end):
                put(out, at + 4 * (row - begin), np.uint64(words[number, row]) - np.uint64(least), 4)
        elif width == 8:
            for row in range(begin, end):
                put(out, at + 8 * (row - begin), np.uint64(words[number, row]) - np.uint64(least), 8)
        at += width * (end - begin)
    for row in range(begin, end):
        if (row - begin) % AHEAD == 0:
            for next_one in range(row, min(row + AHEAD, end)):
                out[at + next_one - row] = letters[starts[next_one]]
        start = starts[row]
        for number in range(stops[row] - start):
            out[at + number] = letters[start + number]
        at += stops[row] - start
    return at


@kernel
def without_zeros(units: Array, places: Array) -> None:
    """Amounts of units x 10^-places lose the zeros at their end, in place: equal ones are written equally. -1 places: none."""
    for row in range(len(units)):
        amount, left = units[row], places[row]
        while left > 0 and amount % 10 == 0:
            amount //= 10
            left -= 1
        units[row], places[row] = amount if left >= 0 else 0, left
