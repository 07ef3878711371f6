"""Known ids: exact within a source partition, for exactly as long as a duplicate could still be counted (design §4).

A hash table of machine words: 16 bytes of digest and 4 of time in a slot, at most three of four slots taken, at least half of
them after it has grown: no more than 40 bytes an id. A batch is looked up and put in at once.
"""

from __future__ import annotations

import secrets
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from schemas.changelog import Entry

ID_BYTES = 16
_item = struct.Struct(f">{ID_BYTES}sq")
"""An id and its time in a piece."""
ITEM_BYTES = _item.size
_PIECE = 32_000 // ITEM_BYTES * ITEM_BYTES
_ROW = np.dtype([("low", ">u8"), ("high", ">u8"), ("time", ">i8")])

_LEAST = 64
"""Slots of an empty table."""
_FULL = 0.75
_GROWTH = 1.5
_SPAN = (1 << 32) - 1
"""Times are held as ms behind a base, 0 standing for a free slot: in 4 bytes within seven weeks, else in 8."""

_SALT = [np.uint64(secrets.randbits(64) | 1) for _ in range(2)]
"""Where an id goes is this process's secret: nobody can make up ids that crowd together."""

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class KnownIds:
    """(source, id) digests of counted events, each with the event time it was counted with.

    An id is known while that time is not too late: `time >= watermark - correct_for`. Eviction, bucket by bucket of event
    time, is housekeeping: an id that should be gone but is still held is treated as unknown.
    """

    def __init__(self, correct_for_ms: int) -> None:
        self._correct_for_ms = correct_for_ms
        self._bucket_ms = max(1000, correct_for_ms // 96)
        self._held: Counter[int] = Counter()
        """Ids per bucket of time, those that are swept left out."""
        self._swept = -(1 << 62)
        self._taken = 0
        self._live = 0
        self._fresh: list[tuple[Words, Integers]] = []
        self._base_ms = 0
        self._make(_LEAST, np.uint32)

    def __len__(self) -> int:
        return self._live

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._low.nbytes + self._high.nbytes + self._times.nbytes

    def knows(self, digest: bytes, watermark_ms: int) -> bool:
        """Whether an event of this id was counted with a time that is not too late now."""
        at, found = self._find(_words([digest]))
        return bool(found[0]) and int(self._times[at[0]]) + self._base_ms >= watermark_ms - self._correct_for_ms

    def add(self, digest: bytes, time_ms: int) -> None:
        """Remember a counted id. A retry stamped anew after it was forgotten is a new event, with the new time."""
        words, times_ms = _words([digest]), np.array([time_ms], np.int64)
        self._insert(words, times_ms)
        self._fresh.append((words, times_ms))

    def count(self, digests: Sequence[bytes], times_ms: Integers, watermarks_ms: Integers) -> Flags:
        """Of events in order, whether each is a duplicate; those that are none are remembered, one after the other.

        watermarks_ms: the watermark before each.
        """
        words = _words(digests)
        duplicate = np.zeros(len(digests), bool)
        for chosen in _rounds(digests):
            mine = words if chosen is None else words[chosen]
            mine_ms = times_ms if chosen is None else times_ms[chosen]
            floors_ms = (watermarks_ms if chosen is None else watermarks_ms[chosen]) - self._correct_for_ms
            at, found = self._find(mine)
            known = found & (self._times[at].astype(np.int64) + self._base_ms >= floors_ms)
            new = ~known
            self._insert(mine[new], mine_ms[new])
            self._fresh.append((mine[new], mine_ms[new]))
            if chosen is None:
                return known
            duplicate[chosen] = known
        return duplicate

    def evict(self, watermark_ms: int) -> None:
        """Forget the buckets that lie wholly behind `watermark - correct_for`."""
        bound = (watermark_ms - self._correct_for_ms) // self._bucket_ms
        if bound <= self._swept:
            return
        self._swept = bound
        for bucket in [bucket for bucket in self._held if bucket < bound]:
            self._live -= self._held.pop(bucket)
        if (self._taken - self._live) * 4 > self._taken:
            self._rebuild()

    def touched(self) -> Iterator[Entry]:
        """The ids added since the last call, as additive pieces."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return iter(())
        words, times_ms = np.concatenate([w for w, _ in fresh]), np.concatenate([t for _, t in fresh])
        kept = times_ms // self._bucket_ms >= self._swept
        return _pieces(words[kept], times_ms[kept])

    def units(self) -> list[int]:
        """The buckets, for a snapshot."""
        return sorted(bucket for bucket, held in self._held.items() if held)

    def slice(self, bucket: int) -> Iterator[Entry]:
        """The ids of one bucket, as additive pieces."""
        if bucket < self._swept:
            return iter(())
        words, times_ms = self._all()
        mine = times_ms // self._bucket_ms == bucket
        words, times_ms = words[mine], times_ms[mine]
        order = np.lexsort((words[:, 1], words[:, 0]))  # the same in every process
        return _pieces(words[order], times_ms[order])

    def restore(self, piece: bytes) -> None:
        """Unite a piece; of two times of one id the later holds: the earlier was forgotten before it was counted again."""
        rows = np.frombuffer(piece, _ROW)
        words = np.empty((len(rows), 2), np.uint64)
        words[:, 0], words[:, 1] = rows["low"], rows["high"]
        times_ms = rows["time"].astype(np.int64)
        for chosen in _rounds([piece[at : at + ID_BYTES] for at in range(0, len(piece), ITEM_BYTES)]):
            mine, mine_ms = (words, times_ms) if chosen is None else (words[chosen], times_ms[chosen])
            at, found = self._find(mine)
            later = ~found | (self._times[at].astype(np.int64) + self._base_ms < mine_ms)
            self._insert(mine[later], mine_ms[later])

    def _make(self, size: int, dtype: type[np.uint32 | np.int64]) -> None:
        self._size = size
        self._low = np.zeros(size, np.uint64)
        self._high = np.zeros(size, np.uint64)
        self._times: npt.NDArray[np.uint32 | np.int64] = np.zeros(size, dtype)
        self._taken = 0

    def _all(self) -> tuple[Words, Integers]:
        """Everything in the table, swept or not."""
        at = np.flatnonzero(self._times)
        words = np.empty((len(at), 2), np.uint64)
        words[:, 0], words[:, 1] = self._low[at], self._high[at]
        return words, self._times[at].astype(np.int64) + self._base_ms

    def _insert(self, words: Words, times_ms: Integers) -> None:
        """Ids that differ from one another; of one that is held the time is replaced."""
        if not len(words):
            return
        first_ms, last_ms = int(times_ms.min()), int(times_ms.max())
        if (
            self._taken + len(words) > self._size * _FULL
            or not self._base_ms < first_ms <= last_ms <= self._base_ms + np.iinfo(self._times.dtype).max
        ):
            self._rebuild(len(words), first_ms, last_ms)
        at, found = self._find(words)
        for bucket in (self._times[at[found]].astype(np.int64) + self._base_ms) // self._bucket_ms:
            self._forget(int(bucket))
        self._put(words, times_ms, at, found)
        buckets, counts = np.unique(times_ms // self._bucket_ms, return_counts=True)
        for bucket, held in zip(buckets.tolist(), counts.tolist(), strict=True):
            if bucket >= self._swept:
                self._held[bucket] += held
                self._live += held

    def _forget(self, bucket: int) -> None:
        if bucket >= self._swept:
            self._held[bucket] -= 1
            self._live -= 1

    def _rebuild(self, more: int = 0, first_ms: int | None = None, last_ms: int | None = None) -> None:
        """The table anew, without what is swept, large enough for `more` of times in between."""
        words, times_ms = self._all()
        kept = times_ms // self._bucket_ms >= self._swept
        words, times_ms = words[kept], times_ms[kept]
        needed = len(words) + more
        size = self._size if needed <= self._size * _FULL and needed * 4 > self._size else _LEAST
        while needed > size * _FULL:
            size = int(size * _GROWTH)
        known = [time_ms for time_ms in (first_ms, last_ms) if time_ms is not None]
        if len(times_ms):
            known += [int(times_ms.min()), int(times_ms.max())]
        span_ms = max(known) - min(known) if known else 0
        if span_ms < _SPAN:
            self._make(size, np.uint32)
            self._base_ms = (min(known) if known else 0) - 1 - (_SPAN - 1 - span_ms) // 2  # room on both sides
        else:
            self._make(size, np.int64)
            self._base_ms = min(known) - 1
        if len(words):
            at, found = self._find(words)
            self._put(words, times_ms, at, found)

    def _find(self, words: Words) -> tuple[Integers, Flags]:
        """Of each id the slot it is in, or the first free one on its way; and whether it is there."""
        low, high = words[:, 0], words[:, 1]
        mixed = (low * _SALT[0] + high * _SALT[1]) >> np.uint64(32)
        at = (mixed * np.uint64(self._size) >> np.uint64(32)).astype(np.int64)
        found = np.zeros(len(words), bool)
        left = np.arange(len(words))
        while len(left):
            slots = at[left]
            there_low, there_high = self._low[slots], self._high[slots]
            taken = self._times[slots] != 0
            same = taken & (there_low == low[left]) & (there_high == high[left])
            found[left[same]] = True
            left = left[taken & ~same]
            at[left] += 1
            at[left[at[left] == self._size]] = 0
        return at, found

    def _put(self, words: Words, times_ms: Integers, at: Integers, found: Flags) -> None:
        """Into their slots; of two that want the same free one, the other looks on."""
        times = (times_ms - self._base_ms).astype(self._times.dtype)
        self._times[at[found]] = times[found]
        left = np.flatnonzero(~found)
        self._taken += len(left)
        while len(left):
            slots = at[left]
            self._low[slots], self._high[slots] = words[left, 0], words[left, 1]
            self._times[slots] = times[left]
            lost = (self._low[slots] != words[left, 0]) | (self._high[slots] != words[left, 1])
            left = left[lost]
            at[left] = self._find(words[left])[0]


def _words(digests: Sequence[bytes]) -> Words:
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _rounds(digests: Sequence[bytes]) -> Iterator[Integers | None]:
    """Rows so that no id comes twice in a round, and of one id the earlier before the later. None: all of them at once."""
    if len(set(digests)) == len(digests):
        yield None
        return
    left: Sequence[int] = range(len(digests))
    while left:
        first: dict[bytes, int] = {}
        left = [row for row in left if first.setdefault(digests[row], row) != row]
        yield np.array(list(first.values()), np.int64)


def _pieces(words: Words, times_ms: Integers) -> Iterator[Entry]:
    rows = np.empty(len(words), _ROW)
    rows["low"], rows["high"], rows["time"] = words[:, 0], words[:, 1], times_ms
    packed = rows.tobytes()
    for at in range(0, len(packed), _PIECE):
        yield Entry("ids", b"", packed[at : at + _PIECE])
