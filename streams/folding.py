"""The fold of counted events into the partials of one source partition: one by one, or column by column.

Columns are summed per bucket (subject, group and window) first, then each bucket is folded into the partial of each meter,
all of it in kernels over machine words, exactly: digests as two words with a carry, quantities as whole numbers below 2^63.
What those cannot hold is folded row by row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from schemas.blocks import still
from schemas.columns import Coded, Columns, Subjects
from schemas.definitions import Meter, Window
from schemas.hashing import partitions_for
from schemas.ids import Words
from schemas.reader import Group, Measured
from schemas.texts import Texts
from schemas.windows import WindowKey, encode_key
from schemas.written import SMALL, Integers, Scaled
from streams.kernels import bucketed, gathered, summed, window_keys
from tables.metering import MeteringTable
from tables.shares import KINDS, Sums

MOST = 1 << 21
"""Rows that may be summed at once."""
assert SMALL * MOST < 1 << 63, "their quantities do not outgrow a word"
_NO_MOMENTS = np.empty((3, 0), np.int64)


class Folding:
    """Folds into one table. targets: M, how many partitions the partials topic has."""

    def __init__(self, table: MeteringTable, targets: int) -> None:
        self.table = table
        self._targets = targets

    def single(self, measured: Measured, offset: int, index: int, before_ms: int, digest: int) -> None:
        """Folds one event of the record at `offset`. before_ms: the watermark before it."""
        table, (time_ms, subject, measurements) = self.table, measured
        subjects = Texts.of([subject.encode()])
        targets = partitions_for(subjects, self._targets)
        words = np.array([[digest >> 64], [digest & (1 << 64) - 1]], np.uint64)
        one, offsets = np.ones(1, np.int64), np.array([offset])
        late = False
        for meter, group, quantity, member in measurements:
            for window in meter.windows:
                start_ms = time_ms - time_ms % window.size_ms
                end_ms = start_ms + window.size_ms
                late = late or end_ms + meter.grace_ms <= before_ms
                keys = Texts.of([encode_key(WindowKey(subject, meter.slug, group, start_ms, window.size))])
                slots = table.open(keys, np.array([end_ms]), meter.version, targets)
                table.shares.count(slots, Sums(one, words, offsets, offsets))
                if quantity is not None:
                    table.shares.fold_exactly(meter.aggregation, int(slots[0]), quantity, (time_ms, offset, index))
                if member is not None:
                    table.add_member(int(slots[0]), member)
                table.folds[int(targets[0])] += 1
        table.ledger.late += late

    def columns(
        self,
        read: Columns,
        rows: Integers,
        offsets: Integers,
        places: Integers,
        before_ms: Integers,
        words: Words,
    ) -> None:
        """Folds rows of columns, given in the log's order.

        Of each row: offsets, of its record; places, in its envelope; before_ms, the watermark before it; words, of its id.
        """
        assert len(rows) <= MOST, "a slice is small enough for its sums to be exact"
        times_ms = read.times_ms[rows]
        moments = np.array((times_ms, offsets, places))
        late = np.zeros(len(rows), bool)
        buckets: dict[tuple[int, str], _Buckets] = {}
        targets = partitions_for(read.subjects.names, self._targets)
        for meter, group_slot, number_slot, member_slot in read.plan.meters:
            for window in meter.windows:
                held = buckets.get((group_slot, window.size))
                if held is None:
                    held = buckets[group_slot, window.size] = _Buckets(
                        read.subjects, read.slots[group_slot], rows, times_ms, offsets, words, window
                    )
                late |= held.ends_ms + meter.grace_ms <= before_ms
                slots = self._opened(held, meter, window, targets)
                amounts = read.slots[number_slot]
                if isinstance(amounts, Scaled):
                    self._fold(held, meter.aggregation, slots, amounts, rows, moments)
                elif amounts is not None:  # one by one: what cannot be added up as machine words
                    fold = self.table.shares.fold_exactly
                    for slot, row, *at in zip(
                        slots[held.bucket].tolist(), rows.tolist(), *moments.tolist(), strict=True
                    ):
                        fold(meter.aggregation, slot, amounts[row], (at[0], at[1], at[2]))
                if member_slot:
                    members = read.slots[member_slot]
                    for slot, row in zip(slots[held.bucket].tolist(), rows.tolist(), strict=True):
                        self.table.add_member(slot, members[row])
        self.table.ledger.late += int(late.sum())

    def _opened(self, held: _Buckets, meter: Meter, window: Window, targets: Integers) -> Integers:
        """The slots of a meter's windows, one per bucket, their events counted; the folds are noted per target."""
        table = self.table
        to = targets[held.subjects]
        slots = table.open(held.keys(meter.slug), held.starts_ms + window.size_ms, meter.version, to)
        table.shares.count(slots, held.sums)
        for target, folds in enumerate(np.bincount(to, held.sums.events, self._targets).tolist()):
            table.folds[target] += int(folds)
        return slots

    def _fold(
        self, held: _Buckets, aggregation: str, slots: Integers, amounts: Scaled, rows: Integers, moments: Integers
    ) -> None:
        latest = aggregation == "latest"
        totals, chosen = np.empty((2, len(slots)), np.int64)
        at = moments if latest else _NO_MOMENTS
        gathered(KINDS[aggregation], held.bucket, amounts.units[rows], at, totals, chosen)
        self.table.shares.fold(aggregation, slots, totals, amounts.places, at[:, chosen] if latest else None)


