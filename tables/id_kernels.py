"""Kernels of known ids that are held by their digests: in open addressing, and on disk (`schemas/compiled.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel

Letters = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]
Word = Any
"""A `np.uint64`: mixed with an int64 it would become a float."""
Number = Any
"""An int64; `int` would leave a word one."""

_AHEAD = 64
"""Ids whose slots are fetched into the processor's cache together, before they are looked at."""
_32, _LOW32 = np.uint64(32), np.uint64(0xFFFFFFFF)

# --- ids by their digests: open addressing, each in the first free slot from its own on ---------------------------------
#
# words: (n, 2), of each slot a digest; codes: of each its bucket of time, 0 for a free one. An id's own slot follows from its
# mix, a salted hash, behind the first `depth` bits, which all ids of a table have alike: so slots are in the order of mixes.


@kernel
def mixes_of(words: Words, first: Word, last: Word, mixes: Words) -> None:
    """Of digests, (2, n), the mix. first, last: the salt."""
    for row in range(len(mixes)):
        mixes[row] = words[0, row] * first + words[1, row] * last


@kernel
def _own(mix: Word, depth: int, slots: int) -> Number:
    return np.int64((((mix << np.uint64(depth)) >> _32) * np.uint64(slots)) >> _32)


@kernel
def _seek(words: Words, codes: Codes, slot: int, first: Word, last: Word) -> int:
    """The slot of a digest, looked for from its own on, or the first free one."""
    while True:
        if words[slot, 0] == first and words[slot, 1] == last and codes[slot] != 0:
            return slot
        if words[slot, 0] == 0 and codes[slot] == 0:
            return slot
        slot += 1
        if slot == len(codes):
            slot = 0


@kernel
def count_in_table(
    words: Words, codes: Codes, depth: int,
    rows: Integers, digests: Words, mixes: Words, times: Integers, floors: Integers, elsewhere: Integers, fates: Letters,
    touched: Words,
) -> int:  # fmt: skip
    """Ids in the log's order, those of `rows`: fate 2 for a duplicate; any other is put in, fate 0. Gives the slots taken.

    times: of each its bucket, as a code; an id is known while its own is not below the floor. elsewhere: the code it has in
    other places. There must be a slot left when all are new. touched: (1,), written so that what is fetched ahead is fetched.
    """
    slots = len(codes)
    taken = 0
    for begin in range(0, len(rows), _AHEAD):
        end = min(begin + _AHEAD, len(rows))
        for at in range(begin, end):
            touched[0] ^= words[_own(mixes[rows[at]], depth, slots), 0]
        for at in range(begin, end):
            row = rows[at]
            fates[row] = 2
            slot = _seek(words, codes, _own(mixes[row], depth, slots), digests[0, row], digests[1, row])
            code: Number = np.int64(codes[slot])
            if (code != 0 and code >= floors[row]) or elsewhere[row] >= floors[row]:
                continue
            fates[row] = 0
            if code == 0:
                words[slot, 0] = digests[0, row]
                words[slot, 1] = digests[1, row]
                taken += 1
            codes[slot] = np.uint32(times[row])
    return taken


@kernel
def find_in_table(
    words: Words, codes: Codes, depth: int, rows: Integers, digests: Words, mixes: Words, found: Integers
) -> None:
    """Raises of each of `rows` what is found to the code it has in the table."""
    for at in range(len(rows)):
        row = rows[at]
        slot = _seek(words, codes, _own(mixes[row], depth, len(codes)), digests[0, row], digests[1, row])
        code: Number = np.int64(codes[slot])
        if code > found[row]:
            found[row] = code


@kernel
def move(
    words: Words, codes: Codes, first: Word, last: Word, floor: int, shift: int, prefix: Word,
    into: Words, into_codes: Codes, depth: int,
) -> int:  # fmt: skip
    """Puts what is in one table into another that has room: codes from `floor` on, less `shift`, whose mix has this prefix.

    Gives how many they were. It begins behind a free slot, so that they come in the order of their mixes.
    """
    slots = len(codes)
    many = 0
    begin = 0
    while begin < slots and codes[begin] != 0:
        begin += 1
    for number in range(slots):
        slot = begin + number
        if slot >= slots:
            slot -= slots
        code: Number = np.int64(codes[slot])
        if code == 0 or code < floor:
            continue
        mix = words[slot, 0] * first + words[slot, 1] * last
        if depth > 0 and mix >> np.uint64(64 - depth) != prefix:
            continue
        free = _seek(into, into_codes, _own(mix, depth, len(into_codes)), words[slot, 0], words[slot, 1])
        many += 1 if into_codes[free] == 0 else 0
        into[free, 0] = words[slot, 0]
        into[free, 1] = words[slot, 1]
        into_codes[free] = max(into_codes[free], np.uint32(code - shift))
    return many


@kernel
def unite_in_table(
    words: Words, codes: Codes, depth: int, rows: Integers, digests: Words, mixes: Words, times: Integers
) -> int:
    """Puts ids in; of one that is there the later code holds. Gives the slots taken."""
    taken = 0
    for at in range(len(rows)):
        row = rows[at]
        slot = _seek(words, codes, _own(mixes[row], depth, len(codes)), digests[0, row], digests[1, row])
        if codes[slot] == 0:
            words[slot, 0] = digests[0, row]
            words[slot, 1] = digests[1, row]
            taken += 1
        codes[slot] = max(codes[slot], np.uint32(times[row]))
    return taken


@kernel
def group(numbers: Integers, bounds: Integers, order: Integers) -> None:
    """order: the rows by their number, as they come within one. bounds: (m + 1,), where each number's rows begin."""
    for at in range(len(bounds)):
        bounds[at] = 0
    for row in range(len(numbers)):
        bounds[numbers[row] + 1] += 1
    for at in range(1, len(bounds)):
        bounds[at] += bounds[at - 1]
    filled = bounds.copy()
    for row in range(len(numbers)):
        order[filled[numbers[row]]] = row
        filled[numbers[row]] += 1


# --- what is on disk: a filter in memory says what is surely not there --------------------------------------------------

_BITS = 7
"""Of an id, all in one line of the processor's cache: at 12 bits an id less than one in a hundred is found for nothing."""
_STRIDE = np.uint64(0x9E3779B97F4A7C15)


@kernel
def fill_filter(bits: Words, mixes: Words, lasts: Words) -> None:
    """bits: (n, 8). mixes, lasts: of ids the mix, and the last word of the digest."""
    for row in range(len(mixes)):
        line: Number = np.int64(((mixes[row] & _LOW32) * np.uint64(len(bits))) >> _32)
        chosen = lasts[row] * _STRIDE
        for _ in range(_BITS):
            chosen = (chosen >> np.uint64(9)) | (chosen << np.uint64(55))
            bit = chosen & np.uint64(511)
            bits[line, np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))


@kernel
def pass_filter(bits: Words, rows: Integers, mixes: Words, digests: Words, passed: Integers) -> int:
    """Which of `rows` may be there. Gives their number."""
    many = 0
    for at in range(len(rows)):
        row = rows[at]
        line: Number = np.int64(((mixes[row] & _LOW32) * np.uint64(len(bits))) >> _32)
        chosen = digests[1, row] * _STRIDE
        there = True
        for _ in range(_BITS):
            chosen = (chosen >> np.uint64(9)) | (chosen << np.uint64(55))
            bit = chosen & np.uint64(511)
            if bits[line, np.int64(bit >> np.uint64(6))] & (np.uint64(1) << (bit & np.uint64(63))) == 0:
                there = False
                break
        if there:
            passed[many] = row
            many += 1
    return many
