"""Kernels of the ground floor: digests of ids, and the lanes that ids come in (`schemas/compiled.py` says what a kernel is)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import kernel, part

Letters = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Word = Any
"""A `np.uint64`: mixed with an int64 it would become a float."""

# --- BLAKE2b (RFC 7693), digests of 16 bytes, no key ------------------------------------------------------------------

BLOCK = 128
_TOGETHER = 64
"""Digests that are finished together."""
_IV = np.array(
    [
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ],
    np.uint64,
)  # fmt: skip
_PARAMETERS = np.uint64(0x01010010)
"""Digests of 16 bytes, no key, one leaf (§2.5)."""
_32, _24, _16, _63, _40, _48, _1 = (np.uint64(bits) for bits in (32, 24, 16, 63, 40, 48, 1))
_8, _LOW, _MIDDLE = np.uint64(8), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@part
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


@part
def _round(
    at: Word,
    a0: Word, a1: Word, a2: Word, a3: Word, b0: Word, b1: Word, b2: Word, b3: Word,
    c0: Word, c1: Word, c2: Word, c3: Word, d0: Word, d1: Word, d2: Word, d3: Word,
    m0: Words, m1: Words, m2: Words, m3: Words, m4: Words, m5: Words, m6: Words, m7: Words,
    m8: Words, m9: Words, m10: Words, m11: Words, m12: Words, m13: Words, m14: Words, m15: Words,
) -> tuple[Word, ...]:  # fmt: skip
    """One round of twelve, with the words of the block in the order that is its turn (§2.7)."""
    a0, b0, c0, d0 = _mixed(a0, b0, c0, d0, m0[at], m1[at])
    a1, b1, c1, d1 = _mixed(a1, b1, c1, d1, m2[at], m3[at])
    a2, b2, c2, d2 = _mixed(a2, b2, c2, d2, m4[at], m5[at])
    a3, b3, c3, d3 = _mixed(a3, b3, c3, d3, m6[at], m7[at])
    a0, b1, c2, d3 = _mixed(a0, b1, c2, d3, m8[at], m9[at])
    a1, b2, c3, d0 = _mixed(a1, b2, c3, d0, m10[at], m11[at])
    a2, b3, c0, d1 = _mixed(a2, b3, c0, d1, m12[at], m13[at])
    a3, b0, c1, d2 = _mixed(a3, b0, c1, d2, m14[at], m15[at])
    return a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3


@part
def _rounds(
    at: Word, length: int, ends: Word,
    s0: Words, s1: Words, s2: Words, s3: Words, s4: Words, s5: Words, s6: Words, s7: Words,
    m0: Words, m1: Words, m2: Words, m3: Words, m4: Words, m5: Words, m6: Words, m7: Words,
    m8: Words, m9: Words, m10: Words, m11: Words, m12: Words, m13: Words, m14: Words, m15: Words,
) -> tuple[Word, ...]:  # fmt: skip
    """What goes into the state `at`: of all columns of states and blocks (§3.2)."""
    a0, a1, a2, a3, b0, b1, b2, b3 = s0[at], s1[at], s2[at], s3[at], s4[at], s5[at], s6[at], s7[at]
    c0, c1, c2, c3 = _IV[0], _IV[1], _IV[2], _IV[3]
    d0, d1, d2, d3 = _IV[4] ^ np.uint64(length), _IV[5], ends, _IV[7]
    # fmt: off
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m11, m8, m12, m0, m5, m2, m15, m13, m10, m14, m3, m6, m7, m1, m9, m4,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m7, m9, m3, m1, m13, m12, m11, m14, m2, m6, m5, m10, m4, m0, m15, m8,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m9, m0, m5, m7, m2, m4, m10, m15, m14, m1, m11, m12, m6, m8, m3, m13,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m2, m12, m6, m10, m0, m11, m8, m3, m4, m13, m7, m5, m15, m14, m1, m9,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m12, m5, m1, m15, m14, m13, m4, m10, m0, m7, m6, m3, m9, m2, m8, m11,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m13, m11, m7, m14, m12, m1, m3, m9, m5, m0, m15, m4, m8, m6, m2, m10,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m6, m15, m14, m9, m11, m3, m0, m8, m12, m2, m13, m7, m1, m4, m10, m5,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m10, m2, m8, m4, m7, m6, m1, m5, m15, m11, m9, m14, m3, m12, m13, m0,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15,
    )
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = _round(
        at, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3,
    )
    # fmt: on
    return a0 ^ c0, a1 ^ c1, a2 ^ c2, a3 ^ c3, b0 ^ d0, b1 ^ d1, b2 ^ d2, b3 ^ d3


@kernel
def _compress(s: Words, m: Words, length: int) -> None:
    """A block of 128 bytes that is not the last goes into a state: (8, 1) and (16, 1). length: of all text up to its end."""
    found = _rounds(
        np.uint64(0), length, _IV[6],
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7],
        m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9], m[10], m[11], m[12], m[13], m[14], m[15],
    )  # fmt: skip
    for at in range(8):
        s[at, 0] ^= found[at]


@kernel
def _finish(s: Words, m: Words, lengths: Integers, firsts: Words, seconds: Words) -> None:
    """The last block of each of many: (8, n) and (16, n). Gives of each digest the first two words.

    Written so that a processor does several at a time: nothing is called, nothing else is written, no index may be negative.
    """
    s0, s1, s2, s3, s4, s5, s6, s7 = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
    m0, m1, m2, m3, m4, m5, m6, m7 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]
    m8, m9, m10, m11, m12, m13, m14, m15 = m[8], m[9], m[10], m[11], m[12], m[13], m[14], m[15]
    for number in range(len(lengths)):
        at = np.uint64(number)
        found = _rounds(
            at, lengths[at], ~_IV[6],
            s0, s1, s2, s3, s4, s5, s6, s7, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15,
        )  # fmt: skip
        firsts[at] = s0[at] ^ found[0]
        seconds[at] = s1[at] ^ found[1]


@part
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
        _compress(state.reshape(8, 1), tail.reshape(16, 1), done)
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
    block = np.empty(16, np.uint64)
    held = block.view(np.uint8)
    state = np.empty((8, 1), np.uint64)
    together = np.zeros((8, _TOGETHER), np.uint64)
    blocks = np.zeros((16, _TOGETHER), np.uint64)
    whole = np.zeros(_TOGETHER, np.int64)
    firsts, seconds = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
    for first in range(0, len(starts), _TOGETHER):
        many = min(_TOGETHER, len(starts) - first)
        for number in range(many):
            row = first + number
            code = codes[row]
            for at in range(8):
                state[at, 0] = states[code, at]
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
                _compress(state, block.reshape(16, 1), done)
                for place in range(16):
                    block[place] = np.uint64(0)
                filled = 0
            for place in range(stop - at):
                held[filled + place] = letters[at + place]
            for place in range(16):
                blocks[place, number] = block[place]
            for place in range(8):
                together[place, number] = state[place, 0]
            whole[number] = done + filled + stop - at
        _finish(together, blocks, whole, firsts, seconds)
        for number in range(many):
            words[0, first + number] = _big_endian(firsts[number])
            words[1, first + number] = _big_endian(seconds[number])


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
