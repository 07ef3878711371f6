"""Kernels of CLOSING's table: shares joined per window and source, and what is asked of many windows at once.

A window is a row of `windows`, at the slot of its key; a share a row of `shares`, in a chain per window, one per source.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

WINDOW_WORDS = 8
HEAD, VERSION, REVISION, REVISED_AT, MARKS, SAID_EVENTS, SAID_HIGH, SAID_LOW = range(WINDOW_WORDS)
"""Of a window: its first share, and so on; what was said last of its events and the two words of their digest."""
CHANGED, MOVED = 1, 2
"""Marks of a window: noted in `changed`, in `moved`."""

SHARE_WORDS = 11
NEXT, SOURCE, WINDOW, EVENTS, HIGH, LOW, FIRST, THROUGH, UNITS, PLACES, TOUCHED = range(SHARE_WORDS)
"""Of a share: the next one of its window, its source (-1: there is none here), its window, and what `Rows` says."""
NONE, ASIDE = -1, -2
"""No share; places of a share whose amount stands aside (`tables/joined.py`)."""

SHARES, FREE, NOTED_TOUCHED, NOTED_CHANGED, NOTED_MOVED = range(5)
"""Counts: shares ever made, rows to be used again, and how many are in each list."""


@kernel
def shares_joined(
    newest_first: bool,
    sources: Array,
    slots: Array,
    values: Array,
    windows: Array,
    shares: Array,
    free: Array,
    counts: Array,
    touched: Array,
    changed: Array,
    moved: Array,
    took: Array,
) -> Any:
    """Joins rows into their windows; those of slot -1 have none. Gives the events this adds, and the highest `through` taken.

    Of one source the highest `through` holds, of equal ones the one of fewer events; newest_first: the first that comes.
    values: of shape (rows, 8), as `Rows` has them, versions first. touched, changed, moved: lists that note what was taken:
    shares, windows that have a revision, windows. took: of each row its share, -1 where it was not taken.
    """
    added, highest = 0, -1
    for row in range(len(slots)):
        slot = slots[row]
        took[row] = NONE
        if slot < 0:
            continue
        source, events, through = sources[row], values[row, 1], values[row, 5]
        share = windows[slot, HEAD]
        while share != NONE and shares[share, SOURCE] != source:
            share = shares[share, NEXT]
        if share == NONE:
            if counts[FREE] > 0:
                counts[FREE] -= 1
                share = free[counts[FREE]]
            else:
                share = counts[SHARES]
                counts[SHARES] += 1
            shares[share, NEXT] = windows[slot, HEAD]
            windows[slot, HEAD] = share
            shares[share, SOURCE] = source
            shares[share, WINDOW] = slot
            shares[share, TOUCHED] = 0
            added += events
        else:
            held, before = shares[share, THROUGH], shares[share, EVENTS]
            if newest_first or through < held or (through == held and events >= before):
                continue
            added += events - before
        highest = max(highest, through)
        took[row] = share
        for number in range(7):
            shares[share, EVENTS + number] = values[row, 1 + number]
        if newest_first:
            continue
        if shares[share, TOUCHED] == 0:
            shares[share, TOUCHED] = 1
            touched[counts[NOTED_TOUCHED]] = share
            counts[NOTED_TOUCHED] += 1
        marks = windows[slot, MARKS]
        if marks & MOVED == 0:
            moved[counts[NOTED_MOVED]] = slot
            counts[NOTED_MOVED] += 1
        if windows[slot, REVISION] > 0 and marks & CHANGED == 0:
            changed[counts[NOTED_CHANGED]] = slot
            counts[NOTED_CHANGED] += 1
            marks |= CHANGED
        windows[slot, MARKS] = marks | MOVED
    return added, highest


@kernel
def windows_removed(slots: Array, windows: Array, shares: Array, free: Array, counts: Array) -> None:
    """Windows and their shares are gone."""
    for row in range(len(slots)):
        slot = slots[row]
        share = windows[slot, HEAD]
        while share != NONE:
            shares[share, SOURCE] = NONE
            shares[share, TOUCHED] = 0
            free[counts[FREE]] = share
            counts[FREE] += 1
            share = shares[share, NEXT]
        windows[slot, HEAD] = NONE
        windows[slot, MARKS] = 0


@kernel
def windows_pending(slots: Array, windows: Array, shares: Array, pending: Array) -> None:
    """Of each window whether its shares come to something else than what was said last."""
    for row in range(len(slots)):
        slot = slots[row]
        events = np.int64(0)
        high, low = np.uint64(0), np.uint64(0)
        share = windows[slot, HEAD]
        while share != NONE:
            events += shares[share, EVENTS]
            more = np.uint64(shares[share, LOW])
            low += more
            high += np.uint64(shares[share, HIGH])
            if low < more:
                high += np.uint64(1)
            share = shares[share, NEXT]
        said = windows[slot, SAID_EVENTS]
        same = (
            events == said and np.int64(high) == windows[slot, SAID_HIGH] and np.int64(low) == windows[slot, SAID_LOW]
        )
        pending[row] = events + said > 0 and not same


@kernel
def noted_touched(touched: Array, count: int, shares: Array, found: Array) -> int:
    """The shares of a list that are still there, each once; they are touched no more. Gives how many."""
    size = 0
    for row in range(count):
        share = touched[row]
        if shares[share, TOUCHED] == 1:
            shares[share, TOUCHED] = 0
            found[size] = share
            size += 1
    return size


@kernel
def noted_windows(noted: Array, count: int, mark: int, windows: Array, found: Array) -> int:
    """The windows of a list that still have its mark, each once; they have it no more. Gives how many."""
    size = 0
    for row in range(count):
        slot = noted[row]
        if windows[slot, MARKS] & mark != 0:
            windows[slot, MARKS] &= ~mark
            found[size] = slot
            size += 1
    return size


@kernel
def shares_parted(rows: Array, shares: Array, windows: Array, columns: Array, slots: Array, aside: Array) -> int:
    """Shares as columns: their source, the version of their window, and what `Rows` says; slots: their windows.

    columns: of shape (9, rows). Gives how many there are; those whose amount stands aside are left out, and in `aside`.
    """
    size = 0
    for row in range(len(rows)):
        share = rows[row]
        if shares[share, PLACES] == ASIDE:
            aside[row - size] = share
            continue
        slot = shares[share, WINDOW]
        slots[size] = slot
        columns[0, size] = shares[share, SOURCE]
        columns[1, size] = windows[slot, VERSION]
        for number in range(7):
            columns[2 + number, size] = shares[share, EVENTS + number]
        size += 1
    return size
