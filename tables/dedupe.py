"""Known ids: exact within a source partition, for exactly as long as a duplicate could still be counted (design §4).

A hash table of machine words, in buckets of eight slots: 16 bytes of digest and 4 of time in a slot, at most three of four
slots taken, and more than half of them after it has grown: no more than 40 bytes an id. A batch is looked up and put in at
once: a bucket's first words are one line of the processor's cache, compared together, and one line is nearly always all that
is looked at. A bucket that is full sends on to the next one.
"""

from __future__ import annotations

import secrets
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.changelog import Entry

ID_BYTES = 16
_item = struct.Struct(f">{ID_BYTES}sq")
"""An id and its time in a piece."""
ITEM_BYTES = _item.size
_PIECE = 32_000 // ITEM_BYTES * ITEM_BYTES
_ROW = np.dtype([("first", ">u8"), ("last", ">u8"), ("time", ">i8")])

_SLOTS = 8
"""Of a bucket: eight flags are one machine word."""
_PLACES = np.arange(_SLOTS)
_LEAST = 8
"""Buckets of an empty table."""
_FULL = 0.75
_GROWTH = 1.45
_SPAN = (1 << 32) - 1
"""Times are held as ms behind a base, 0 standing for a free slot: in 4 bytes within seven weeks, else in 8."""

_SALT = [np.uint64(secrets.randbits(64) | 1) for _ in range(2)]
"""Where an id goes is this process's secret: nobody can make up ids that crowd together."""

