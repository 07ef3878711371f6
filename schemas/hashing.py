"""Kafka's murmur2, so that a subject's partials land where every Kafka client would put them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from schemas.blocks import still
from schemas.hashing_kernels import partitions
from schemas.texts import Places, Texts

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of `data`, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=1 << 16)
def partition_for(key: str, partitions: int) -> int:
    """The partition Kafka's default partitioner gives to a UTF-8 key: `toPositive(murmur2(key)) % partitions`."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def partitions_for(keys: Texts, count: int) -> Places:
    """`partition_for` of each of many keys."""
    found = np.empty(len(keys.starts), np.int64)
    letters, starts, stops = still(keys.letters, np.uint8), still(keys.starts, np.int64), still(keys.stops, np.int64)
    partitions(letters, starts, stops, count, found)
    return found
