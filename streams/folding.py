"""The fold of counted events into the partials of one source partition: one by one, or column by column.

Columns are summed per bucket (subject, group and window) as machine words, exactly: the four words of a digest as floats
below 2^53, quantities as whole numbers below 2^63. What those cannot hold is folded row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from schemas.columns import Coded, Columns
from schemas.definitions import Meter, Window
from schemas.hashing import partition_for
from schemas.numbers import SUM
from schemas.reader import Group, Measured
from schemas.windows import WindowKey
from schemas.written import SMALL, Integers, Scaled
from tables.aggregates import Place
from tables.dedupe import Words
from tables.metering import MeteringTable, OpenPartial

MOST = 1 << 21
"""Rows that may be summed at once: 2^32 times as many are 2^53."""
_HALF, _LOW = np.uint64(32), np.uint64((1 << 32) - 1)
assert SMALL * MOST < 1 << 63, "nor do quantities outgrow a word"


class Folding:
    """Folds into one table. targets: M, how many partitions the partials topic has."""

    def __init__(self, table: MeteringTable, targets: int) -> None:
        self.table = table
        self._targets = targets

    def single(self, measured: Measured, offset: int, index: int, before_ms: int, digest: int) -> None:
        """Folds one event of the record at `offset`. before_ms: the watermark before it."""
        table, (time_ms, subject, measurements) = self.table, measured
        target = partition_for(subject, self._targets)
        place = (time_ms, offset, index)
        late = False
        for meter, group, quantity, member in measurements:
            for window in meter.windows:
                start_ms = time_ms - time_ms % window.size_ms
                end_ms = start_ms + window.size_ms
                late = late or end_ms + meter.grace_ms <= before_ms
                key = WindowKey(subject, meter.slug, group, start_ms, window.size)
                partial = table.partial(key, end_ms, meter.version, offset)
                partial.share.fold(meter.aggregation, quantity, digest, place)
                if member is not None:
                    table.add_member(key, partial, member)
                table.folds[target] += 1
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
        chosen = rows.tolist()
        times_ms = read.times_ms[rows]
        late = np.zeros(len(rows), bool)
        lanes = np.array([words[0] >> _HALF, words[0] & _LOW, words[1] >> _HALF, words[1] & _LOW], np.float64)
        buckets: dict[tuple[int, str], _Buckets] = {}
        for meter, group_slot, number_slot, member_slot in read.plan.meters:
            for window in meter.windows:
                held = buckets.get((group_slot, window.size))
                if held is None:
                    held = buckets[group_slot, window.size] = _Buckets(
                        read.subjects, read.slots[group_slot], rows, times_ms, offsets, places, lanes, window
                    )
                late |= held.ends_ms + meter.grace_ms <= before_ms
                keys, partials = self._partials(held, meter, window)
                amounts = read.slots[number_slot]
                if type(amounts) is list:
                    self._fold_rows(held, meter, [amounts[row] for row in chosen], partials, words)
                else:
                    held.sums(meter.aggregation, amounts, rows, partials)
                if member_slot:
                    members = read.slots[member_slot]
                    for bucket, row in zip(held.bucket.tolist(), chosen, strict=True):
                        self.table.add_member(keys[bucket], partials[bucket], members[row])
        self.table.ledger.late += int(late.sum())

    def _partials(self, held: _Buckets, meter: Meter, window: Window) -> tuple[list[WindowKey], list[OpenPartial]]:
        """A meter's windows and their partials, one per bucket; the folds are noted per target."""
        table, folds, targets = self.table, self.table.folds, self._targets
        keys, partials = [], []
        for (subject, group), start_ms, first, events in zip(
            held.names, held.starts_ms, held.first, held.events, strict=True
        ):
            key = WindowKey(subject, meter.slug, group, start_ms, window.size)
            keys.append(key)
            partials.append(table.partial(key, start_ms + window.size_ms, meter.version, first))
            folds[partition_for(subject, targets)] += events
        return keys, partials

    def _fold_rows(
        self, held: _Buckets, meter: Meter, amounts: list[Decimal], partials: list[OpenPartial], words: Words
    ) -> None:
        """One by one: what cannot be added up as machine words."""
        times_ms, offsets, places = held.times_ms.tolist(), held.offsets.tolist(), held.places.tolist()
        for bucket, quantity, first, last, *place in zip(
            held.bucket.tolist(), amounts, *words.tolist(), times_ms, offsets, places, strict=True
        ):
            partials[bucket].share.fold(meter.aggregation, quantity, (first << 64) + last, tuple(place))


