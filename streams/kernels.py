"""Kernels of the fold: rows by window, what they come to, and the keys of their windows (`streams/folding.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

_STIR, _STIR_MORE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93


@kernel
def bucketed(
    subjects: Array, groups: Array, starts_ms: Array, step_ms: int, buckets: Array, groups_of: Array, starts_of: Array,
    subjects_of: Array,
) -> int:  # fmt: skip
    """Numbers rows by subject, group and start of their window; gives how many buckets there are, in the order of the rows.

    subjects, groups, starts_ms: int64, of each row; step_ms: starts are multiples of it. Written, int64: buckets, of each row;
    groups_of, starts_of, subjects_of, of each bucket.
    """
    many = len(subjects)
    size = 16
    while size < 2 * many:
        size *= 2
    table = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    found = 0
    for row in range(many):
        subject, group, start_ms = subjects[row], groups[row], starts_ms[row]
        mixed = np.uint64(subject) * np.uint64(_STIR) + np.uint64(group)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(_STIR_MORE) + np.uint64(start_ms // step_ms)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_STIR)
        slot = (mixed ^ (mixed >> np.uint64(32))) & mask
        while True:
            bucket = table[slot]
            if bucket < 0:
                bucket = found
                table[slot] = bucket
                subjects_of[bucket], groups_of[bucket], starts_of[bucket] = subject, group, start_ms
                found += 1
                break
            if subjects_of[bucket] == subject and groups_of[bucket] == group and starts_of[bucket] == start_ms:
                break
            slot = (slot + np.uint64(1)) & mask
        buckets[row] = bucket
    return found


@kernel
def summed(
    buckets: Array, words: Array, offsets: Array, events: Array, digests: Array, firsts: Array, lasts: Array
) -> None:
    """Per bucket: how many rows, the sum of their digests modulo 2^128, the lowest and the highest offset.

    buckets, offsets: int64, of each row; words: (2, n), uint64, high and low. Written: events, digests, firsts, lasts.
    """
    for bucket in range(len(events)):
        events[bucket] = 0
        digests[0, bucket] = digests[1, bucket] = np.uint64(0)
    for row in range(len(buckets)):
        bucket = buckets[row]
        low = digests[1, bucket] + words[1, row]
        carried = np.uint64(1) if low < words[1, row] else np.uint64(0)
        digests[0, bucket] += words[0, row] + carried
        digests[1, bucket] = low
        if events[bucket] == 0:
            firsts[bucket] = lasts[bucket] = offsets[row]
        firsts[bucket] = min(firsts[bucket], offsets[row])
        lasts[bucket] = max(lasts[bucket], offsets[row])
        events[bucket] += 1


@kernel
def gathered(kind: int, buckets: Array, units: Array, places: Array, totals: Array, rows: Array) -> None:
    """Per bucket what its rows' amounts come to. kind: as `tables.share_kernels` numbers them.

    buckets, units: int64, of each row; places: (3, n), int64, for LATEST: time, offset, index. Written: totals, rows, int64:
    of each bucket the sum, the least or the most, or the latest amount and its row.
    """
    for bucket in range(len(totals)):
        rows[bucket] = -1
    for row in range(len(buckets)):
        bucket, unit = buckets[row], units[row]
        held = rows[bucket]
        if held < 0:
            totals[bucket], rows[bucket] = unit, row
        elif kind == 0:
            totals[bucket] += unit
        elif kind == 1:
            totals[bucket] = min(totals[bucket], unit)
        elif kind == 2:
            totals[bucket] = max(totals[bucket], unit)
        else:
            later = False
            for part in range(3):
                if places[part, row] != places[part, held]:
                    later = places[part, row] > places[part, held]
                    break
            if later:
                totals[bucket], rows[bucket] = unit, row


@kernel
def window_keys(
    letters: Array, starts: Array, stops: Array, subjects: Array, tails: Array, bounds: Array, tail_of: Array, keys: Array,
    begins: Array, ends: Array,
) -> None:  # fmt: skip
    """The keys of windows, as `schemas.windows.encode_key` has them: MessagePack of five, the subject first.

    letters, starts, stops: the subjects' texts; subjects: of each key which. tails: what stands behind the subject, one
    behind the other, `bounds` where each begins and the last ends; tail_of: of each key which. Written: keys, uint8, which
    must have room, and where each begins and ends.
    """
    at = 0
    for row in range(len(subjects)):
        begins[row] = at
        start = starts[subjects[row]]
        size = stops[subjects[row]] - start
        keys[at] = 0x95
        at += 1
        if size < 32:
            keys[at] = 0xA0 | size
            at += 1
        elif size < 256:
            keys[at], keys[at + 1] = 0xD9, size
            at += 2
        else:
            keys[at], keys[at + 1], keys[at + 2] = 0xDA, size >> 8, size & 0xFF
            at += 3
        for i in range(size):
            keys[at + i] = letters[start + i]
        at += size
        tail = tail_of[row]
        size = bounds[tail + 1] - bounds[tail]
        for i in range(size):
            keys[at + i] = tails[bounds[tail] + i]
        at += size
        ends[row] = at
