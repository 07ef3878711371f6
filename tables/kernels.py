"""Kernels of tables/ (see `schemas/compiled.py`): the index of a table of keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.block_kernels import AHEAD
from schemas.compiled import kernel, part

Array = Any
"""A numpy array; each kernel's docstring says of what."""

LIVE, NEXT, FREE, USED, GARBAGE = 0, 1, 2, 3, 4
"""In the counts of a table of keys: keys that are live, slots ever given out, slots to be given out again, bytes of the arena
in use, and those of them that belong to no key any more."""
PLACE, LENGTH = 0, 1
"""Of a slot: where its key begins in the arena, and how long it is."""


@kernel
def word_at(letters: Array, at: int, stop: int) -> Any:
    """Up to eight bytes from `at`, little-endian; what lies behind `stop` counts as 0."""
    word = np.uint64(0)
    for number in range(min(8, stop - at)):
        word |= np.uint64(letters[at + number]) << np.uint64(8 * number)
    return word


@kernel
def turned(word: Any, bits: int) -> Any:
    """Rotated to the left."""
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@kernel
def stirred(a: Any, b: Any, c: Any, d: Any) -> Any:
    """A round of SipHash."""
    a = a + b
    b = turned(b, 13) ^ a
    a = turned(a, 32)
    c = c + d
    d = turned(d, 16) ^ c
    a = a + d
    d = turned(d, 21) ^ a
    c = c + b
    b = turned(b, 17) ^ c
    c = turned(c, 32)
    return a, b, c, d


@kernel
def hash_of(letters: Array, start: int, stop: int, salt: Array) -> Any:
    """SipHash-1-3 of some bytes, of which 32 bits are kept, as a table's index has them: in the upper half of a word."""
    a = salt[0] ^ np.uint64(0x736F6D6570736575)
    b = salt[1] ^ np.uint64(0x646F72616E646F6D)
    c = salt[0] ^ np.uint64(0x6C7967656E657261)
    d = salt[1] ^ np.uint64(0x7465646279746573)
    at = start
    while at + 8 <= stop:
        word = (
            np.uint64(letters[at])
            | np.uint64(letters[at + 1]) << np.uint64(8)
            | np.uint64(letters[at + 2]) << np.uint64(16)
            | np.uint64(letters[at + 3]) << np.uint64(24)
            | np.uint64(letters[at + 4]) << np.uint64(32)
            | np.uint64(letters[at + 5]) << np.uint64(40)
            | np.uint64(letters[at + 6]) << np.uint64(48)
            | np.uint64(letters[at + 7]) << np.uint64(56)
        )
        d ^= word
        a, b, c, d = stirred(a, b, c, d)
        a ^= word
        at += 8
    word = word_at(letters, at, stop) | np.uint64(stop - start) << np.uint64(56)
    d ^= word
    a, b, c, d = stirred(a, b, c, d)
    a ^= word
    c ^= np.uint64(0xFF)
    a, b, c, d = stirred(a, b, c, d)
    a, b, c, d = stirred(a, b, c, d)
    a, b, c, d = stirred(a, b, c, d)
    return (a ^ b ^ c ^ d) >> np.uint64(32) << np.uint64(32)


@kernel
def keys_hashed(letters: Array, starts: Array, stops: Array, salt: Array, hashes: Array) -> None:
    """The hashes of keys; by themselves, so that the processor looks into the index for many keys at once."""
    for row in range(len(starts)):
        hashes[row] = hash_of(letters, starts[row], stops[row], salt)


@kernel
def key_slots(
    letters: Array,
    starts: Array,
    stops: Array,
    row: int,
    add: bool,
    hashes: Array,
    index: Array,
    arena: Array,
    spots: Array,
    free: Array,
    counts: Array,
    slots: Array,
    new: Array,
) -> int:
    """Finds rows from `row` on in a table of keys, or adds them. Gives the row it came to: all, or the one there is no room for.

    hashes: of each row, as `keys_hashed` has them. index: open addressing, a hash in the upper half of a word and slot + 1 in
    the lower; 0 is empty. spots: of each slot where its key begins in the arena and how long it is, -1 where the slot is free.
    free: a stack of slots.
    """
    mask = np.uint64(len(index) - 1)
    low = np.uint64(0xFFFFFFFF)
    for at in range(row, len(starts)):
        if (at - row) % AHEAD == 0:
            looked_ahead(hashes, index, arena, spots, at, min(at + AHEAD, len(starts)), slots, new)
        start, stop = starts[at], stops[at]
        length = stop - start
        found = hashes[at]
        place = (found >> np.uint64(32)) & mask
        slots[at] = -1
        new[at] = False
        entry = index[place]
        while entry != np.uint64(0):
            if entry & ~low == found:
                slot = np.int64(entry & low) - 1
                begin = spots[slot, PLACE]
                if spots[slot, LENGTH] == length:
                    mine, theirs = letters[start:stop], arena[begin : begin + length]
                    different = np.uint8(0)
                    for number in range(length):
                        different |= mine[number] ^ theirs[number]
                    if different == 0:
                        slots[at] = slot
                        break
            place = (place + np.uint64(1)) & mask
            entry = index[place]
        if entry != np.uint64(0) or not add:
            continue
        if 3 * (counts[LIVE] + 1) > 2 * len(index) or counts[USED] + length > len(arena):
            return at
        if counts[FREE] > 0:
            counts[FREE] -= 1
            slot = np.int64(free[counts[FREE]])
        elif counts[NEXT] < len(spots):
            slot = counts[NEXT]
            counts[NEXT] += 1
        else:
            return at
        begin = counts[USED]
        for number in range(length):
            arena[begin + number] = letters[start + number]
        counts[USED] = begin + length
        counts[LIVE] += 1
        spots[slot, PLACE], spots[slot, LENGTH] = begin, length
        index[place] = found | np.uint64(slot + 1)
        slots[at] = slot
        new[at] = True
    return len(starts)


