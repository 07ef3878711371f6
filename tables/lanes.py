"""Known ids that end in a counter, lane by lane: intervals of counters, each of one bucket of event time.

Ids that come in the order of their counters extend the last interval of their lane: they cost no memory, and nothing is
looked up, for a counter above all that a lane has held is new. Where some are missing, as what was not counted is, or where
two buckets of time mingle, there are more intervals. A lane is *closed* once they are worth less than digests: too many of too
few ids each, the fewer the less memory is left, or much moving of some to make way for others. What it holds it keeps until
that is too late, but takes no more; its ids go where ids of no lane go.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.ids import ID_BYTES, Integers
from tables import lane_kernels as kernels
from tables.runs import Disk

NEVER = -(1 << 62)
MOST = 4096
"""Intervals of a lane, after which it is looked at whether more pay."""
DENSE = 1.5
"""Ids of an interval, on average, from which more intervals pay."""
DENSE_ON_DISK = 20
"""The same where there is no memory left, and digests go to disk: there each keeps 12 bits of memory for its filter."""
INTERVAL_MEMORY_BYTES = 32
"""Memory of one, with the room beside it, about; a digest takes up to 40 bytes."""
_LANE_BYTES = 300
"""Memory of a lane without its intervals, about."""
_LAST = int(kernels.COUNTERS) - 1
_PIECE = 32_000
_LITTLE = 1024
"""Intervals for which there may be room that nobody needs."""
_LARGEST = 64
"""Bytes of one interval in a piece, at most."""


class LaneShare(NamedTuple):
    """Some lanes, for a snapshot; of them the intervals that have counters from `first` to `last`."""

    names: tuple[bytes, ...]
    first: int = 0
    last: int = _LAST


class _Pending(NamedTuple):
    """Restored intervals. lanes: numbers within `names`."""

    names: list[bytes]
    lanes: Integers
    firsts: Integers
    lasts: Integers
    buckets: Integers


class Lanes:
    """Lanes by name, each a slot in arrays. strays: by slot, the latest time that an id of it may have in the table."""

    def __init__(self, most: int = MOST, disk: Disk | None = None) -> None:
        """disk: where digests go that there is no memory for. Half of that memory is for intervals.

        More than that have only lanes that hold much for it, and such as have no more than `most` intervals.
        """
        assert most > 0, "a lane has an interval"
        self._most = most
        self._disk = disk
        self.slots: dict[bytes, int] = {}
        self._free: list[int] = []
        self._names = np.zeros((0, ID_BYTES), np.uint8)
        self.strays = np.zeros(0, np.int64)
        self._at, self._counts, self._rooms, self._fresh_at = (np.zeros(0, np.int64) for _ in range(4))
        self._limits, self._toil = (np.zeros(0, np.int64) for _ in range(2))
        self._closed = np.zeros(0, np.bool_)
        self._starts, self._stops, self._times = (np.zeros(0, np.int64) for _ in range(3))
        self._fresh = np.zeros((0, 4), np.int64)
        self._used = np.zeros(2, np.int64)
        self._pending: list[_Pending] = []

    @property
    def size_bytes(self) -> int:
        """Memory of them; the dictionary of names is about 170 bytes an entry."""
        arrays = (
            self._names, self.strays, self._at, self._counts, self._rooms, self._fresh_at, self._limits, self._toil, self._closed,
            self._starts, self._stops, self._times, self._fresh,
        )  # fmt: skip
        return sum(array.nbytes for array in arrays) + 170 * len(self.slots)

    def held(self, floor: int) -> tuple[int, int]:
        """How many ids they hold whose time is not below the floor, and in how many intervals."""
        lengths, times = self._intervals()
        live = times >= floor
        return int(lengths[live].sum()), int(live.sum())

    @property
    def full(self) -> bool:
        """Whether the memory for intervals is used up."""
        return self._left_bytes() <= 0

    def open(self, name: bytes, strays: int) -> int:
        """A new lane: its slot. strays: the latest time that an id of it may have in the table."""
        if not self._free:
            self._widen()
        slot = self._free.pop()
        self.slots[name] = slot
        self._names[slot] = np.frombuffer(name, np.uint8)
        self.strays[slot] = strays
        self._at[slot] = self._counts[slot] = self._rooms[slot] = self._toil[slot] = 0
        self._limits[slot] = self._most
        self._fresh_at[slot] = -1
        self._closed[slot] = False
        return slot

    def count(
        self,
        slots: Integers,
        counters: Integers,
        buckets: Integers,
        floors: Integers,
        elsewhere: Integers,
        fates: npt.NDArray[np.uint8],
    ) -> None:
        """See `lane_kernels.count_in_lanes`."""
        row = 0
        while row < len(slots):
            row = kernels.count_in_lanes(
                row, slots, counters, buckets, floors, elsewhere, fates,
                self._at, self._counts, self._rooms, self._toil, self._limits, self._closed,
                self._starts, self._stops, self._times, self._used, self._fresh_at, self._fresh,
            )  # fmt: skip
            if row < len(slots):
                slot = int(slots[row])
                if self._used[1] == len(self._fresh) or self._counts[slot] < self._limits[slot]:
                    self._make_room()
                elif not self._forgot(slot, int(floors[row])):
                    self._reconsider(slot)

    def find(self, slots: Integers, counters: Integers, found: Integers) -> None:
        """Raises of each what is found to the time it has."""
        kernels.find_in_lanes(slots, counters, self._at, self._counts, self._starts, self._stops, self._times, found)

    def forget(self, floor: int) -> None:
        """Intervals below the floor go, and lanes that have no other."""
        emptied = np.empty(len(self._at), np.int64)
        many = kernels.forget_in_lanes(floor, self._at, self._counts, self._starts, self._stops, self._times, emptied)
        for slot in emptied[:many].tolist():
            name = self._names[slot].tobytes()
            if self.slots.get(name) == slot:
                del self.slots[name]
                self._free.append(slot)
        if 2 * self._counts.sum() + _LITTLE < len(self._starts):
            self._lay_out()

    def touched(self, floor: int) -> Iterator[bytes]:
        """What was put in since the last call and is not below the floor, as pieces."""
        fresh = self._fresh[: self._used[1]]
        self._fresh_at[fresh[:, 0]] = -1
        fresh = fresh[fresh[:, 3] >= floor]
        fresh = fresh[np.lexsort((fresh[:, 1], fresh[:, 0]))]
        self._fresh, self._used[1] = np.zeros((0, 4), np.int64), 0
        return self._pieces(*(np.ascontiguousarray(fresh[:, at]) for at in range(4)))

    def shares(self, most: int) -> list[LaneShare]:
        """All lanes, in shares of about so many intervals, a name like two: some lanes together, or a part of one."""
        shares: list[LaneShare] = []
        together: list[bytes] = []
        left = most
        for name, slot in self.slots.items():
            many = int(self._counts[slot])
            if many > most:
                firsts = [0, *self._starts[self._at[slot] + most : self._at[slot] + many : most].tolist()]
                shares += [LaneShare((name,), first, past - 1) for first, past in pairwise([*firsts, _LAST + 1])]
                continue
            together.append(name)
            left -= many + 2
            if left <= 0:
                shares.append(LaneShare(tuple(together)))
                together, left = [], most
        return [*shares, LaneShare(tuple(together))] if together else shares

    def slice(self, share: LaneShare, floor: int) -> Iterator[bytes]:
        """The intervals of a share that are not below the floor, as pieces."""
        slots = [self.slots[name] for name in share.names if name in self.slots]
        places = [self._within(slot, share) for slot in slots]
        chosen = np.concatenate([np.empty(0, np.int64), *places])
        lanes = np.repeat(np.array(slots, np.int64), [len(place) for place in places])
        live = self._times[chosen] >= floor
        chosen, lanes = chosen[live], lanes[live]
        return self._pieces(lanes, self._starts[chosen], self._stops[chosen], self._times[chosen])

    def _within(self, slot: int, share: LaneShare) -> Integers:
        """Where the intervals of a lane are that have counters of the share."""
        begin, end = self._at[slot], self._at[slot] + self._counts[slot]
        from_there = np.searchsorted(self._stops[begin:end], share.first)
        to_there = np.searchsorted(self._starts[begin:end], share.last, "right")
        return np.arange(begin + from_there, begin + to_there)

    def restore(self, piece: bytes, begin: int) -> None:
        """One piece, from there on; `settle` puts it in. Raises msgspec.DecodeError for what is none."""
        raw = np.frombuffer(piece, np.uint8)
        most = len(raw)
        names = np.empty((most // ID_BYTES + 1, ID_BYTES), np.uint8)
        lanes, firsts, lasts, buckets = (np.empty(most // 3 + 1, np.int64) for _ in range(4))
        many, named = kernels.unpack(raw, begin, names, lanes, firsts, lasts, buckets)
        if many < 0:
            raise msgspec.DecodeError("its intervals are cut off, or are none")
        held = [name.tobytes() for name in names[:named]]
        self._pending.append(_Pending(held, *(column[:many].copy() for column in (lanes, firsts, lasts, buckets))))

    def settle(self, strays: int) -> None:
        """Puts in what was restored: of a counter the latest time holds. strays: as in `open`, of every lane there is."""
        if self._pending:
            self._unite()
        self.strays[:] = np.maximum(self.strays, strays)

    def _unite(self) -> None:
        pending, self._pending = self._pending, []
        columns = []
        for part in pending:
            slots = [self.slots[name] if name in self.slots else self.open(name, NEVER) for name in part.names]
            columns.append((np.array(slots, np.int64)[part.lanes], *part[2:]))
        lanes = np.repeat(np.arange(len(self._at)), self._counts)
        held = np.concatenate(
            [
                np.empty(0, np.int64),
                *(np.arange(at, at + many) for at, many in zip(self._at, self._counts, strict=True)),
            ]
        )
        columns.append((lanes, self._starts[held], self._stops[held], self._times[held]))
        lanes, firsts, lasts, buckets = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.lexsort((firsts, lanes))
        heap, found = np.empty_like(order), np.empty((4, 2 * len(order)), np.int64)
        many = kernels.newest_of(lanes[order], firsts[order], lasts[order], buckets[order], heap, found)
        lanes, self._starts, self._stops, self._times = (column[:many].copy() for column in found)
        self._counts = np.bincount(lanes, minlength=len(self._at))
        self._rooms = self._counts.copy()
        self._at = np.cumsum(self._counts) - self._counts
        self._used[0] = many
        for slot in np.flatnonzero(self._counts > self._limits).tolist():
            self._reconsider(slot)

    def _forgot(self, slot: int, floor: int) -> bool:
        """Whether a lane had intervals below the floor; they are gone."""
        many = self._counts[slot]
        kernels.forget_in_lane(slot, floor, self._at, self._counts, self._starts, self._stops, self._times)
        return bool(self._counts[slot] < many)

    def _reconsider(self, slot: int) -> None:
        """A lane that has as many intervals as it may: it may have more where they pay, else it is closed."""
        begin, many = int(self._at[slot]), int(self._counts[slot])
        held = int((self._stops[begin : begin + many] - self._starts[begin : begin + many] + 1).sum())
        left = self._left_bytes()
        if held < (DENSE if left > 0 else DENSE_ON_DISK) * many:
            self._closed[slot] = True
        elif held < DENSE_ON_DISK * many:
            self._limits[slot] = many + min(many, max(left // INTERVAL_MEMORY_BYTES, many // 8 + 1))
        else:
            self._limits[slot] = 2 * many

    def _left_bytes(self) -> int:
        """Memory that is left for intervals."""
        if self._disk is None:
            return 1 << 62
        return (
            self._disk.share_bytes // 2
            - int(self._counts.sum()) * INTERVAL_MEMORY_BYTES
            - _LANE_BYTES * len(self.slots)
        )

    def _intervals(self) -> tuple[Integers, Integers]:
        """Of all intervals how many ids they are, and their times."""
        live = np.zeros(len(self._starts) + 1, np.int64)
        np.add.at(live, self._at, self._counts > 0)
        np.add.at(live, self._at + self._counts, -(self._counts > 0).astype(np.int64))
        held = np.flatnonzero(np.cumsum(live)[:-1])
        return self._stops[held] - self._starts[held] + 1, self._times[held]

    def _widen(self) -> None:
        size = len(self._at)
        more = max(4, size // 2)
        self._free += range(size + more - 1, size - 1, -1)
        for name in ("_at", "_counts", "_rooms", "_fresh_at", "_limits", "_toil", "strays"):
            setattr(self, name, np.append(getattr(self, name), np.zeros(more, np.int64)))
        self._closed = np.append(self._closed, np.zeros(more, np.bool_))
        self._names = np.concatenate((self._names, np.zeros((more, ID_BYTES), np.uint8)))

    def _make_room(self) -> None:
        """For more intervals, and more that is fresh."""
        if self._used[1] == len(self._fresh):
            more = max(16, len(self._fresh) // 2)
            self._fresh = np.concatenate((self._fresh, np.zeros((more, 4), np.int64)))
            return
        self._lay_out()

    def _lay_out(self) -> None:
        """The intervals of all lanes one behind the other, each with room for some more."""
        many = self._counts
        needed = int((many + many // 8 + (many > 0)).sum())
        needed += needed // 8 + 16
        into = [np.zeros(needed, np.int64) for _ in range(3)]
        self._used[0] = kernels.move_lanes(
            self._at, self._counts, self._rooms, self._starts, self._stops, self._times, *into
        )
        self._starts, self._stops, self._times = into

    def _pieces(self, lanes: Integers, firsts: Integers, lasts: Integers, buckets: Integers) -> Iterator[bytes]:
        """lanes: slots; what is of one lane stands together, in the order of its counters."""
        row = 0
        while row < len(lanes):
            piece, bounds = np.empty(_PIECE, np.uint8), np.zeros(1, np.int64)
            row = kernels.pack(row, lanes, self._names, firsts, lasts, buckets, piece, _PIECE - _LARGEST, bounds)
            yield piece[: bounds[0]].tobytes()
