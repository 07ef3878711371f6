"""What is unpacked here is what aiokafka would have made of the same bytes, record by record."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import PackedRecords, Record
from transport.fetching import HELD_WAIT_MS, UNPACKED_BYTES, Keeping, split, unpacked
from transport.throttling import Throttling

TP, OTHER, ELSEWHERE = (TopicPartition("usage", partition) for partition in range(3))
Row = tuple[int, bytes | None, bytes | None, list[Any]]
ATTRIBUTES, MAX_TIMESTAMP, LAST_DELTA, COUNT = 21, 35, 23, 57
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(base: int, rows: Sequence[Row], *, codec: int = 0) -> bytes:
    """One batch as a broker stores it: offsets from `base` on."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for number, (time_ms, key, value, headers) in enumerate(rows):
        assert builder.append(number, time_ms, key, value, headers) is not None
    built = bytearray(builder.build())
    built[:8] = base.to_bytes(8, "big")
    return bytes(built)


def rewritten(raw: bytes, at: int, new: bytes) -> bytes:
    """A batch with other bytes at a place, and the checksum that belongs to them."""
    built = bytearray(raw)
    built[at : at + len(new)] = new
    built[17:21] = calc_crc32c(bytes(built[21:])).to_bytes(4, "big")
    return bytes(built)


def appended(raw: bytes, at_ms: int) -> bytes:
    """A batch that the broker stamped: LogAppendTime."""
    return rewritten(rewritten(raw, ATTRIBUTES, b"\0\x08"), MAX_TIMESTAMP, at_ms.to_bytes(8, "big"))


def control(base: int) -> bytes:
    return rewritten(batch(base, [(1, b"\0\0\0\1", b"", [])]), ATTRIBUTES, b"\0\x20")


def emptied(base: int, holes: int) -> bytes:
    """A batch all of whose records compaction removed."""
    raw = rewritten(batch(base, [(1, None, None, [])])[:61], COUNT, bytes(4))
    return rewritten(rewritten(raw, LAST_DELTA, (holes - 1).to_bytes(4, "big")), 8, (49).to_bytes(4, "big"))


def fetch(raw: bytes, at: int) -> PartitionRecords[Any, Any]:
    return PartitionRecords(TP, MemoryRecords(raw), [], at, None, None, True, READ_UNCOMMITTED)


def rows_of(packed: PackedRecords) -> list[Record]:
    return [record._replace(headers=tuple(record.headers)) for record in packed]


def same(raw: bytes, at: int, *, by_kernel: bool | None = None) -> list[Record]:
    """What both ways give, which must be what aiokafka gives. by_kernel: whether the kernel must have understood it."""
    theirs = fetch(raw, at)
    expected = [Record(r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs]
    for bytes_known in (True, False):
        ours = fetch(raw, at)
        found = [row for packed in unpacked(ours, raw if bytes_known else None) for row in rows_of(packed)]
        assert found == expected
        assert ours.next_fetch_offset == theirs.next_fetch_offset
    read = split(raw, at, check=True)
    if by_kernel is not None:
        assert (read is not None) is by_kernel
    if read is not None:
        assert rows_of(read[0]) == expected
        assert read[1] == theirs.next_fetch_offset
    return expected


texts = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=5), texts), max_size=3)
rows = st.lists(st.tuples(st.integers(0, 1 << 41), texts, texts, headers), min_size=1, max_size=6)


@settings(deadline=None)  # the first one compiles
@given(st.data())
def test_it_gives_what_aiokafka_gives(data: st.DataObject) -> None:
    raw, base = b"", data.draw(st.integers(0, 1 << 40))
    first = base
    for kind in data.draw(
        st.lists(st.sampled_from(["plain", "appended", "control", "emptied"]), min_size=1, max_size=5)
    ):
        count = 1
        if kind == "control":
            raw += control(base)
        elif kind == "emptied":
            count = data.draw(st.integers(1, 3))
            raw += emptied(base, count)
        else:
            drawn = data.draw(rows)
            count = len(drawn)
            made = batch(base, drawn)
            raw += appended(made, data.draw(st.integers(0, 1 << 41))) if kind == "appended" else made
        base += count + data.draw(st.integers(0, 2))  # compaction leaves holes
    at = data.draw(st.integers(first, base))
    raw += batch(base, [(1, b"k", b"cut off", [])])[: data.draw(st.integers(0, 70))]
    same(raw, at, by_kernel=True)


