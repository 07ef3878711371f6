"""Known ids by their digests: hash tables of machine words, one for each range of ids, and what of them is on disk.

A *shelf* is one range of the salted hashes: open addressing, 16 bytes of digest and 4 of time in a slot, two to four of five
slots taken. A shelf that has grown large is split in two, so that no batch ever waits for more than one small table to be
built anew, however many ids there are. Beyond its share of memory the older half of a shelf goes to disk as a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.ids import Integers, Words
from tables import id_kernels as kernels
from tables.runs import SALT, Disk, Found, Run, mixed

NEVER = -(1 << 62)
_LEAST = 32
"""Slots of an empty shelf."""
_FULL = 0.8
_AFTER = 0.62
"""The share of slots that is taken in a shelf built anew."""
_LARGE = 160_000
"""Ids at which a shelf is split, about."""
_DEPTHS = 16
_DEAD = 1 / 8
"""The share of a shelf that may be ids of buckets that were swept, about, before it is built anew."""
_SPAN = 1 << 32
"""Buckets are held as numbers behind a base, 0 standing for a free slot."""
_MERGED = 1 << 19
"""Ids of a run that is not merged any more: reading and sorting more would hold the others up."""
_LITTLE = 64
"""Slots of a shelf that are not worth a run."""


class Share(NamedTuple):
    """One of so many equal parts of all ids; in this process alone, since the salt is."""

    number: int
    of: int


class _Shelf:
    """The ids whose hashes begin with `depth` bits `prefix`. swept: how many ids had been swept when it was built.

    scale: how large it may get, so that not all are split, or built anew, at the same time.
    """

    def __init__(self, depth: int, prefix: int, slots: int = _LEAST) -> None:
        self.depth, self.prefix = depth, prefix
        self.words = np.zeros((slots, 2), np.uint64)
        self.codes = np.zeros(slots, np.uint32)
        self.taken = 0
        self.swept = 0.0
        self.runs: list[Run] = []
        golden = (prefix * 2 + depth) * 0.6180339887 % 1
        self.scale = 0.75 + golden / 2

    @property
    def size_bytes(self) -> int:
        return self.words.nbytes + self.codes.nbytes

    def own(self, upper: int) -> int:
        """The slot of an id by the upper 32 bits of its hash; the lower ones stand behind the depth and change little."""
        return (((upper << 32 << self.depth) & ((1 << 64) - 1)) >> 32) * len(self.codes) >> 32

    def stretch(self, low: int, end: int) -> Integers:
        """The slots in which the ids stand whose hashes' upper 32 bits are in a range, and a few others."""
        begins = self.prefix << (32 - self.depth)
        low, end = max(low, begins), min(end, begins + (1 << (32 - self.depth)))
        slots = list(range(self.own(low), self._last(end - 1) + 1))
        while len(slots) < len(self.codes) and self.codes[slots[-1]] != 0:  # some may stand behind it
            slots.append((slots[-1] + 1) % len(self.codes))
        chosen = np.array(slots, np.int64)
        taken: Integers = chosen[self.codes[chosen] != 0]
        return taken

    def _last(self, upper: int) -> int:
        lowest = (((upper << 32) | ((1 << 32) - 1)) << self.depth) & ((1 << 64) - 1)
        return (lowest >> 32) * len(self.codes) >> 32


