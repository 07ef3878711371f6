"""Where a subject belongs: Kafka's murmur2, as every Java client partitions by key. The same over AMQP."""

from __future__ import annotations

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


def partition_for(subject: bytes, partitions: int) -> int:
    """The partition of a subject, given as UTF-8: `toPositive(murmur2(key)) % partitions`, Kafka's default partitioner."""
    return (murmur2(subject) & 0x7FFFFFFF) % partitions
