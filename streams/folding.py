"""The fold of counted events into the partials of one source partition: one by one, or column by column.

Columns are summed per bucket (subject, group and window) as machine words, exactly: the four words of a digest as floats
below 2^53, quantities as integers below 2^63. What those cannot hold, the latest, and members are folded row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from schemas.columns import SMALL, Columns, Integers
from schemas.definitions import Meter, Window
from schemas.hashing import partition_for
from schemas.reader import Group, Measured
from schemas.windows import WindowKey
from tables.metering import MeteringTable

MOST = 1 << 21
"""Rows that may be summed at once: 2^32 times as many are 2^53."""
assert SMALL * MOST < 1 << 63, "nor do quantities outgrow a word"


class Folding:
    """Folds into one table. targets: M, how many partitions the partials topic has."""

    def __init__(self, table: MeteringTable, targets: int) -> None:
        self.table = table
        self._targets = targets

    def single(self, measured: Measured, offset: int, index: int, before_ms: int, digest: bytes) -> None:
        """Folds one event of the record at `offset`. before_ms: the watermark before it."""
        table, (time_ms, subject, measurements) = self.table, measured
        target = partition_for(subject, self._targets)
        number, place = int.from_bytes(digest, "big"), (time_ms, offset, index)
        late = False
        for meter, group, quantity, member in measurements:
            for window in meter.windows:
                start_ms = time_ms - time_ms % window.size_ms
                end_ms = start_ms + window.size_ms
                late = late or end_ms + meter.grace_ms <= before_ms
                key = WindowKey(subject, meter.slug, group, start_ms, window.size)
                partial = table.partial(key, end_ms, meter.version, offset)
                partial.share.fold(meter.aggregation, quantity, number, place)
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
        digests: list[bytes],
    ) -> None:
        """Folds rows of columns, given in the log's order.

        Of each row: offsets, of its record; places, in its envelope; before_ms, the watermark before it; digests, of its id.
        """
        assert len(rows) <= MOST, "a slice is small enough for its sums to be exact"
        whole = len(rows) == len(read.subjects)
        chosen = rows.tolist()
        times_ms = read.times_ms[rows]
        subjects = read.subjects if whole else [read.subjects[row] for row in chosen]
        late = np.zeros(len(rows), bool)
        lanes = np.frombuffer(b"".join(digests), ">u4").reshape(-1, 4).astype(np.float64)
        buckets: dict[tuple[int, str], _Buckets] = {}
        for meter, group_slot, number_slot, member_slot in read.plan.meters:
            for window in meter.windows:
                held = buckets.get((group_slot, window.size))
                if held is None:
                    groups = read.slots[group_slot]
                    groups = groups if whole else [groups[row] for row in chosen]
                    held = buckets[group_slot, window.size] = _Buckets(
                        subjects, groups, times_ms, offsets, lanes, window
                    )
                late |= held.ends_ms + meter.grace_ms <= before_ms
                amounts: Any = read.slots[number_slot]
                if amounts is not None and not whole:
                    amounts = amounts[rows] if isinstance(amounts, np.ndarray) else [amounts[row] for row in chosen]
                partials = self._partials(held, meter, window)
                if member_slot or not held.sums(meter.aggregation, amounts, partials):
                    members = [read.slots[member_slot][row] for row in chosen] if member_slot else None
                    self._fold_rows(held, meter, amounts, members, partials, digests, places)
        self.table.ledger.late += int(late.sum())

    def _partials(self, held: _Buckets, meter: Meter, window: Window) -> list[Any]:
        """The partials of a meter's windows, one per bucket; the folds are noted per target."""
        table, folds, targets = self.table, self.table.folds, self._targets
        partials = []
        for (subject, group), start_ms, first, events in zip(
            held.names, held.starts_ms, held.first, held.events, strict=True
        ):
            key = WindowKey(subject, meter.slug, group, start_ms, window.size)
            partials.append(table.partial(key, start_ms + window.size_ms, meter.version, first))
            folds[partition_for(subject, targets)] += events
        return partials

    def _fold_rows(
        self, held: _Buckets, meter: Meter, amounts: Any, members: list[bytes] | None, partials: list[Any],
        digests: list[bytes], places: Integers,
    ) -> None:  # fmt: skip
        """One by one: what cannot be added up as machine words, the latest, and members."""
        quantities: Iterable[Decimal | None]
        if amounts is None:
            quantities = [None] * len(digests)
        else:
            quantities = map(Decimal, amounts.tolist()) if isinstance(amounts, np.ndarray) else amounts
        rows = zip(
            held.bucket.tolist(),
            quantities,
            digests,
            held.times_ms.tolist(),
            held.offsets.tolist(),
            places.tolist(),
            strict=True,
        )
        for row, (bucket, quantity, digest, time_ms, offset, index) in enumerate(rows):
            partial = partials[bucket]
            partial.share.fold(meter.aggregation, quantity, int.from_bytes(digest, "big"), (time_ms, offset, index))
            if members is not None:
                key = WindowKey(
                    held.names[bucket][0], meter.slug, held.names[bucket][1], held.starts_ms[bucket], held.size
                )
                self.table.add_member(key, partial, members[row])


