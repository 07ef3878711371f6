"""Kernels of the shares of one source partition (`tables/shares.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

SHARE_WORDS = 8
VERSION, EVENTS, HIGH, LOW, FIRST, THROUGH, UNITS, PLACES = range(SHARE_WORDS)
"""Of a share, as `schemas.partials.Rows` has them: a row takes what a processor fetches from its memory at once."""
ADD, LEAST, MOST, LATEST = 0, 1, 2, 3
"""What becomes of two amounts."""
NOTHING, EXACT = -1, -2
"""For places: there is no amount yet; it stands elsewhere, as a Decimal."""
_FULL = 1 << 62


@kernel
def counted(
    slots: Array, events: Array, digests: Array, firsts: Array, lasts: Array, held: Array, unsigned: Array
) -> None:  # fmt: skip
    """Adds so many events to shares: their number, the sum of their digests, the offsets of the first and the last.

    slots, events, firsts, lasts: int64, one each. digests: (2, n), uint64, the high words and the low. held: the shares, by
    slot; unsigned: the same words.
    """
    for row in range(len(slots)):
        slot = slots[row]
        held[slot, EVENTS] += events[row]
        low = unsigned[slot, LOW] + digests[1, row]
        carried = np.uint64(1) if low < digests[1, row] else np.uint64(0)
        unsigned[slot, HIGH] += digests[0, row] + carried
        unsigned[slot, LOW] = low
        held[slot, FIRST] = min(held[slot, FIRST], firsts[row])
        held[slot, THROUGH] = max(held[slot, THROUGH], lasts[row])


@kernel
def amounts_folded(
    kind: int, slots: Array, units: Array, places: int, moments: Array, held: Array, held_moments: Array, left: Array
) -> int:  # fmt: skip
    """Folds amounts, units x 10^-places, into shares; gives how many are left that a machine word cannot hold.

    kind: what becomes of two. moments: (3, n), int64, for LATEST: time, offset and index of each amount. held: the
    shares, by slot; held_moments: (slots, 3), of LATEST. Written: left, int64, the rows that are left.
    """
    many = 0
    for row in range(len(slots)):
        slot, unit = slots[row], units[row]
        if kind == LATEST:
            later = held[slot, PLACES] == NOTHING
            if not later:
                for part in range(3):
                    if moments[part, row] != held_moments[slot, part]:
                        later = moments[part, row] > held_moments[slot, part]
                        break
            if later and held[slot, PLACES] != EXACT:
                held[slot, UNITS], held[slot, PLACES] = unit, places
                for part in range(3):
                    held_moments[slot, part] = moments[part, row]
            elif later:
                left[many] = row
                many += 1
            continue
        if held[slot, PLACES] == NOTHING:
            held[slot, UNITS], held[slot, PLACES] = unit, places
            continue
        total, mine, theirs = held[slot, UNITS], places, held[slot, PLACES]
        fits = theirs != EXACT
        while fits and mine < theirs:
            fits = -_FULL // 10 < unit < _FULL // 10
            unit *= 10
            mine += 1
        while fits and theirs < mine:
            fits = -_FULL // 10 < total < _FULL // 10
            total *= 10
            theirs += 1
        if fits and kind == ADD:
            total += unit
            fits = -_FULL < total < _FULL
        if not fits:
            left[many] = row
            many += 1
            continue
        if kind == LEAST:
            total = min(total, unit)
        elif kind == MOST:
            total = max(total, unit)
        held[slot, UNITS], held[slot, PLACES] = total, theirs
    return many
