"""The shares of one source partition in columns: what it has contributed to each window, by slot (`tables/keys.py`).

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
from schemas.partials import Rows, scaled
from schemas.written import Integers
from tables.aggregates import Place, Share
from tables.keys import grown
from tables.share_kernels import ADD, EXACT, LATEST, LEAST, MOST, NOTHING, amounts_folded, counted

Words = npt.NDArray[np.uint64]

KINDS = {"sum": ADD, "avg": ADD, "min": LEAST, "max": MOST, "latest": LATEST}
"""Aggregations that carry an amount, and what becomes of two."""
_ROOM = 1024
_NEVER = (1 << 63) - 1


class Sums(NamedTuple):
    """Events of several shares, counted already. digests: (2, n), high words and low. firsts, lasts: offsets."""

    events: Integers
    digests: Words
    firsts: Integers
    lasts: Integers


class Shares:
    """Shares by slot; a slot that is taken newly is to be `cleared` first."""

    def __init__(self) -> None:
        self.events = np.zeros(_ROOM, np.int64)
        self.digests = np.zeros((2, _ROOM), np.uint64)
        self.first = np.zeros(_ROOM, np.int64)
        self.through = np.zeros(_ROOM, np.int64)
        self.units = np.zeros(_ROOM, np.int64)
        self.places = np.zeros(_ROOM, np.int8)
        self._moments = np.zeros((3, _ROOM), np.int64)
        self._exact: dict[int, Decimal] = {}

    def clear(self, slots: Integers, room: int) -> None:
        """These slots are of new windows: nothing is folded in yet. room: all slots are below."""
        if room > len(self.events):
            for name in ("events", "digests", "first", "through", "units", "places", "_moments"):
                setattr(self, name, grown(getattr(self, name), room))
        self.events[slots] = 0
        self.digests[:, slots] = 0
        self.first[slots] = _NEVER
        self.through[slots] = -1
        self.places[slots] = NOTHING
        self._moments[:, slots] = -1
        if self._exact:
            for slot in slots.tolist():
                self._exact.pop(slot, None)

    def count(self, slots: Integers, sums: Sums) -> None:
        """So many events more; a slot may be there twice."""
        counted(
            still(slots, np.int64), still(sums.events, np.int64), still(sums.digests, np.uint64),
            still(sums.firsts, np.int64), still(sums.lasts, np.int64),
            self.events, self.digests, self.first, self.through,
        )  # fmt: skip

    def fold(
        self, aggregation: str, slots: Integers, units: Integers, places: int, moments: Integers | None = None
    ) -> None:
        """Folds amounts, units x 10^-places. moments: (3, n): for `latest`, of each its time, offset and index."""
        left = np.empty(len(slots), np.int64)
        if moments is None:
            moments = np.empty((3, 0), np.int64)
        many = amounts_folded(
            KINDS[aggregation], still(slots, np.int64), still(units, np.int64), places, still(moments, np.int64),
            self.units, self.places, self._moments, left,
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
            if held is not None and at <= tuple(self._moments[:, slot].tolist()):
                return
            self._moments[:, slot] = at
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
        places = int(self.places[slot])
        if places == EXACT:
            return self._exact[slot]
        return None if places == NOTHING else Decimal(int(self.units[slot])).scaleb(-places, SUM)

    def share(self, slot: int) -> Share:
        """One of them as it is now."""
        high, low = self.digests[:, slot].tolist()
        first, through = int(self.first[slot]), int(self.through[slot])
        at = None if self._moments[0, slot] < 0 else tuple(self._moments[:, slot].tolist())
        return Share(first, int(self.events[slot]), (high << 64) + low, through, self.amount(slot), at)

    def put(self, slot: int, share: Share) -> None:
        """Sets one of them; its slot is cleared."""
        self.events[slot] = share.events
        self.digests[:, slot] = share.digest >> 64, share.digest & (1 << 64) - 1
        self.first[slot], self.through[slot] = share.first, share.through
        if share.amount is not None:
            self._hold(slot, share.amount)
        if share.at is not None:
            self._moments[:, slot] = share.at

    def put_rows(self, slots: Integers, rows: Rows) -> None:
        """Sets many of them; their slots are cleared."""
        self.events[slots], self.digests[:, slots] = rows.events, rows.digests
        self.first[slots], self.through[slots] = rows.first, rows.through
        self.units[slots], self.places[slots] = rows.units, rows.places

    def in_words(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Which of them have nothing but machine words: no amount that does not fit, and no place of one."""
        fits: npt.NDArray[np.bool_] = (self.places[slots] != EXACT) & (self._moments[0, slots] < 0)
        return fits

    def amounts(self, slots: Integers) -> tuple[Integers, npt.NDArray[np.int8]]:
        """Units and places of shares that are in words; 0 and -1 where there is no amount."""
        places = self.places[slots]
        return np.where(places == NOTHING, 0, self.units[slots]), places

    def _hold(self, slot: int, amount: Decimal) -> None:
        word = scaled(amount)
        if word is None:
            self._exact[slot] = amount
            self.places[slot] = EXACT
        else:
            self._exact.pop(slot, None)
            self.units[slot], self.places[slot] = word