def test_a_batch_that_the_broker_stamped_has_its_append_time() -> None:
    raw = appended(batch(5, [(1, b"k", b"v", []), (2, None, None, [])]), 777)
    assert [record.timestamp_ms for record in same(raw, 5, by_kernel=True)] == [777, 777]


def test_what_lies_before_the_offset_that_was_asked_for_is_left_out() -> None:
    raw = batch(5, [(1, b"k", b"a", []), (1, b"k", b"b", []), (1, b"k", b"c", [])])
    assert [record.offset for record in same(raw, 6, by_kernel=True)] == [6, 7]


def test_where_only_control_records_come_there_is_no_batch_and_the_next_fetch_goes_on_behind_them() -> None:
    assert same(control(9), 9, by_kernel=True) == []


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("value", [b"v" * 100, b"v" * 20_000])
def test_compressed_batches_are_read_by_aiokafka(value: bytes, codec: int) -> None:
    """Whatever a producer compresses with: one batch that no worker could read would stop them all."""
    raw = batch(0, [(1, b"k", b"plain", [])]) + batch(1, [(1, b"k", value, [])] * 3, codec=codec)
    assert [record.value for record in same(raw, 0, by_kernel=False)] == [b"plain", value, value, value]


def test_of_a_fetch_that_unpacks_to_very_much_the_rest_is_fetched_again() -> None:
    """A few kilobytes of each batch unpack to megabytes: they come a few batches at a time, and all of them come."""
    value = bytes(1_000_000)
    batches = [batch(offset, [(1, b"k", value, [])], codec=CODECS["zstd"]) for offset in range(30)]
    assert sum(map(len, batches)) < 60_000
    at, counts = 0, []
    while at < 30:
        fetched = fetch(b"".join(batches[at:]), at)
        (packed,) = unpacked(fetched, None)
        assert [record.offset for record in packed] == [*range(at, fetched.next_fetch_offset)]
        counts.append(len(packed))
        at = fetched.next_fetch_offset
    assert max(counts) == UNPACKED_BYTES // len(value) + 1


def test_the_format_before_kafka_0_11_is_read_by_aiokafka() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1 << 16)
    assert builder.append(0, 11, b"k", b"v") is not None
    assert [record.value for record in same(bytes(builder.build()), 0, by_kernel=False)] == [b"v"]


def test_a_wrong_checksum_gives_nothing_of_the_fetch() -> None:
    good, bad = batch(0, [(1, b"k", b"v", [])]), bytearray(batch(1, [(1, b"k", b"w", [])]))
    bad[-3] ^= 1
    raw = good + bytes(bad)
    for known in (raw, None):
        fetched = fetch(raw, 0)
        with pytest.raises(CorruptRecordException):
            list(unpacked(fetched, known))
        assert fetched.next_fetch_offset == 0


def test_a_header_whose_name_is_no_utf_8_holds_nothing_up() -> None:
    raw = batch(0, [(1, b"k", b"v", [("name", b"held")])])
    read = split(rewritten(raw, raw.index(b"name"), b"\xff"), 0, check=True)
    assert read is not None and rows_of(read[0]) == [Record(0, 1, b"k", b"v", (("\ufffdame", b"held"),))]


@pytest.mark.parametrize("seed", range(400))
def test_bytes_that_make_no_sense_are_never_read_over(seed: int) -> None:
    """With a checksum that is right, whatever a producer put there: the kernel stays inside, or leaves it to aiokafka."""
    rng = random.Random(seed)
    raw = batch(0, [(5, b"key", b"value", [("name", b"held")]), (6, None, b"more", [])])
    for _ in range(rng.randint(1, 3)):
        raw = rewritten(raw, rng.randrange(23, len(raw)), rng.randbytes(rng.choice([1, 1, 4]))[: len(raw)])
    raw = raw[: len(batch(0, [(5, b"key", b"value", [("name", b"held")]), (6, None, b"more", [])]))]
    raw = rewritten(raw, 21, raw[21:23])
    read = split(raw, 0, check=True)
    try:
        expected = [Record(r.offset, r.timestamp, r.key, r.value, r.headers) for r in fetch(raw, 0)]
    except UnicodeDecodeError:
        return  # in the name of a header, which the kernel lets pass
    except Exception:
        assert read is None
    else:
        if read is not None:
            assert rows_of(read[0]) == expected