@part
def looked_ahead(
    hashes: Array, index: Array, arena: Array, spots: Array, begin: int, end: int, slots: Array, new: Array
) -> None:
    """Touches what `key_slots` will look at for some rows, step by step: a processor waits for many rows of a step at once.

    slots, new: scratch, of these rows.
    """
    mask, last = np.uint64(len(index) - 1), len(arena) - 1
    for at in range(begin, end):
        entry = index[(hashes[at] >> np.uint64(32)) & mask]
        slots[at] = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
    for at in range(begin, end):
        slots[at] = spots[max(slots[at], 0), PLACE]
    for at in range(begin, end):
        new[at] = arena[min(max(slots[at], 0), last)] > 0


@kernel
def keys_removed(
    slots: Array, salt: Array, index: Array, arena: Array, spots: Array, free: Array, counts: Array
) -> int:
    """Takes keys out of their table; the entries behind theirs move up. Gives the row of a slot that has none, or all rows."""
    mask = np.uint64(len(index) - 1)
    low = np.uint64(0xFFFFFFFF)
    one = np.uint64(1)
    for at in range(len(slots)):
        slot = slots[at]
        if slot < 0 or slot >= counts[NEXT] or spots[slot, LENGTH] < 0:
            return at
        found = hash_of(arena, spots[slot, PLACE], spots[slot, PLACE] + spots[slot, LENGTH], salt)
        place = (found >> np.uint64(32)) & mask
        while index[place] & low != np.uint64(slot + 1):
            place = (place + one) & mask
        hole = place
        while True:
            place = (place + one) & mask
            entry = index[place]
            if entry == np.uint64(0):
                break
            home = (entry >> np.uint64(32)) & mask
            if (place - home) & mask >= (place - hole) & mask:
                index[hole] = entry
                hole = place
        index[hole] = np.uint64(0)
        counts[GARBAGE] += spots[slot, LENGTH]
        counts[LIVE] -= 1
        spots[slot, LENGTH] = -1
        free[counts[FREE]] = slot
        counts[FREE] += 1
    return len(slots)


@kernel
def keys_indexed(entries: Array, index: Array) -> None:
    """Puts the entries of an index into another, empty one."""
    mask = np.uint64(len(index) - 1)
    for at in range(len(entries)):
        entry = entries[at]
        if entry != np.uint64(0):
            place = (entry >> np.uint64(32)) & mask
            while index[place] != np.uint64(0):
                place = (place + np.uint64(1)) & mask
            index[place] = entry


@kernel
def spots_of(slots: Array, spots: Array, starts: Array, stops: Array) -> None:
    """Where in the arena the keys of these slots begin and end."""
    for row in range(len(slots)):
        begin = spots[slots[row], PLACE]
        starts[row], stops[row] = begin, begin + spots[slots[row], LENGTH]


@kernel
def keys_moved(arena: Array, spots: Array, high: int, moved: Array) -> int:
    """Copies the keys of live slots into another arena, one behind the other. Gives how many bytes they are."""
    used = 0
    for slot in range(high):
        begin, length = spots[slot]
        if length >= 0:
            for number in range(length):
                moved[used + number] = arena[begin + number]
            spots[slot, PLACE] = used
            used += int(length)
    return used


@kernel
def keys_beginning(prefix: Array, arena: Array, spots: Array, high: int, found: Array) -> int:
    """The slots whose keys begin so, ascending. Gives how many."""
    size = 0
    for slot in range(high):
        begin, length = spots[slot]
        if length >= len(prefix):
            same = True
            for number in range(len(prefix)):
                if arena[begin + number] != prefix[number]:
                    same = False
                    break
            if same:
                found[size] = slot
                size += 1
    return size
