"""Known ids: exact within a source partition, for as long as a duplicate could still be counted (design §4).

**The rule.** An id is counted with the event time of its event, rounded up to the end of its bucket of time: a 96th of
`correct_for`, at least a second. It is known while that is not too late. So it is known for as long as its own time is not too
late, which is what exactness asks for (what could be too old to remember is too late to count), and for up to a bucket longer.
Design §4 would have it known to the millisecond; this is where we depart from it, since ids that are held together, as an
interval is, need one time. All ids are held to the one rule, so that how one is held decides nothing.

Ids that end in a counter are held as intervals (`tables/lanes.py`), all others by their digests (`tables/shelves.py`). Which
lanes are held so is housekeeping, too: a lane begins where a batch brings several ids of it, and those that came before stay
where they are, and are looked for there while they can be known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.changelog import Entry
from schemas.ids import ID_BYTES, Ids, Integers
from tables.lanes import MOST, NEVER, Lanes, LaneShare
from tables.runs import Disk, Found
from tables.shelves import Share, Shelves

BUCKETS = 96
"""Of `correct_for`."""
LANE = 8
"""Ids of a lane in one batch with which it begins to be held as intervals."""
INTERVAL_BYTES = 8
"""Of an interval in a piece, about."""
_PIECE = 32_000 // ID_BYTES * ID_BYTES
_SHARE = 32_000 // INTERVAL_BYTES
"""Intervals in a share of a snapshot."""
_DIGESTS, _INTERVALS = b"\x00", b"\x01"
"""With which pieces begin: of digests by bucket, or what `lane_kernels.pack` writes."""
_many = struct.Struct(">H")
_BUCKET = np.dtype([("bucket", ">i8"), ("many", ">u4")])
_SWEEPS = 8
"""Buckets of time between two looks at all lanes."""

_APART = 1 << 31
"""Buckets that are not held side by side: a log's clock may jump, but not so far within what is remembered."""
_FAR = 1 << 53
"""No bucket is as far away from 1970."""

Flags = npt.NDArray[np.bool_]
Unit = Share | LaneShare
"""What a snapshot writes at once."""


