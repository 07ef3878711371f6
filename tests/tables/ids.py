"""Ids for tests of what remembers them: made up, asked for, and a plain dictionary that says what is right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from schemas.ids import ID_BYTES, Ids, Integers
from tables.dedupe import KnownIds, Unit

MINUTE = 60_000
HOUR = 60 * MINUTE
BUCKET = HOUR // 96
"""Of a `correct_for` of an hour."""
NOON = 1_767_268_800_000 // BUCKET * BUCKET

Pair = tuple[str, str]


def by_digest(digests: Sequence[bytes]) -> Ids:
    """Ids that end in no counter, with these digests of 16 bytes."""
    words = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T.astype(np.uint64, order="C")
    none = np.full(len(digests), -1, np.int64)
    return Ids(words, none, none, [])


def numbered(first: int, end: int) -> Ids:
    """So many different ids that end in no counter."""
    return by_digest([hashlib.blake2b(b"%d" % number, digest_size=16).digest() for number in range(first, end)])


def in_lane(first: int, end: int, lane: str = "lane-") -> Ids:
    """Ids that end in these counters."""
    return Ids.of([("/s", f"{lane}{counter}") for counter in range(first, end)])


def name_of_lane(lane: int) -> bytes:
    """Of one of a few lanes."""
    return bytes([lane]) * ID_BYTES


def of_lane(counters: Integers, lane: int = 0) -> Ids:
    """Ids of one of a few lanes, that end in these counters; their digests are made up, and each id's own."""
    words = np.array([counters, np.full(len(counters), lane)]).astype(np.uint64)
    names = [name_of_lane(number) for number in range(8)]
    return Ids(words * np.uint64(0x9E3779B97F4A7C15), np.full(len(counters), lane), counters, names)


def count(known: KnownIds, ids: Ids, time_ms: int, watermark_ms: int | None = None) -> list[bool]:
    """Which of them are duplicates: all of one time, at one watermark, or that time's own."""
    many = len(ids.counters)
    before_ms = time_ms if watermark_ms is None else watermark_ms
    return known.count(ids, np.full(many, time_ms), np.full(many, before_ms)).tolist()


def knows(known: KnownIds, ids: Ids, watermark_ms: int) -> list[bool]:
    """Which of them would be duplicates at a watermark."""
    return (known.known(ids) >= known.floors(np.array([watermark_ms]))).tolist()


def snapshot(known: KnownIds, units: Sequence[Unit] | None = None) -> list[bytes]:
    """Everything, in pieces."""
    units = known.units() if units is None else units
    return [entry.value or b"" for unit in units for entry in known.slice(unit)]


def touched(known: KnownIds) -> list[bytes]:
    """What is new since the last time, in pieces."""
    return [entry.value or b"" for entry in known.touched()]


def restore(known: KnownIds, pieces: Sequence[bytes]) -> KnownIds:
    """The same, with these pieces in it."""
    for piece in pieces:
        known.restore(piece)
    return known


class Plain:
    """What `KnownIds` promises, in a dictionary."""

    def __init__(self, correct_for_ms: int = HOUR) -> None:
        self.correct_for_ms, self.bucket_ms = correct_for_ms, max(1000, correct_for_ms // 96)
        self.counted: dict[Pair, int] = {}

    def knows(self, pair: Pair, watermark_ms: int) -> bool:
        """Whether the end of the bucket that it was counted in is not too late."""
        if pair not in self.counted:
            return False
        return (self.counted[pair] + 1) * self.bucket_ms - 1 >= watermark_ms - self.correct_for_ms

    def count(self, pair: Pair, time_ms: int, watermark_ms: int) -> bool:
        """Whether it is a duplicate; if not, it is counted."""
        known = self.knows(pair, watermark_ms)
        if not known:
            self.counted[pair] = time_ms // self.bucket_ms
        return known
