"""Known ids: exact within a source partition, for exactly as long as a duplicate could still be counted (design §4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from schemas.changelog import Entry

ID_BYTES = 16
_item = struct.Struct(f">{ID_BYTES}sq")
"""An id and its time in a piece."""
ITEM_BYTES = _item.size
_PIECE = 32_000 // ITEM_BYTES * ITEM_BYTES


class KnownIds:
    """(source, id) digests of counted events, each with the event time it was counted with.

    An id is known while that time is not too late: `time >= watermark - correct_for`. Eviction, bucket by bucket of event
    time, is housekeeping: an id that should be gone but is still held is treated as unknown.
    """

    def __init__(self, correct_for_ms: int) -> None:
        self._correct_for_ms = correct_for_ms
        self._bucket_ms = max(1000, correct_for_ms // 96)
        self._times: dict[bytes, int] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self._fresh: list[bytes] = []
        self._swept = -(1 << 62)

    def __len__(self) -> int:
        return len(self._times)

    def knows(self, digest: bytes, watermark_ms: int) -> bool:
        """Whether an event of this id was counted with a time that is not too late now."""
        counted = self._times.get(digest)
        return counted is not None and counted >= watermark_ms - self._correct_for_ms

    def add(self, digest: bytes, time_ms: int) -> None:
        """Remember a counted id. A retry stamped anew after it was forgotten is a new event, with the new time."""
        self._insert(digest, time_ms)
        self._fresh.append(digest)

    def evict(self, watermark_ms: int) -> None:
        """Forget the buckets that lie wholly behind `watermark - correct_for`."""
        bound = (watermark_ms - self._correct_for_ms) // self._bucket_ms
        if bound <= self._swept:
            return
        self._swept = bound
        for bucket in [b for b in self._buckets if b < bound]:
            for digest in self._buckets.pop(bucket):
                time_ms = self._times.get(digest)
                if time_ms is not None and time_ms // self._bucket_ms == bucket:
                    del self._times[digest]

    def touched(self) -> Iterator[Entry]:
        """The ids added since the last call, as additive pieces."""
        fresh, self._fresh = self._fresh, []
        return self._pieces(digest for digest in fresh if digest in self._times)

    def units(self) -> list[int]:
        """The buckets, for a snapshot."""
        return sorted(self._buckets)

    def slice(self, bucket: int) -> Iterator[Entry]:
        """The ids of one bucket, as additive pieces."""
        return self._pieces(digest for digest in self._buckets.get(bucket, ()) if digest in self._times)

    def restore(self, piece: bytes) -> None:
        """Unite a piece; of two times of one id the later holds: the earlier was forgotten before it was counted again."""
        times, buckets, bucket_ms = self._times, self._buckets, self._bucket_ms
        for digest, time_ms in _item.iter_unpack(piece):
            held = times.get(digest)
            if held is None or time_ms > held:
                times[digest] = time_ms
                bucket = time_ms // bucket_ms
                if bucket in buckets:
                    buckets[bucket].append(digest)
                else:
                    buckets[bucket] = [digest]

    def _insert(self, digest: bytes, time_ms: int) -> None:
        self._times[digest] = time_ms
        self._buckets.setdefault(time_ms // self._bucket_ms, []).append(digest)

    def _pieces(self, digests: Iterator[bytes]) -> Iterator[Entry]:
        packed = b"".join(_item.pack(d, self._times[d]) for d in digests)
        for at in range(0, len(packed), _PIECE):
            yield Entry("ids", b"", packed[at : at + _PIECE])