class _Buckets:
    """Rows by subject, group and window of one size. bucket, ends_ms: of each row. The others: of each bucket.

    subjects: by number. starts_ms: of its window. sums: of its rows.
    """

    def __init__(
        self,
        subjects: Subjects,
        groups: Coded | None,
        rows: Integers,
        times_ms: Integers,
        offsets: Integers,
        words: Words,
        window: Window,
    ) -> None:
        self._names = subjects.names
        self._size = window.size
        many = len(rows)
        starts_ms = times_ms - times_ms % window.size_ms
        self.ends_ms = starts_ms + window.size_ms
        codes = np.zeros(many, np.int64) if groups is None else groups.codes[rows]
        self.bucket, group, start_ms, subject = np.empty((4, many), np.int64)
        found = bucketed(subjects.codes[rows], codes, starts_ms, window.size_ms, self.bucket, group, start_ms, subject)
        self.subjects, self.starts_ms = subject[:found], start_ms[:found]
        events, first_offsets, last_offsets = np.empty((3, found), np.int64)
        self.sums = Sums(events, np.empty((2, found), np.uint64), first_offsets, last_offsets)
        summed(self.bucket, still(words, np.uint64), still(offsets, np.int64), *self.sums)
        # Most batches are of one window, or of a few: what stands behind the subject in a key is made once.
        self._tails: list[tuple[Group, int]]
        first, first_ms = int(group[0]), int(start_ms[0])
        if (group[:found] == first).all() and (self.starts_ms == first_ms).all():
            self._tail_of = np.zeros(found, np.int64)
            self._tails = [((), first_ms) if groups is None else (groups.names[first], first_ms)]
        else:
            pairs, self._tail_of = np.unique(np.array((group[:found], self.starts_ms)), axis=1, return_inverse=True)
            self._tails = [(() if groups is None else groups.names[code], at) for code, at in pairs.T.tolist()]

    def keys(self, meter: str) -> Texts:
        """The keys of a meter's windows."""
        tails = Texts.of([_tail(meter, group, start_ms, self._size) for group, start_ms in self._tails])
        bounds = np.append(0, tails.stops)
        sizes = self._names.stops - self._names.starts
        begins, ends = np.empty((2, len(self.subjects)), np.int64)
        room = int((sizes[self.subjects] + 4 + np.diff(bounds)[self._tail_of]).sum())
        keys = np.empty(room, np.uint8)
        window_keys(
            still(self._names.letters, np.uint8), self._names.starts, self._names.stops, self.subjects,
            tails.letters, bounds, self._tail_of, keys, begins, ends,
        )  # fmt: skip
        return Texts(keys, begins, ends)


@lru_cache(maxsize=1 << 12)
def _tail(meter: str, group: Group, start_ms: int, size: str) -> bytes:
    """What stands behind the subject in a window's key."""
    return encode_key(WindowKey("", meter, group, start_ms, size))[2:]