class _Buckets:
    """Rows by subject, group and window of one size. bucket: of each row. The lists: of each bucket.

    names: subject and group. starts_ms: of its window. events, first, last, digests: how many rows, the offsets of its first
    and last one, the sum of their digests.
    """

    def __init__(
        self,
        subjects: Coded,
        groups: Coded | None,
        rows: Integers,
        times_ms: Integers,
        offsets: Integers,
        places: Integers,
        lanes: Any,
        window: Window,
    ) -> None:
        self.size = window.size
        self.times_ms, self.offsets, self.places = times_ms, offsets, places
        starts_ms = times_ms - times_ms % window.size_ms
        self.ends_ms = starts_ms + window.size_ms
        pairs = subjects.codes[rows]
        many = len(subjects.names)
        if groups is not None:
            pairs = pairs * len(groups.names) + groups.codes[rows]
            many *= len(groups.names)
        first_ms = int(starts_ms.min())
        steps = (int(starts_ms.max()) - first_ms) // window.size_ms + 1
        if steps > 1:
            pairs = pairs * steps + (starts_ms - first_ms) // window.size_ms
        found, self.bucket = _dense(pairs, many * steps)
        self.starts_ms: list[int] = (found % steps * window.size_ms + first_ms).tolist()
        found //= steps
        if groups is None:
            self.names: list[tuple[str, Group]] = [(subjects.names[code], ()) for code in found.tolist()]
        else:
            size = len(groups.names)
            self.names = [(subjects.names[code // size], groups.names[code % size]) for code in found.tolist()]
        size = len(self.names)
        self.events: list[int] = np.bincount(self.bucket, minlength=size).tolist()
        last = np.zeros(size, np.int64)
        np.maximum.at(last, self.bucket, offsets)
        first = np.full(size, int(offsets[-1]), np.int64)
        np.minimum.at(first, self.bucket, offsets)
        self.first: list[int] = first.tolist()
        self.last: list[int] = last.tolist()
        sums = [np.bincount(self.bucket, lane, size).astype(np.int64).tolist() for lane in lanes]
        self.digests = [(a << 96) + (b << 64) + (c << 32) + d for a, b, c, d in zip(*sums, strict=True)]

    def sums(self, aggregation: str, amounts: Scaled | None, rows: Integers, partials: list[OpenPartial]) -> None:
        """Folds all rows into their partials at once. amounts: None for a count; `rows` of them are these rows'."""
        folded: Iterable[Decimal | None] = [None] * len(partials)
        latest: Iterable[Place | None] = folded  # type: ignore[assignment]
        if amounts is not None:
            units = amounts.units[rows]
            if aggregation == "latest":
                chosen = self._latest()
                totals = units[chosen]
                columns = (self.times_ms, self.offsets, self.places)
                latest = zip(*(column[chosen].tolist() for column in columns), strict=True)
            elif aggregation == "min":
                totals = np.full(len(partials), SMALL)
                np.minimum.at(totals, self.bucket, units)
            elif aggregation == "max":
                totals = np.full(len(partials), -SMALL)
                np.maximum.at(totals, self.bucket, units)
            else:
                totals = np.zeros(len(partials), np.int64)
                np.add.at(totals, self.bucket, units)
            folded = map(Decimal, totals.tolist())
            if amounts.places:
                folded = [amount.scaleb(-amounts.places, SUM) for amount in map(Decimal, totals.tolist())]
        for partial, events, digest, last, amount, at in zip(
            partials, self.events, self.digests, self.last, folded, latest, strict=True
        ):
            partial.share.fold_many(aggregation, events, digest, last, amount, at)

    def _latest(self) -> Integers:
        """Of each bucket the row that is the latest: of equal times the one that stands last in the log."""
        newest_ms = np.zeros(len(self.names), np.int64)  # no event is before 1970
        np.maximum.at(newest_ms, self.bucket, self.times_ms)
        rows = np.flatnonzero(self.times_ms == newest_ms[self.bucket])
        chosen = np.zeros(len(self.names), np.int64)
        np.maximum.at(chosen, self.bucket[rows], rows)
        return chosen


def _dense(codes: Integers, many: int) -> tuple[Integers, Integers]:
    """The codes that are there, in ascending order, and of each row the number of its code among them. many: all there may be."""
    if many > 4 * len(codes) + 1024:
        return np.unique(codes, return_inverse=True)
    found = np.flatnonzero(np.bincount(codes, minlength=many))
    number = np.empty(many, np.int64)
    number[found] = np.arange(len(found))
    return found, number[codes]
