"""The shares of one source partition as rows of words: what it has contributed to each window, by slot (`tables/keys.py`).

======== ===================== ===============================
          carried               fold
sum, avg  amount                +
count     nothing               (events)
min, max  amount                min, max
latest    amount and its place  later (time, offset, index)
======== ===================== ===============================

An amount is a whole number of 10^-places in a machine word for as long as it fits, and else a Decimal; which of them is
nothing that anyone could tell. Exact: 60 digits with Inexact trapped (design §5).
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.blocks import still
from schemas.numbers import SUM
from schemas.partials import COLUMNS, scaled
from schemas.written import Flags, Integers
from tables.aggregates import Place, Share
from tables.keys import lengthened
from tables.share_kernels import (
    ADD,
    EVENTS,
    EXACT,
    FIRST,
    HIGH,
    LATEST,
    LEAST,
    LOW,
    MOST,
    NOTHING,
    PLACES,
    SHARE_WORDS,
    THROUGH,
    UNITS,
    VERSION,
    amounts_folded,
    counted,
)

Words = npt.NDArray[np.uint64]

KINDS = {"sum": ADD, "avg": ADD, "min": LEAST, "max": MOST, "latest": LATEST}
"""Aggregations that carry an amount, and what becomes of two."""
_ROOM = 1024
assert SHARE_WORDS == COLUMNS, "a row of shares is one of `Rows`"
_NOTHING_YET = (0, 0, 0, 0, (1 << 63) - 1, -1, 0, NOTHING)
_WORD = (1 << 64) - 1


class Sums(NamedTuple):
    """Events of several shares, counted already. digests: (2, n), high words and low. firsts, lasts: offsets."""

    events: Integers
    digests: Words
    firsts: Integers
    lasts: Integers


class Shares:
    """Shares by slot; a slot that is taken newly is to be `cleared` first.

    rows: (slots, 8), as those of `Rows`; but places are EXACT where the amount stands aside, as a Decimal.
    """

    def __init__(self) -> None:
        self.rows = np.zeros((_ROOM, SHARE_WORDS), np.int64)
        self._moments = np.full((0, 3), -1, np.int64)  # places of amounts; none before there is a `latest`
        self._exact: dict[int, Decimal] = {}

    def clear(self, slots: Integers, room: int, versions: Integers | int) -> None:
        """These slots are of new windows: nothing is folded in yet. room: all slots are below. versions: of their meters."""
        self.rows = lengthened(self.rows, room)
        self.rows[slots] = _NOTHING_YET
        self.rows[slots, VERSION] = versions
        if len(self._moments):
            self._have_moments()
            self._moments[slots] = -1
        if self._exact:
            for slot in slots.tolist():
                self._exact.pop(slot, None)

    def _have_moments(self) -> None:
        """Room for a place of every slot's amount."""
        self._moments = lengthened(self._moments, len(self.rows), -1)

    def count(self, slots: Integers, sums: Sums) -> None:
        """So many events more; a slot may be there twice."""
        counted(
            still(slots, np.int64), still(sums.events, np.int64), still(sums.digests, np.uint64),
            still(sums.firsts, np.int64), still(sums.lasts, np.int64), self.rows, self.rows.view(np.uint64),
        )  # fmt: skip

    def fold(
        self, aggregation: str, slots: Integers, units: Integers, places: int, moments: Integers | None = None
    ) -> None:
        """Folds amounts, units x 10^-places. moments: (3, n): for `latest`, of each its time, offset and index."""
        left = np.empty(len(slots), np.int64)
        if moments is None:
            moments = np.empty((3, 0), np.int64)
        else:
            self._have_moments()
        many = amounts_folded(
            KINDS[aggregation], still(slots, np.int64), still(units, np.int64), places, still(moments, np.int64),
            self.rows, self._moments, left,
        )  # fmt: skip
        for row in left[:many].tolist():
            amount = Decimal(int(units[row])).scaleb(-places, SUM)
            at = tuple(moments[:, row].tolist()) if aggregation == "latest" else None
            self.fold_exactly(aggregation, int(slots[row]), amount, at)

    def fold_exactly(self, aggregation: str, slot: int, amount: Decimal, at: Place | None = None) -> None:
        """Folds one amount. at: for `latest`, its time, offset and index."""
        held = self.amount(slot)
        if aggregation == "latest":
            assert at is not None
            self._have_moments()
            if held is not None and at <= tuple(self._moments[slot].tolist()):
                return
            self._moments[slot] = at
        elif held is not None:
            if aggregation == "min":
                amount = min(held, amount)
            elif aggregation == "max":
                amount = max(held, amount)
            else:
                amount = SUM.add(held, amount)
        self._hold(slot, amount)

    def amount(self, slot: int) -> Decimal | None:
        """What the aggregation carries."""
        units, places = self.rows[slot, UNITS:].tolist()
        if places == EXACT:
            return self._exact[slot]
        return None if places == NOTHING else Decimal(units).scaleb(-places, SUM)

    def share(self, slot: int) -> Share:
        """One of them as it is now."""
        _, events, high, low, first, through = self.rows[slot, :UNITS].tolist()
        at = None
        if len(self._moments) and self._moments[slot, 0] >= 0:
            at = tuple(self._moments[slot].tolist())
        return Share(first, events, (high & _WORD) << 64 | low & _WORD, through, self.amount(slot), at)

    def put(self, slot: int, share: Share) -> None:
        """Sets one of them; its slot is cleared."""
        self.rows[slot, EVENTS], self.rows[slot, FIRST], self.rows[slot, THROUGH] = (
            share.events,
            share.first,
            share.through,
        )
        self.rows.view(np.uint64)[slot, HIGH : LOW + 1] = share.digest >> 64, share.digest & _WORD
        if share.amount is not None:
            self._hold(slot, share.amount)
        if share.at is not None:
            self._have_moments()
            self._moments[slot] = share.at

    def in_words(self, slots: Integers) -> Flags:
        """Which of them have nothing but machine words: no amount that does not fit, and no place of one."""
        fits: Flags = self.rows[slots, PLACES] != EXACT
        if len(self._moments):
            fits &= self._moments[slots, 0] < 0
        return fits

    def _hold(self, slot: int, amount: Decimal) -> None:
        word = scaled(amount)
        if word is None:
            self._exact[slot] = amount
            self.rows[slot, PLACES] = EXACT
        else:
            self._exact.pop(slot, None)
            self.rows[slot, UNITS:] = word
