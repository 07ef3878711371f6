"""Kernels of the ground floor: digests of ids, and the lanes that ids come in (`schemas/compiled.py` says what a kernel is)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel

Letters = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Word = Any
"""A `np.uint64`: mixed with an int64 it would become a float."""

# --- BLAKE2b (RFC 7693), digests of 16 bytes, no key ------------------------------------------------------------------

BLOCK = 128
_IV = np.array(
    [
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ],
    np.uint64,
)  # fmt: skip
_PARAMETERS = np.uint64(0x01010010)
"""Digests of 16 bytes, no key, one leaf (§2.5)."""
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.int64,
)
_32, _24, _16, _63, _40, _48, _1 = (np.uint64(bits) for bits in (32, 24, 16, 63, 40, 48, 1))
_8, _LOW, _MIDDLE = np.uint64(8), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@kernel
def _mixed(a: Word, b: Word, c: Word, d: Word, x: Word, y: Word) -> tuple[Word, Word, Word, Word]:
    """The function G (§3.1)."""
    a = a + b + x
    d = d ^ a
    d = (d >> _32) | (d << _32)
    c = c + d
    b = b ^ c
    b = (b >> _24) | (b << _40)
    a = a + b + y
    d = d ^ a
    d = (d >> _16) | (d << _48)
    c = c + d
    b = b ^ c
    b = (b >> _63) | (b << _1)
    return a, b, c, d


@kernel
def _compress(state: Words, block: Words, length: int, last: bool) -> None:
    """One block of 128 bytes goes into a state. length: of all text up to its end (§3.2)."""
    a0, a1, a2, a3, b0, b1, b2, b3 = (
        state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7],
    )  # fmt: skip
    c0, c1, c2, c3 = _IV[0], _IV[1], _IV[2], _IV[3]
    d0, d1, d2, d3 = _IV[4] ^ np.uint64(length), _IV[5], _IV[6], _IV[7]
    if last:
        d2 = ~d2
    for number in range(12):
        order = _SIGMA[number]
        a0, b0, c0, d0 = _mixed(a0, b0, c0, d0, block[order[0]], block[order[1]])
        a1, b1, c1, d1 = _mixed(a1, b1, c1, d1, block[order[2]], block[order[3]])
        a2, b2, c2, d2 = _mixed(a2, b2, c2, d2, block[order[4]], block[order[5]])
        a3, b3, c3, d3 = _mixed(a3, b3, c3, d3, block[order[6]], block[order[7]])
        a0, b1, c2, d3 = _mixed(a0, b1, c2, d3, block[order[8]], block[order[9]])
        a1, b2, c3, d0 = _mixed(a1, b2, c3, d0, block[order[10]], block[order[11]])
        a2, b3, c0, d1 = _mixed(a2, b3, c0, d1, block[order[12]], block[order[13]])
        a3, b0, c1, d2 = _mixed(a3, b0, c1, d2, block[order[14]], block[order[15]])
    state[0] ^= a0 ^ c0
    state[1] ^= a1 ^ c1
    state[2] ^= a2 ^ c2
    state[3] ^= a3 ^ c3
    state[4] ^= b0 ^ d0
    state[5] ^= b1 ^ d1
    state[6] ^= b2 ^ d2
    state[7] ^= b3 ^ d3


@kernel
def _big_endian(word: Word) -> Word:
    """The number that the bytes of a little-endian word are when the first comes first."""
    word = ((word >> _8) & _LOW) | ((word & _LOW) << _8)
    word = ((word >> _16) & _MIDDLE) | ((word & _MIDDLE) << _16)
    return (word >> _32) | (word << _32)


@kernel
def begin(letters: Letters, state: Words, tail: Words) -> int:
    """Begins digests of texts that all begin alike. state (8,), tail (16,): the hash of whole blocks, and what is left over.

    Gives how many bytes are in `state`; what is left over is at least one byte, for the last block is another's.
    """
    for at in range(8):
        state[at] = _IV[at]
    state[0] ^= _PARAMETERS
    left = tail.view(np.uint8)
    done = 0
    while len(letters) - done > BLOCK:
        for at in range(BLOCK):
            left[at] = letters[done + at]
        done += BLOCK
        _compress(state, tail, done, False)
    for at in range(16):
        tail[at] = np.uint64(0)
    for at in range(len(letters) - done):
        left[at] = letters[done + at]
    return done


@kernel
def digests(
    letters: Letters, starts: Integers, stops: Integers, codes: Integers,
    states: Words, tails: Words, hashed: Integers, lengths: Integers, words: Words,
) -> None:  # fmt: skip
    """Of texts the digests, each behind the beginning that its code names. words: (2, n), two big-endian words of each.

    states (m, 8), tails (m, 16), hashed: as `begin` left them; lengths: of the beginnings.
    """
    state = np.empty(8, np.uint64)
    block = np.empty(16, np.uint64)
    held = block.view(np.uint8)
    for row in range(len(starts)):
        code = codes[row]
        for at in range(8):
            state[at] = states[code, at]
        for at in range(16):
            block[at] = tails[code, at]
        done = hashed[code]
        filled = lengths[code] - done
        at, stop = starts[row], stops[row]
        while filled + stop - at > BLOCK:
            for place in range(filled, BLOCK):
                held[place] = letters[at]
                at += 1
            done += BLOCK
            _compress(state, block, done, False)
            for place in range(16):
                block[place] = np.uint64(0)
            filled = 0
        for place in range(stop - at):
            held[filled + place] = letters[at + place]
        _compress(state, block, done + filled + stop - at, True)
        words[0, row] = _big_endian(state[0])
        words[1, row] = _big_endian(state[1])


# --- ids that end in a counter ----------------------------------------------------------------------------------------

DIGITS = 18
"""Of a counter, at most: it fits into a word."""
_ZERO, _NINE = np.uint8(48), np.uint8(57)


@kernel
def _hexadecimal(letter: int) -> bool:
    return 48 <= letter <= 57 or 65 <= letter <= 70 or 97 <= letter <= 102


@kernel
def _same(
    letters: Letters, start: int, length: int, code: int, first: int, starts: Integers, end: int, codes: Integers
) -> bool:
    """Whether a text before a counter is that of the row `first`, which ends at `end`."""
    other = starts[first]
    if codes[first] != code or end - other != length:
        return False
    for at in range(length):  # noqa: SIM110
        if letters[start + at] != letters[other + at]:
            return False
    return True


@kernel
def lanes_of(
    letters: Letters, starts: Integers, stops: Integers, codes: Integers, secret: int,
    lanes: Integers, counters: Integers, firsts: Integers, ends: Integers,
) -> int:  # fmt: skip
    """Which ids end in a counter, and in which lane each is: all of one code and one text before the counter.

    secret: odd; nobody who does not know it can make up texts that crowd together. lanes, counters: of each id, -1 where it
    ends in none. firsts, ends: of each lane its first row, and where that row's text before the counter ends. Gives their
    number; they are numbered as they come.
    """
    many = 0
    room = 16
    while room < 2 * len(starts):
        room *= 2
    places = np.full(room, -1, np.int64)
    shift = np.uint64(40)
    factor = np.uint64(secret)
    last = -1
    for row in range(len(starts)):
        lanes[row] = -1
        counters[row] = -1
        start, stop = starts[row], stops[row]
        end = stop
        counter: Any = 0
        scale = 1
        while end > start and stop - end <= DIGITS and _ZERO <= letters[end - 1] <= _NINE:
            end -= 1
            if stop - end <= DIGITS:
                counter += (np.int64(letters[end]) - 48) * scale
                scale *= 10
        digits = stop - end
        if digits == 0 or digits > DIGITS or end == start or _hexadecimal(letters[end - 1]):
            continue
        if digits > 1 and letters[end] == _ZERO:
            continue
        length = end - start
        code = codes[row]
        lane = last  # neighbours are often of one lane
        if last >= 0 and not _same(letters, start, length, code, firsts[last], starts, ends[last], codes):
            lane = -1
        if lane < 0:
            hashed = np.uint64(code) * factor
            for at in range(start, end):
                hashed = (hashed + np.uint64(letters[at]) + np.uint64(1)) * factor
                hashed ^= hashed >> shift
            place = np.int64(hashed >> np.uint64(20)) & (room - 1)
            while places[place] >= 0:
                lane = places[place]
                if _same(letters, start, length, code, firsts[lane], starts, ends[lane], codes):
                    break
                lane = -1
                place = (place + 1) & (room - 1)
            if lane < 0:
                lane = many
                places[place] = lane
                firsts[lane] = row
                ends[lane] = end
                many += 1
        last = lane
        lanes[row] = lane
        counters[row] = counter
    return many
