"""Kernels of windows' keys, as `schemas.windows.encode_key` writes them: what they say, without an object."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

LAST_START_MS = 253_402_214_399_999
"""No window starts later: its end must be a time that can be written, too (`schemas.reader.LAST_MS`)."""


@kernel
def is_text(letters: Array, at: int, stop: int) -> bool:
    """Whether these bytes are UTF-8 (Unicode 16, table 3-7)."""
    while at < stop:
        letter = letters[at]
        if letter >= 0x80:
            more = 1 if letter < 0xE0 else 2 if letter < 0xF0 else 3
            if letter < 0xC2 or letter > 0xF4 or at + more >= stop:
                return False
            second = letters[at + 1]
            least = 0xA0 if letter == 0xE0 else 0x90 if letter == 0xF0 else 0x80
            most = 0x9F if letter == 0xED else 0x8F if letter == 0xF4 else 0xBF
            if second < least or second > most:
                return False
            for number in range(2, more + 1):
                if letters[at + number] & 0xC0 != 0x80:
                    return False
            at += more
        at += 1
    return True


@kernel
def text_at(letters: Array, at: int, stop: int) -> Any:
    """Where a MessagePack text that begins at `at` has its letters, and where they end; -1, -1 where there is none."""
    if at >= stop:
        return -1, -1
    head: Any = np.int64(letters[at])
    at += 1
    size = np.int64(0)
    if 0xA0 <= head < 0xC0:
        size = head & 0x1F
    elif 0xD9 <= head <= 0xDB:
        more = 1 << (head - 0xD9)
        if at + more > stop:
            return -1, -1
        for number in range(more):
            size = size << 8 | np.int64(letters[at + number])
        at += more
    else:
        return -1, -1
    return (at, at + size) if at + size <= stop else (-1, -1)


@kernel
def key_parted(letters: Array, starts: Array, stops: Array, meters: Array, sizes: Array, starts_ms: Array) -> int:
    """What keys of windows say (`schemas.windows.encode_key`): where meter and size are written, and when the window starts.

    meters, sizes: of shape (2, rows), begin and end. Gives the first row that is no key, or all rows.
    """
    for row in range(len(starts)):
        at, stop = starts[row], stops[row]
        if stop - at < 2 or letters[at] != 0x95:
            return row
        begin, at = text_at(letters, at + 1, stop)
        if at < 0 or not is_text(letters, begin, at):
            return row
        begin, at = text_at(letters, at, stop)
        if at < 0 or at >= stop or not is_text(letters, begin, at):
            return row
        meters[0, row], meters[1, row] = begin, at
        head = np.int64(letters[at])
        at += 1
        pairs = head & 0x0F
        if head == 0xDC and at + 2 <= stop:
            pairs = np.int64(letters[at]) << 8 | np.int64(letters[at + 1])
            at += 2
        elif not 0x90 <= head < 0xA0:
            return row
        for _pair in range(pairs):
            if at >= stop or letters[at] != 0x92:
                return row
            begin, at = text_at(letters, at + 1, stop)
            if at < 0 or not is_text(letters, begin, at):
                return row
            begin, at = text_at(letters, at, stop)
            if at < 0 or not is_text(letters, begin, at):
                return row
        if at >= stop:
            return row
        head = np.int64(letters[at])
        at += 1
        number: Any = head
        if head >= 0xE0:
            number = head - 256
        elif head >= 0x80:
            if not 0xCC <= head <= 0xD3:
                return row
            more = 1 << ((head - 0xCC) & 3)
            if at + more > stop:
                return row
            number = np.int64(0)
            for byte in range(more):
                number = number << 8 | np.int64(letters[at + byte])
            if head >= 0xD0 and more < 8 and number >> (8 * more - 1):
                number -= 1 << 8 * more
            at += more
        if number < 0 or number > LAST_START_MS:
            return row
        starts_ms[row] = number
        begin, at = text_at(letters, at, stop)
        if at != stop or not is_text(letters, begin, at):
            return row
        sizes[0, row], sizes[1, row] = begin, at
    return len(starts)


@kernel
def key_subjects(letters: Array, starts: Array, stops: Array, subjects: Array) -> None:
    """Where the subjects of keys are written. subjects: of shape (2, rows), begin and end."""
    for row in range(len(starts)):
        begin, end = text_at(letters, starts[row] + 1, stops[row])
        subjects[0, row], subjects[1, row] = begin, end
