"""Kernels of hashing: where keys are put (`schemas/hashing.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""

_MURMUR, _SEED = 0x5BD1E995, 0x9747B28C


@kernel
def partitions(letters: Array, starts: Array, stops: Array, many: int, found: Array) -> None:
    """Where Kafka's default partitioner puts each key (murmur2, as `schemas.hashing` has it). Written: found, int64."""
    mask = np.uint64(0xFFFFFFFF)
    for row in range(len(starts)):
        text = letters[starts[row] : stops[row]]
        length = len(text)
        mixed = np.uint64(_SEED) ^ np.uint64(length)
        whole = length - length % 4
        for at in range(0, whole, 4):
            word = (
                np.uint64(text[at])
                | np.uint64(text[at + 1]) << np.uint64(8)
                | np.uint64(text[at + 2]) << np.uint64(16)
                | np.uint64(text[at + 3]) << np.uint64(24)
            )
            word = (word * np.uint64(_MURMUR)) & mask
            word = ((word ^ (word >> np.uint64(24))) * np.uint64(_MURMUR)) & mask
            mixed = ((mixed * np.uint64(_MURMUR)) & mask) ^ word
        if whole < length:
            word = np.uint64(0)
            for at in range(whole, length):
                word |= np.uint64(text[at]) << np.uint64(8 * (at - whole))
            mixed = ((mixed ^ word) * np.uint64(_MURMUR)) & mask
        mixed = ((mixed ^ (mixed >> np.uint64(13))) * np.uint64(_MURMUR)) & mask
        mixed ^= mixed >> np.uint64(15)
        found[row] = np.int64(mixed & np.uint64(0x7FFFFFFF)) % many