class KnownIds:
    """(source, id) of counted events, each with the bucket of event time it was counted in."""

    def __init__(self, correct_for_ms: int, disk: Disk | None = None, most: int = MOST) -> None:
        """disk: where ids go that there is no memory for. most: see `lanes.MOST`."""
        self._correct_for_ms = correct_for_ms
        self._bucket_ms = max(1000, correct_for_ms // BUCKETS)
        self._swept = self._lanes_swept = NEVER
        self._lanes = Lanes(most, disk)
        self._shelves = Shelves(disk)
        self._fresh: list[Found] = []
        self._restored = False

    def __len__(self) -> int:
        """How many are known, those that are only not swept yet included."""
        self._settle()
        return sum(self._shelves.held.values()) + self._lanes.held(self._swept)[0]

    @property
    def size_bytes(self) -> int:
        """Memory of all of it."""
        fresh = sum(ids.words.nbytes + ids.buckets.nbytes for ids in self._fresh)
        return self._shelves.size_bytes + self._lanes.size_bytes + fresh

    @property
    def spilled(self) -> int:
        """How many ids are on disk."""
        return self._shelves.spilled

    @property
    def live_bytes(self) -> int:
        """About what they are in a snapshot."""
        self._settle()
        digests = sum(self._shelves.held.values()) * ID_BYTES
        return digests + self._lanes.held(self._swept)[1] * INTERVAL_BYTES + len(self._lanes.slots) * ID_BYTES

    def buckets(self, times_ms: Integers) -> Integers:
        """The bucket of each time."""
        found: Integers = times_ms // self._bucket_ms
        return found

    def floors(self, watermarks_ms: Integers) -> Integers:
        """The first bucket that is not too late at each watermark."""
        found: Integers = (watermarks_ms - self._correct_for_ms) // self._bucket_ms
        return found

    def count(self, ids: Ids, times_ms: Integers, watermarks_ms: Integers) -> Flags:
        """Of events in the log's order, whether each is a duplicate; those that are none are remembered.

        watermarks_ms: the watermark before each, which never falls. No time is too late at its own.
        """
        many = len(times_ms)
        self._settle()
        fates = np.zeros(many, np.uint8)
        if not many:
            return fates.view(np.bool_)
        buckets, floors = self.buckets(times_ms), self.floors(watermarks_ms)
        if many > 1 and int(buckets.max()) - int(buckets.min()) >= _APART:
            half = many // 2
            first = self.count(ids.only(np.arange(half)), times_ms[:half], watermarks_ms[:half])
            self.evict(int(watermarks_ms[half]))
            rest = self.count(ids.only(np.arange(half, many)), times_ms[half:], watermarks_ms[half:])
            return np.concatenate((first, rest))
        elsewhere = np.full(many, NEVER, np.int64)
        slots = self._slots(ids)
        rows = np.arange(many)
        if slots is not None:
            astray = np.flatnonzero((slots >= 0) & (self._lanes.strays[slots] >= floors))
            if len(astray):
                self._shelves.find(astray, ids.words, elsewhere)
            self._lanes.count(slots, ids.counters, buckets, floors, elsewhere, fates)
            self._shelves.beside_bytes = self._lanes.size_bytes
            rows = np.flatnonzero(fates == 0)
        if len(rows):
            self._shelves.count(rows, ids.words, buckets, floors, elsewhere, fates)
            rows = rows[fates[rows] == 0]
            self._fresh.append(Found(ids.words, buckets).only(rows))
        duplicate: Flags = fates == 2
        return duplicate

    def known(self, ids: Ids) -> Integers:
        """The bucket of each id that is held, or NEVER; one below the watermark's floor is known no longer."""
        self._settle()
        found = np.full(len(ids.counters), NEVER, np.int64)
        slots = np.array([*(self._lanes.slots.get(name, -1) for name in ids.names), -1], np.int64)[ids.lanes]
        self._lanes.find(slots, ids.counters, found)
        self._shelves.find(np.arange(len(found)), ids.words, found)
        return found

    def evict(self, watermark_ms: int) -> None:
        """Forget the buckets that are too late: housekeeping, for what should be gone but is still held is not known."""
        bound = (watermark_ms - self._correct_for_ms) // self._bucket_ms
        if bound <= self._swept:
            return
        self._swept = bound
        self._shelves.sweep(bound)
        if bound - self._lanes_swept >= _SWEEPS:
            self._settle()
            self._lanes.forget(bound)
            self._lanes_swept = bound

    def touched(self) -> Iterator[Entry]:
        """The ids added since the last call, as additive pieces."""
        fresh, self._fresh = self._fresh, []
        if fresh:
            ids = Found.joined(fresh)
            ids = ids.only(ids.buckets >= self._swept)
            yield from _pieces(ids.only(np.argsort(ids.buckets, kind="stable")))
        for piece in self._lanes.touched(self._swept):
            yield Entry("ids", b"", _INTERVALS + piece)

    def units(self) -> list[Unit]:
        """Shares of all ids, some thousand bytes each, for a snapshot."""
        self._settle()
        of = -(-sum(self._shelves.held.values()) * ID_BYTES // _PIECE)
        return [*(Share(number, of) for number in range(of)), *self._lanes.shares(_SHARE)]

    def slice(self, unit: Unit) -> Iterator[Entry]:
        """The ids of one share, as additive pieces: those that are looked for first in one stretch of the table."""
        if isinstance(unit, LaneShare):
            for piece in self._lanes.slice(unit, self._swept):
                yield Entry("ids", b"", _INTERVALS + piece)
            return
        for ids in self._shelves.slice(unit):
            yield from _pieces(ids)

    def restore(self, piece: bytes) -> None:
        """Unite a piece; of two times of one id the later holds: the earlier was forgotten before it was counted again.

        Raises msgspec.DecodeError for what is no piece.
        """
        self._restored = True
        if piece[:1] == _INTERVALS:
            self._lanes.restore(piece, 1)
            return
        self._shelves.unite(digests_in(piece))

    def _settle(self) -> None:
        """What was restored by other owners may be held both ways: so any lane may have ids that are held by digest."""
        if self._restored:
            self._lanes.settle(self._shelves.newest)
            self._restored = False

    def _slots(self, ids: Ids) -> Integers | None:
        """Of each id the slot of its lane, -1 where it is held by its digest; None where all are."""
        if not len(ids.names):
            return None
        known, slots = self._lanes.slots, []
        many = np.bincount(ids.lanes + 1, minlength=len(ids.names) + 1)[1:].tolist()
        for name, here in zip(ids.names, many, strict=True):
            slot = known.get(name, -1)
            if slot < 0 and here >= LANE and not self._lanes.full:
                slot = self._lanes.open(name, self._shelves.newest)
            slots.append(slot)
        if max(slots) < 0:
            return None
        return np.array([*slots, -1], np.int64)[ids.lanes]  # -1 is the last


def digests_in(piece: bytes) -> Found:
    """The ids of a piece that holds digests. Raises msgspec.DecodeError for what is none."""
    begin = 1 + _many.size
    many = _many.unpack_from(piece, 1)[0] if len(piece) > begin else 0
    size = len(piece) - begin - many * _BUCKET.itemsize
    if piece[:1] != _DIGESTS or size < 0 or size % ID_BYTES:
        raise msgspec.DecodeError("it is no piece of known ids")
    heads = np.frombuffer(piece, _BUCKET, many, begin)
    buckets = heads["bucket"].astype(np.int64)
    if int(heads["many"].sum(dtype=np.int64)) * ID_BYTES != size or ((buckets < -_FAR) | (buckets > _FAR)).any():
        raise msgspec.DecodeError("its ids are cut off, or of no time")
    digests = np.frombuffer(piece, ">u8", -1, 1 + _many.size + heads.nbytes).reshape(-1, 2)
    return Found(digests.T.astype(np.uint64, order="C"), np.repeat(buckets, heads["many"]))


def _pieces(ids: Found) -> Iterator[Entry]:
    """Ids in the order of their buckets: of each piece how many ids it has of which bucket, then their digests."""
    found, counts = np.unique(ids.buckets, return_counts=True)
    ends = list(accumulate(counts.tolist()))
    at = 0
    number = 0
    while at < len(ids.buckets):
        heads = []
        begin, left = at, _PIECE
        while number < len(ends) and left >= _BUCKET.itemsize + ID_BYTES:
            many = min(ends[number] - at, (left - _BUCKET.itemsize) // ID_BYTES)
            heads.append((int(found[number]), many))
            left -= _BUCKET.itemsize + many * ID_BYTES
            at += many
            number += at == ends[number]
        digests = ids.words[:, begin:at].T.astype(">u8").tobytes()
        yield Entry(
            "ids", b"", b"".join((_DIGESTS, _many.pack(len(heads)), np.array(heads, _BUCKET).tobytes(), digests))
        )