def test_columns_and_lists_say_the_same() -> None:
    raw = batch(3, [(1, b"k", b"one", []), (2, None, None, []), (3, b"", b"", [("a", b"1")])])
    (packed,) = unpacked(fetch(raw, 3), raw)
    assert packed.offsets == [3, 4, 5] == packed.offset_column.tolist()
    assert packed.timestamps_ms == [1, 2, 3] == packed.timestamp_column.tolist()
    assert packed.values == [b"one", None, b""] and packed.texts.tolist() == [b"one", b"", b""]
    assert packed.keys == [b"k", None, b""] and packed.key_texts.tolist() == [b"k", b"", b""]
    assert packed.nulls.tolist() == [False, True, False] == packed.keyless.tolist()
    assert packed.headers is not None and [list(one) for one in packed.headers] == [[], [], [("a", b"1")]]
    assert packed.end == 6
    assert not packed.texts.letters.flags.writeable, "kernels are compiled for arrays of one kind"
    assert not np.shares_memory(packed.offset_column, packed.texts.letters)
    part = packed.since(4)
    assert part.values == [None, b""] and part.offsets == [4, 5]


class Fetcher:
    """As much of aiokafka's as is asked: two partitions of broker 1, one of broker 2; answers as told."""

    leaders = {TP: 1, OTHER: 1, ELSEWHERE: 2}  # noqa: RUF012

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.waits_ms: list[int] = []
        self._client = self._subscriptions = self
        self._wait_consume_future = asyncio.get_running_loop().create_future()

    def assigned_partitions(self) -> set[TopicPartition]:
        return set(self.leaders)

    def _select_read_replica(self, tp: TopicPartition) -> int:
        return self.leaders[tp]

    async def send(self, node_id: int, request: Any) -> Any:
        self.waits_ms.append(request._max_wait_ms)
        return self.answers.pop(0)


def asking(*partitions: int) -> FetchRequest:
    return FetchRequest(1500, 1, 1 << 20, READ_UNCOMMITTED, [("usage", [(p, 7, 1000) for p in partitions])], rack_id="")


def bringing(held: bytes) -> Any:
    return SimpleNamespace(topics=[("usage", [(0, 0, 99, 99, [], held)])])


async def test_the_bytes_of_the_last_fetch_of_a_partition_are_kept_until_they_are_taken() -> None:
    fetcher = Fetcher()
    keeping = Keeping(fetcher, Throttling())
    fetcher.answers = [bringing(b"a"), bringing(b"b"), bringing(b"")]
    await keeping.send(1, asking(0))
    assert keeping.take(TP, 7) == b"a"
    assert keeping.take(TP, 7) is None, "taken once"
    await keeping.send(1, asking(0))
    assert keeping.take(TP, 8) is None, "not what was asked for there"
    await keeping.send(1, asking(0))
    assert keeping.take(TP, 7) is None


async def test_a_fetch_that_leaves_a_partition_out_does_not_keep_its_broker_from_answering_the_next() -> None:
    """A broker answers one request of a connection after the other, and Faust lets it wait for 1.5 s."""
    fetcher = Fetcher()
    keeping = Keeping(fetcher, Throttling())
    fetcher.answers = [bringing(b"")] * 3
    await keeping.send(1, asking(0, 1))
    await keeping.send(1, asking(1))
    await keeping.send(2, asking(2))
    assert fetcher.waits_ms == [1500, HELD_WAIT_MS, 1500]


async def test_a_fetch_that_leaves_a_partition_out_gives_way_to_one_of_all_once_that_is_read() -> None:
    """Or its broker would sit on it for want of anything new, and the partition with the backlog would wait."""
    fetcher = Fetcher()
    sent = asyncio.create_task(Keeping(fetcher, Throttling()).send(1, asking(1)))
    await asyncio.sleep(0)
    fetcher._wait_consume_future.set_result(None)
    assert (await sent).topics == []
    assert fetcher.waits_ms == [], "nothing was asked"


async def test_a_fetch_that_was_throttled_is_counted() -> None:
    fetcher, throttling = Fetcher(), Throttling()
    fetcher.answers = [SimpleNamespace(topics=[], throttle_time_ms=250)]
    await Keeping(fetcher, throttling).send(1, asking(0, 1))
    assert throttling.describe()["delayed"] == {"fetch": 1}
