"""Kernels of the shares of one source partition (`tables/shares.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

ADD, LEAST, MOST, LATEST = 0, 1, 2, 3
"""What becomes of two amounts."""
NOTHING, EXACT = -1, -2
"""For places: there is no amount yet; it stands elsewhere, as a Decimal."""
_FULL = 1 << 62


@kernel
def counted(
    slots: Array, events: Array, digests: Array, firsts: Array, lasts: Array,
    held_events: Array, held_digests: Array, held_first: Array, held_through: Array,
) -> None:  # fmt: skip
    """Adds so many events to shares: their number, the sum of their digests, the offsets of the first and the last.

    slots, events, firsts, lasts: int64, one each. digests: (2, n), uint64, the high words and the low. The others: by slot.
    """
    for row in range(len(slots)):
        slot = slots[row]
        held_events[slot] += events[row]
        low = held_digests[1, slot] + digests[1, row]
        carried = np.uint64(1) if low < digests[1, row] else np.uint64(0)
        held_digests[0, slot] += digests[0, row] + carried
        held_digests[1, slot] = low
        held_first[slot] = min(held_first[slot], firsts[row])
        held_through[slot] = max(held_through[slot], lasts[row])


@kernel
def amounts_folded(
    kind: int, slots: Array, units: Array, places: int, moments: Array,
    held_units: Array, held_places: Array, held_moments: Array, left: Array,
) -> int:  # fmt: skip
    """Folds amounts, units x 10^-places, into shares; gives how many are left that a machine word cannot hold.

    kind: what becomes of two. moments: (3, n), int64, for LATEST: time, offset and index of each amount. held_…: by slot;
    places int8. Written: left, int64, the rows that are left.
    """
    many = 0
    for row in range(len(slots)):
        slot, unit = slots[row], units[row]
        if kind == LATEST:
            later = held_places[slot] == NOTHING
            if not later:
                for part in range(3):
                    if moments[part, row] != held_moments[part, slot]:
                        later = moments[part, row] > held_moments[part, slot]
                        break
            if later and held_places[slot] != EXACT:
                held_units[slot], held_places[slot] = unit, places
                for part in range(3):
                    held_moments[part, slot] = moments[part, row]
            elif later:
                left[many] = row
                many += 1
            continue
        if held_places[slot] == NOTHING:
            held_units[slot], held_places[slot] = unit, places
            continue
        held, mine, theirs = held_units[slot], places, np.int64(held_places[slot])
        fits = theirs != EXACT
        while fits and mine < theirs:
            fits = -_FULL // 10 < unit < _FULL // 10
            unit *= 10
            mine += 1
        while fits and theirs < mine:
            fits = -_FULL // 10 < held < _FULL // 10
            held *= 10
            theirs += 1
        if fits and kind == ADD:
            held += unit
            fits = -_FULL < held < _FULL
        if not fits:
            left[many] = row
            many += 1
            continue
        if kind == LEAST:
            held = min(held, unit)
        elif kind == MOST:
            held = max(held, unit)
        held_units[slot], held_places[slot] = held, theirs
    return many