class Shelves:
    """Ids, each with the bucket of event time it was counted in. held: how many ids there are of each bucket not swept.

    beside_bytes: what others have taken of the memory for ids.
    """

    def __init__(self, disk: Disk | None = None, large: int = _LARGE) -> None:
        """disk: where ids go that there is no memory for. large: ids at which a shelf is split, about."""
        self.large = large
        self.held: Counter[int] = Counter()
        self.beside_bytes = 0
        self._in_memory: Counter[int] = Counter()
        self._disk = disk
        if disk is not None:
            disk.join(self)
        self._base = 0
        self._swept = NEVER
        self._gone = 0.0
        self._turn = 0
        self._set([_Shelf(0, 0)])

    @property
    def size_bytes(self) -> int:
        """Memory of all of it."""
        return self._tables_bytes + sum(run.size_bytes for run in self._runs())

    @property
    def newest(self) -> int:
        """The latest bucket there is."""
        return max(self.held, default=NEVER)

    @property
    def spilled(self) -> int:
        """How many ids are on disk, those of swept buckets, and such as are twice there, included."""
        return sum(run.many for run in self._runs())

    def count(
        self, rows: Integers, words: Words, buckets: Integers, floors: Integers, elsewhere: Integers,
        fates: npt.NDArray[np.uint8],
    ) -> None:  # fmt: skip
        """Of ids in the log's order, those of `rows`: fate 2 for duplicates; others are put in, fate 0.

        An id is known while its bucket is not below the floor. elsewhere: the bucket it has in other places, or NEVER.
        """
        mixes = mixed(words)
        self._fit(buckets)
        self._on_disk(rows, words, mixes, elsewhere)
        times, bounds, others = buckets - self._base, np.maximum(floors - self._base, 0), elsewhere - self._base
        touched = np.zeros(1, np.uint64)
        for shelf, mine in self._routed(rows, mixes):
            shelf.taken += kernels.count_in_table(
                shelf.words, shelf.codes, shelf.depth, mine, words, mixes, times, bounds, others, fates, touched
            )
        put_in = buckets[rows[fates[rows] == 0]]
        self._hold(self.held, put_in, 1)
        self._hold(self._in_memory, put_in, 1)
        self._tidy()
        self._relieve(len(rows))

    def find(self, rows: Integers, words: Words, found: Integers) -> None:
        """Raises of each of `rows` what is found to the bucket it has here."""
        mixes = mixed(words)
        self._on_disk(rows, words, mixes, found)
        codes = np.zeros(len(found), np.int64)
        for shelf, mine in self._routed(rows, mixes, grow=False):
            kernels.find_in_table(shelf.words, shelf.codes, shelf.depth, mine, words, mixes, codes)
        there = codes > 0
        found[there] = np.maximum(found[there], codes[there] + self._base)

    def unite(self, ids: Found) -> None:
        """Puts ids in; of one that is there the later bucket holds. None may be there twice in `ids`."""
        ids = ids.only(ids.buckets >= self._swept)
        rows = np.arange(len(ids.buckets))
        before = np.full(len(rows), NEVER, np.int64)
        self.find(rows, ids.words, before)
        rows = rows[before < ids.buckets]
        if not len(rows):
            return
        self._fit(ids.buckets)
        mixes, times = mixed(ids.words), ids.buckets - self._base
        for shelf, mine in self._routed(rows, mixes):
            shelf.taken += kernels.unite_in_table(shelf.words, shelf.codes, shelf.depth, mine, ids.words, mixes, times)
        self._hold(self.held, before[rows[before[rows] != NEVER]], -1)
        self._hold(self.held, ids.buckets[rows], 1)
        self._hold(self._in_memory, ids.buckets[rows], 1)
        self._relieve(len(rows))

    def sweep(self, bound: int) -> None:
        """Forgets the buckets below; memory of theirs is given back little by little, files at once."""
        self._swept = bound
        for bucket in [bucket for bucket in self.held if bucket < bound]:
            del self.held[bucket]
            self._gone += self._in_memory.pop(bucket, 0)
        for shelf in self._shelves:
            if shelf.runs and any(run.newest < bound for run in shelf.runs):
                shelf.runs = [run for run in shelf.runs if run.newest >= bound]
        if not self.held and (len(self._shelves) > 1 or self._shelves[0].taken):
            self._set([_Shelf(0, 0)])
        self._tidy()

    def slice(self, share: Share) -> Iterator[Found]:
        """The ids of a share."""
        low, end = (-(-(bound << 32) // share.of) for bound in (share.number, share.number + 1))
        parts = []
        for shelf in self._shelves:
            begins = shelf.prefix << (32 - shelf.depth)
            if begins >= end or begins + (1 << (32 - shelf.depth)) <= low:
                continue
            slots = shelf.stretch(low, end)
            words = np.ascontiguousarray(shelf.words[slots].T)
            upper = mixed(words) >> np.uint64(32)
            found = Found(words, shelf.codes[slots].astype(np.int64) + self._base)
            parts.append(found.only((upper >= low) & (upper < end)))
            limits = max(low, begins), min(end, begins + (1 << (32 - shelf.depth)))
            parts += [run.read(*limits) for run in shelf.runs]
        ids = Found.joined(parts)
        ids = ids.only(ids.buckets >= self._swept)
        yield ids.only(np.lexsort((ids.words[1], ids.words[0], ids.buckets)))

    # -- where an id is

    def _set(self, shelves: list[_Shelf]) -> None:
        self._shelves = shelves
        self._depth = max(shelf.depth for shelf in shelves)
        self._directory = np.zeros(1 << self._depth, np.int64)
        for number, shelf in enumerate(shelves):
            wide = self._depth - shelf.depth
            self._directory[shelf.prefix << wide : (shelf.prefix + 1) << wide] = number
        self._tables_bytes = sum(shelf.size_bytes for shelf in shelves)

    def _runs(self) -> set[Run]:
        return {run for shelf in self._shelves for run in shelf.runs}

    def _routed(self, rows: Integers, mixes: Words, *, grow: bool = True) -> Iterator[tuple[_Shelf, Integers]]:
        """Each shelf and the rows that are its own, in their order; with room for all of them."""
        if len(self._shelves) > 1:
            numbers = self._directory[(mixes[rows] >> np.uint64(64 - self._depth)).astype(np.int64)]
            bounds, order = np.empty(len(self._shelves) + 1, np.int64), np.empty(len(rows), np.int64)
            kernels.group(numbers, bounds, order)
            grouped = rows[order]
            parts = [
                (shelf, grouped[bounds[number] : bounds[number + 1]])
                for number, shelf in enumerate(self._shelves)
                if bounds[number] < bounds[number + 1]
            ]
        else:
            parts = [(self._shelves[0], rows)]
        if not grow:
            yield from parts
            return
        if large := [shelf for shelf, mine in parts if self._is_large(shelf, len(mine))]:
            self._split(large)
            yield from self._routed(rows, mixes)
            return
        for shelf, mine in parts:
            if shelf.taken + len(mine) > len(shelf.codes) * _FULL:
                self._build(shelf, len(mine))
            yield shelf, mine

    def _on_disk(self, rows: Integers, words: Words, mixes: Words, found: Integers) -> None:
        if any(shelf.runs for shelf in self._shelves):
            for shelf, mine in self._routed(rows, mixes, grow=False):
                for run in shelf.runs:
                    run.find(mine, words, mixes, found)

    def _hold(self, counter: Counter[int], buckets: Integers, by: int) -> None:
        """Counts so many more, or less, of their buckets."""
        if not len(buckets):
            return
        first = int(buckets.min())
        if int(buckets.max()) == first:
            counted = [(first, len(buckets))]
        else:
            counted = list(zip(*(column.tolist() for column in np.unique(buckets, return_counts=True)), strict=True))
        for bucket, many in counted:
            if bucket >= self._swept:
                counter[bucket] += by * many
                if not counter[bucket]:
                    del counter[bucket]

    # -- memory

    def _is_large(self, shelf: _Shelf, more: int) -> bool:
        return shelf.taken + more > shelf.scale * self.large and shelf.depth < _DEPTHS

    def _floor(self) -> int:
        return max(0, self._swept - self._base)

    def _build(self, shelf: _Shelf, more: int = 0, shift: int = 0) -> None:
        """The shelf's table anew, without what is swept, large enough for `more`."""
        floor = self._floor()
        live = int(np.count_nonzero((shelf.codes != 0) & (shelf.codes >= floor)))
        slots = max(_LEAST, int((live + more) / _AFTER) + 1)
        old = shelf.words, shelf.codes
        self._tables_bytes -= shelf.size_bytes
        shelf.words, shelf.codes = np.zeros((slots, 2), np.uint64), np.zeros(slots, np.uint32)
        self._tables_bytes += shelf.size_bytes
        self._move(old, shelf, floor, shift)

    def _move(self, old: tuple[Words, npt.NDArray[np.uint32]], into: _Shelf, floor: int, shift: int = 0) -> None:
        prefix = np.uint64(into.prefix)
        into.taken = kernels.move(*old, SALT[0], SALT[1], floor, shift, prefix, into.words, into.codes, into.depth)
        into.swept = self._gone

    def _split(self, large: list[_Shelf]) -> None:
        """Two of each of them; what they have on disk is both's."""
        shelves = []
        for shelf in self._shelves:
            if shelf not in large:
                shelves.append(shelf)
                continue
            floor = self._floor()
            upper = np.count_nonzero(
                mixed(shelf.words[shelf.codes != 0].T) >> np.uint64(63 - shelf.depth) & np.uint64(1)
            )
            for bit, many in enumerate((shelf.taken - int(upper), int(upper))):
                half = _Shelf(shelf.depth + 1, shelf.prefix * 2 + bit, max(_LEAST, int(many / _AFTER) + 1))
                self._move((shelf.words, shelf.codes), half, floor)
                half.runs = list(shelf.runs)
                shelves.append(half)
        self._set(shelves)

    def _tidy(self) -> None:
        """Builds that shelf anew which has most that is swept, if it is too much: one of them, for others wait."""
        dead, number = 0.0, -1
        for at, shelf in enumerate(self._shelves):
            share = (self._gone - shelf.swept) / (1 << shelf.depth)
            if share > dead and share > shelf.taken * _DEAD:
                dead, number = share, at
        if number >= 0:
            self._build(self._shelves[number])

    def _fit(self, buckets: Integers) -> None:
        """So that such buckets can be held as numbers behind the base."""
        low, high = int(buckets.min()), int(buckets.max())
        if self._base < low and high < self._base + _SPAN:
            return
        known = [bucket for bucket in self.held if bucket >= self._swept]
        low, high = min([low, *known]), max([high, *known])
        if high - low >= _SPAN - 1:
            raise OverflowError("times of known ids are never more than 136 years apart")
        base = low - 1 - (_SPAN - 2 - (high - low)) // 2  # room on both sides
        for shelf in self._shelves:
            self._build(shelf, shift=base - self._base)
        self._base = base

    def _relieve(self, more: int) -> None:
        """Beyond its share of memory, the older half of a shelf goes to disk; of some shelves, for others wait."""
        disk = self._disk
        if disk is None or self._tables_bytes <= disk.share_bytes // 4:
            return
        runs_bytes = sum(run.size_bytes for run in self._runs())
        allowed = max(disk.share_bytes - self.beside_bytes - runs_bytes, disk.share_bytes // 4)
        left = 4 * more
        for _ in self._shelves:
            if self._tables_bytes <= allowed or left <= 0:
                return
            self._turn = (self._turn + 1) % len(self._shelves)
            shelf = self._shelves[self._turn]
            if len(shelf.codes) > _LITTLE:
                left -= self._spill(shelf, disk)

    def _spill(self, shelf: _Shelf, disk: Disk) -> int:
        """The older half of a shelf to disk. Gives how many ids it had."""
        slots = np.flatnonzero(shelf.codes >= max(1, self._floor()))
        if len(slots):
            codes = shelf.codes[slots]
            cut = np.partition(codes, len(codes) // 2)[len(codes) // 2]
            chosen = slots[codes <= cut]
            moved = Found(
                np.ascontiguousarray(shelf.words[chosen].T), shelf.codes[chosen].astype(np.int64) + self._base
            )
            runs = [*shelf.runs, disk.write(moved)]
            self._hold(self._in_memory, moved.buckets, -1)
            while len(runs) > 1 and runs[-2].many <= min(2 * runs[-1].many, _MERGED):
                runs[-2:] = self._merged(shelf, runs[-2:], disk)
            shelf.runs = runs
            keep = np.ones(len(shelf.codes), bool)
            keep[chosen] = False
            old = shelf.words[keep], shelf.codes[keep]
        else:
            old = shelf.words[:0], shelf.codes[:0]
        live = int(np.count_nonzero(old[1]))
        self._tables_bytes -= shelf.size_bytes
        shelf.words = np.zeros((max(_LEAST, int(live / _AFTER) + 1), 2), np.uint64)
        shelf.codes = np.zeros(len(shelf.words), np.uint32)
        self._tables_bytes += shelf.size_bytes
        self._move(old, shelf, self._floor())
        return len(slots)

    def _merged(self, shelf: _Shelf, runs: list[Run], disk: Disk) -> list[Run]:
        low = shelf.prefix << (32 - shelf.depth)
        ids = Found.joined([run.read(low, low + (1 << (32 - shelf.depth))) for run in runs])
        ids = ids.only(ids.buckets >= self._swept)
        return [disk.write(ids)] if len(ids.buckets) else []
