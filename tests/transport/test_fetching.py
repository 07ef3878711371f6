"""What is unpacked here is what aiokafka would have made of the same bytes, record by record."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from schemas.records import Record
from transport.fetching import unpacked

TP = TopicPartition("usage", 0)


def batch(base: int, rows: list[tuple[int, bytes | None, bytes | None, list[Any]]]) -> bytes:
    """One batch as a broker stores it: offsets from `base` on."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for number, (time_ms, key, value, headers) in enumerate(rows):
        assert builder.append(number, time_ms, key, value, headers) is not None
    built = bytearray(builder.build())
    built[:8] = base.to_bytes(8, "big")
    return bytes(built)


def fetch(raw: bytes, at: int) -> PartitionRecords[Any, Any]:
    return PartitionRecords(TP, MemoryRecords(raw), [], at, None, None, True, READ_UNCOMMITTED)


def drawn(seed: int) -> tuple[bytes, int]:
    rng = random.Random(seed)
    raw, base = b"", rng.randrange(3)
    first = base
    for _ in range(rng.randint(1, 4)):
        rows: list[tuple[int, bytes | None, bytes | None, list[Any]]] = [
            (
                rng.randrange(1 << 41),
                rng.choice([None, b"", b"key"]),
                rng.choice([None, b"", b"value %d" % number]),
                rng.choice([[], [], [("a", b"1"), ("b", b"")]]),
            )
            for number in range(rng.randint(1, 5))
        ]
        raw += batch(base, rows)
        base += len(rows) + rng.randrange(3)  # compaction leaves holes
    return raw, rng.randint(first, base - 1)


@pytest.mark.parametrize("seed", range(60))
def test_it_gives_what_aiokafka_gives(seed: int) -> None:
    raw, at = drawn(seed)
    theirs, ours = fetch(raw, at), fetch(raw, at)
    expected = [Record(r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs]
    found = [record._replace(headers=tuple(record.headers)) for packed in unpacked(ours) for record in packed]
    assert found == expected
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_a_wrong_checksum_gives_nothing_of_the_fetch() -> None:
    good, bad = batch(0, [(1, b"k", b"v", [])]), bytearray(batch(1, [(1, b"k", b"w", [])]))
    bad[-3] ^= 1
    fetched = fetch(good + bytes(bad), 0)
    with pytest.raises(CorruptRecordException):
        list(unpacked(fetched))
    assert fetched.next_fetch_offset == 0