Words = npt.NDArray[np.uint64]
"""(2, n): of each digest the first and the last eight bytes, as big-endian numbers."""
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Share(NamedTuple):
    """One of so many equal parts of all ids; in this process alone, since the salt is."""

    number: int
    of: int


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
        return self._first.nbytes + self._last.nbytes + self._times.nbytes + self._filled.nbytes

    def knows(self, digest: bytes, watermark_ms: int) -> bool:
        """Whether an event of this id was counted with a time that is not too late now."""
        at, found = self._find(words_of([digest]))
        return bool(found[0]) and int(self._times[at[0]]) + self._base_ms >= watermark_ms - self._correct_for_ms

    def add(self, digest: bytes, time_ms: int) -> None:
        """Remember a counted id. A retry stamped anew after it was forgotten is a new event, with the new time."""
        words, times_ms = words_of([digest]), np.array([time_ms], np.int64)
        self._make_room(times_ms)
        self._insert(words, times_ms, *self._find(words))
        self._fresh.append((words, times_ms))

    def count(self, words: Words, times_ms: Integers, watermarks_ms: Integers) -> Flags:
        """Of events in order, whether each is a duplicate; those that are none are remembered, one after the other.

        words: of their digests. watermarks_ms: the watermark before each.
        """
        duplicate = np.zeros(len(times_ms), bool)
        self._make_room(times_ms)
        for chosen in _rounds(words):
            mine = words if chosen is None else words[:, chosen]
            mine_ms = times_ms if chosen is None else times_ms[chosen]
            floors_ms = (watermarks_ms if chosen is None else watermarks_ms[chosen]) - self._correct_for_ms
            at, found = self._find(mine)
            if not found.any():
                self._insert(mine, mine_ms, at, found)
                self._fresh.append((mine, mine_ms))
                continue
            known = found & (self._times[at].astype(np.int64) + self._base_ms >= floors_ms)
            new = ~known
            self._insert(mine[:, new], mine_ms[new], at[new], found[new])
            self._fresh.append((mine[:, new], mine_ms[new]))
            duplicate[... if chosen is None else chosen] = known
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
        words, times_ms = np.concatenate([w for w, _ in fresh], 1), np.concatenate([t for _, t in fresh])
        kept = times_ms // self._bucket_ms >= self._swept
        return _pieces(words[:, kept], times_ms[kept])

    def units(self) -> list[Share]:
        """Shares of all ids, some thousand bytes each, for a snapshot."""
        of = -(-self._live * ITEM_BYTES // _PIECE)
        return [Share(number, of) for number in range(of)]

    def slice(self, share: Share) -> Iterator[Entry]:
        """The ids of one share, as additive pieces: those that are looked for first in one stretch of the table."""
        first, end = (-(-(bound << 32) // share.of) for bound in (share.number, share.number + 1))
        low, high = first * self._buckets >> 32, (end - 1) * self._buckets >> 32
        stretch = np.arange(low, high + 1)
        while len(stretch) < self._buckets and self._filled[stretch[-1]] == _SLOTS:  # full: some may stand behind it
            stretch = np.append(stretch, (stretch[-1] + 1) % self._buckets)
        slots = (stretch[:, None] * _SLOTS + _PLACES).reshape(-1)
        slots = slots[self._times[slots] != 0]
        words, times_ms = self._at(slots)
        mixed = _mixed(words)
        mine = (mixed >= first) & (mixed < end) & (times_ms // self._bucket_ms >= self._swept)
        words, times_ms = words[:, mine], times_ms[mine]
        order = np.lexsort((words[1], words[0]))
        return _pieces(words[:, order], times_ms[order])

    def restore(self, piece: bytes) -> None:
        """Unite a piece; of two times of one id the later holds: the earlier was forgotten before it was counted again."""
        rows = np.frombuffer(piece, _ROW)
        words = np.array((rows["first"], rows["last"]), np.uint64)
        times_ms = rows["time"].astype(np.int64)
        self._make_room(times_ms)
        for chosen in _rounds(words):
            mine, mine_ms = (words, times_ms) if chosen is None else (words[:, chosen], times_ms[chosen])
            at, found = self._find(mine)
            later = ~found | (self._times[at].astype(np.int64) + self._base_ms < mine_ms)
            self._insert(mine[:, later], mine_ms[later], at[later], found[later])

    def _make(self, buckets: int, dtype: type[np.uint32 | np.int64]) -> None:
        self._buckets = buckets
        words = np.zeros((buckets + 1) * _SLOTS, np.uint64)
        begin = (
            -(words.ctypes.data // words.itemsize) % _SLOTS
        )  # each bucket's first words are to be one line of the cache
        self._first = words[begin : begin + buckets * _SLOTS].reshape(buckets, _SLOTS)
        self._last = np.zeros(buckets * _SLOTS, np.uint64)
        self._times: npt.NDArray[np.uint32 | np.int64] = np.zeros(buckets * _SLOTS, dtype)
        self._filled = np.zeros(buckets, np.uint8)
        self._taken = 0

    def _all(self) -> tuple[Words, Integers]:
        """Everything in the table, swept or not."""
        return self._at(np.flatnonzero(self._times))

    def _at(self, slots: Integers) -> tuple[Words, Integers]:
        words = np.array((self._first.reshape(-1)[slots], self._last[slots]), np.uint64)
        return words, self._times[slots].astype(np.int64) + self._base_ms

    def _make_room(self, times_ms: Integers) -> None:
        """So that as many ids of such times can be inserted."""
        if not len(times_ms):
            return
        first_ms, last_ms = int(times_ms.min()), int(times_ms.max())
        if (
            self._taken + len(times_ms) > self._buckets * _SLOTS * _FULL
            or not self._base_ms < first_ms <= last_ms <= self._base_ms + np.iinfo(self._times.dtype).max
        ):
            self._rebuild(len(times_ms), first_ms, last_ms)

    def _insert(self, words: Words, times_ms: Integers, at: Integers, found: Flags) -> None:
        """Ids that differ from one another, as `_find` found them; of one that is held the time is replaced."""
        if not len(times_ms):
            return
        for bucket in (self._times[at[found]].astype(np.int64) + self._base_ms) // self._bucket_ms:
            self._forget(int(bucket))
        self._put(words, times_ms, at, found)
        buckets = times_ms // self._bucket_ms
        first = int(buckets.min())
        if int(buckets.max()) == first:
            counted = [(first, len(buckets))]
        else:
            counted = list(zip(*(column.tolist() for column in np.unique(buckets, return_counts=True)), strict=True))
        for bucket, held in counted:
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
        words, times_ms = words[:, kept], times_ms[kept]
        needed = (len(times_ms) + more) / _SLOTS
        size = self._buckets if needed <= self._buckets * _FULL and needed * 4 > self._buckets else _LEAST
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
        self._fill(words, times_ms)

    def _fill(self, words: Words, times_ms: Integers) -> None:
        """Into an empty table: in the order of their buckets, each into its own or the next slot that is free."""
        bucket = self._bucket(words)
        order = np.argsort(bucket)
        rank = np.arange(len(order))
        at = np.maximum.accumulate(bucket[order] * _SLOTS - rank) + rank
        fits = at < self._buckets * _SLOTS
        at, chosen = at[fits], order[fits]
        self._first.reshape(-1)[at], self._last[at] = words[0, chosen], words[1, chosen]
        self._times[at] = times_ms[chosen] - self._base_ms
        self._filled += np.bincount(at // _SLOTS, minlength=self._buckets).astype(np.uint8)
        self._taken = len(at)
        rest = order[~fits]  # behind the last bucket comes the first
        self._put(words[:, rest], times_ms[rest], *self._find(words[:, rest]))

    def _bucket(self, words: Words) -> Integers:
        """Of each id the bucket where it is looked for first."""
        bucket: Integers = (_mixed(words) * np.uint64(self._buckets) >> np.uint64(32)).astype(np.int64)
        return bucket

    def _find(self, words: Words) -> tuple[Integers, Flags]:
        """Of each id the slot it is in, or the first free one on its way; and whether it is there."""
        bucket = self._bucket(words)
        filled = self._filled[bucket]
        at, found = bucket * _SLOTS + filled, np.zeros(len(bucket), bool)
        alike = self._first[bucket] == words[0][:, None]
        doubtful = np.flatnonzero((filled == _SLOTS) | (alike.view(np.uint64)[:, 0] != 0))
        while len(doubtful):
            mine, (first, last) = bucket[doubtful], words[:, doubtful, None]
            slots = mine[:, None] * _SLOTS + _PLACES
            filled = self._filled[mine]
            same = (self._first[mine] == first) & (self._last[slots] == last) & (filled[:, None] > _PLACES)
            there = same.any(1)
            found[doubtful] = there
            at[doubtful] = mine * _SLOTS + np.where(there, same.argmax(1), filled)
            doubtful = doubtful[~there & (filled == _SLOTS)]
            bucket[doubtful] = (bucket[doubtful] + 1) % self._buckets
        return at, found

    def _put(self, words: Words, times_ms: Integers, at: Integers, found: Flags) -> None:
        """Into their slots; of several that want the same free one, the others take the next ones, or look on."""
        times = (times_ms - self._base_ms).astype(self._times.dtype)
        if found.any():
            self._times[at[found]] = times[found]
            new = np.flatnonzero(~found)
            words, times, at = words[:, new], times[new], at[new]
        self._taken += len(times)
        firsts = self._first.reshape(-1)
        while len(times):
            order = np.argsort(at)
            wanted, number = at[order], np.arange(len(at))
            begins = np.append(True, wanted[1:] != wanted[:-1])
            slots = wanted + number - np.maximum.accumulate(np.where(begins, number, 0))
            fits = slots // _SLOTS == wanted // _SLOTS
            chosen, slots = order[fits], slots[fits]
            firsts[slots], self._last[slots] = words[0, chosen], words[1, chosen]
            self._times[slots] = times[chosen]
            np.add.at(self._filled, slots // _SLOTS, np.uint8(1))
            rest = order[~fits]
            words, times = words[:, rest], times[rest]
            at = self._find(words)[0]


def _mixed(words: Words) -> Words:
    """Of each id 32 bits, by which it has its place in the table."""
    mixed: Words = (words[0] * _SALT[0] + words[1] * _SALT[1]) >> np.uint64(32)
    return mixed


def words_of(digests: Sequence[bytes]) -> Words:
    """(2, n), of digests of 16 bytes."""
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T.astype(np.uint64, order="C")


def _rounds(words: Words) -> Iterator[Integers | None]:
    """Rows so that no id comes twice in a round, and of one id the earlier before the later. None: all of them at once."""
    ordered = np.sort(words[0])
    alike = ordered[1:] == ordered[:-1]
    if not alike.any():
        yield None
        return
    may_repeat = np.isin(words[0], ordered[1:][alike])
    ids = dict(zip(np.flatnonzero(may_repeat).tolist(), zip(*words[:, may_repeat].tolist(), strict=True), strict=True))
    others = np.flatnonzero(~may_repeat)
    left: Sequence[int] = list(ids)
    while left:
        first: dict[tuple[int, int], int] = {}
        left = [row for row in left if first.setdefault(ids[row], row) != row]
        yield np.concatenate((others, np.array(list(first.values()), np.int64)))
        others = others[:0]


def _pieces(words: Words, times_ms: Integers) -> Iterator[Entry]:
    rows = np.empty(len(times_ms), _ROW)
    rows["first"], rows["last"], rows["time"] = words[0], words[1], times_ms
    packed = rows.tobytes()
    for at in range(0, len(packed), _PIECE):
        yield Entry("ids", b"", packed[at : at + _PIECE])