class _Buckets:
    """Rows by subject, group and window of one size. bucket: of each row. The lists: of each bucket.

    names: subject and group. starts_ms: of its window. events, first, last, digests: how many rows, the offsets of its first
    and last one, the sum of their digests.
    """

    def __init__(
        self,
        subjects: list[str],
        groups: list[Group],
        times_ms: Integers,
        offsets: Integers,
        lanes: Any,
        window: Window,
    ) -> None:
        self.size = window.size
        self.times_ms, self.offsets = times_ms, offsets
        starts_ms = times_ms - times_ms % window.size_ms
        self.ends_ms = starts_ms + window.size_ms
        pairs = list(zip(subjects, groups, strict=True))
        numbers: dict[tuple[str, Group], int] = dict.fromkeys(pairs, 0)
        for number, pair in enumerate(numbers):
            numbers[pair] = number
        names = list(numbers)
        bucket = np.fromiter(map(numbers.__getitem__, pairs), np.int64, len(pairs))
        first_start = int(starts_ms.min())
        if first_start == int(starts_ms.max()):
            self.names, self.bucket = names, bucket
            self.starts_ms = [first_start] * len(names)
        else:
            step = (starts_ms - first_start) // window.size_ms
            many = int(step.max()) + 1
            found, self.bucket = np.unique(bucket * many + step, return_inverse=True)
            self.names = [names[number] for number in (found // many).tolist()]
            self.starts_ms = (found % many * window.size_ms + first_start).tolist()
        size = len(self.names)
        self.events: list[int] = np.bincount(self.bucket, minlength=size).tolist()
        last = np.zeros(size, np.int64)
        np.maximum.at(last, self.bucket, offsets)
        first = np.full(size, int(offsets[-1]), np.int64)
        np.minimum.at(first, self.bucket, offsets)
        self.first: list[int] = first.tolist()
        self.last: list[int] = last.tolist()
        sums = [np.bincount(self.bucket, lanes[:, lane], size).astype(np.int64).tolist() for lane in range(4)]
        self.digests = [(a << 96) + (b << 64) + (c << 32) + d for a, b, c, d in zip(*sums, strict=True)]

    def sums(self, aggregation: str, amounts: Any, partials: list[Any]) -> bool:
        """Folds all rows into their partials at once; False where they must be folded one by one."""
        if aggregation == "latest" or (amounts is not None and not isinstance(amounts, np.ndarray)):
            return False
        folded: Iterable[Decimal | None]
        if amounts is None:
            folded = [None] * len(partials)
        else:
            if aggregation == "min":
                totals = np.full(len(partials), np.iinfo(np.int64).max)
                np.minimum.at(totals, self.bucket, amounts)
            elif aggregation == "max":
                totals = np.full(len(partials), np.iinfo(np.int64).min)
                np.maximum.at(totals, self.bucket, amounts)
            else:
                totals = np.zeros(len(partials), np.int64)
                np.add.at(totals, self.bucket, amounts)
            folded = map(Decimal, totals.tolist())
        for partial, events, digest, last, amount in zip(
            partials, self.events, self.digests, self.last, folded, strict=True
        ):
            partial.share.fold_many(aggregation, events, digest, last, amount)
        return True
