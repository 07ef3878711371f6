"""What a fetch brought, in columns: no object per record between the broker's bytes and the stage.

aiokafka's `getmany` makes a `ConsumerRecord` of every record, 2.7 µs each; its parsed batches iterate in 0.5. So the bytes of
a fetch response are kept on their way to aiokafka (`Keeping`), and where aiokafka would unpack them, a kernel says where each
record stands in them (`transport/kernels.py`). What the kernel does not understand (compressed batches, formats before
Kafka 0.11, corrupt ones) is unpacked by aiokafka's own parser, with the same rules (`aiokafka/consumer/fetcher.py`, 0.14.0:
`PartitionRecords._unpack_records`). Everything else of a fetch, positions, errors and rebalances, stays aiokafka's. It reads
what it fetches uncommitted or not, as Faust's consumer does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
from aiokafka import TopicPartition, conn
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.util import decode_varint

from schemas.records import Headers, PackedRecords
from schemas.texts import Places, Texts
from transport import kernels
from transport.throttling import Throttling

conn.READER_LIMIT = 4 << 20
"""aiokafka's own, 64 KiB, has asyncio take the socket off its selector and put it back hundreds of times a fetch."""

READ_S = 0.02
"""How long a fetch that leaves out a partition whose last one is not read yet waits here for that to be read: mostly it is
read at once, and then one fetch of all takes its place."""

HELD_WAIT_MS = 20
"""How long the broker may sit on it after that. It answers one request of a connection after the other: once the partition
is read, its next fetch waits behind."""

UNPACKED_BYTES = 8 << 20
"""After so many bytes of values no more batches of a fetch are unpacked; uncompressed, a fetch is a quarter of that."""

_NOTHING = SimpleNamespace(topics=[], API_VERSION=0)


class Keeping:
    """A fetcher's client, which keeps the bytes of the last fetch of each partition until they are taken.

    So that partitions do not wait for each other, a fetch of only some of a broker's partitions waits there but shortly.
    """

    def __init__(self, fetcher: Any, throttling: Throttling) -> None:
        self._client = fetcher._client
        self._throttling = throttling
        self._fetcher = fetcher
        self._kept: dict[TopicPartition, tuple[int, bytes]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any) -> Any:
        """As the client's."""
        if not isinstance(request, FetchRequest):
            return await self._client.send(node_id, request)
        asked = {TopicPartition(t, p): offset for t, partitions in request.topics for p, offset, _ in partitions}
        if self._some_held(node_id, asked):
            read = self._fetcher._wait_consume_future
            await asyncio.wait([read], timeout=READ_S)
            if read.done():
                return _NOTHING
            request._max_wait_ms = min(request._max_wait_ms, HELD_WAIT_MS)
        response = await self._client.send(node_id, request)
        self._throttling.answered("fetch", response)
        for topic, partitions in response.topics:
            for partition, _, _, *more in partitions:
                tp = TopicPartition(topic, partition)
                if more[-1]:
                    self._kept[tp] = asked.get(tp, -1), more[-1]
                else:
                    self._kept.pop(tp, None)
        return response

    def _some_held(self, node_id: int, asked: Collection[TopicPartition]) -> bool:
        assigned = self._fetcher._subscriptions.assigned_partitions()
        return any(tp not in asked and self._fetcher._select_read_replica(tp) == node_id for tp in assigned)

    def take(self, tp: TopicPartition, position: int) -> bytes | None:
        """What the last fetch of a partition brought, if it asked for this position; once."""
        offset, raw = self._kept.pop(tp, (None, None))
        return raw if offset == position else None


async def fetch_packed(
    consumer: Any, partitions: set[Any], timeout_s: float, throttling: Throttling
) -> dict[TopicPartition, PackedRecords]:
    """Per partition what fetches brought and nobody took yet; waits for some at most `timeout_s`.

    consumer: an AIOKafkaConsumer. throttling: told what the broker says of it. Raises what aiokafka raises: fetch errors,
    ConsumerStoppedError.
    """
    fetcher = consumer._fetcher
    if not isinstance(fetcher._client, Keeping):
        fetcher._client = Keeping(fetcher, throttling)
        fetcher._prefetch_backoff = 0.0  # a partition that is not read yet does not keep the others from being fetched
    if consumer._closed or fetcher._closed:
        raise ConsumerStoppedError()
    deadline_s = time.monotonic() + timeout_s
    with fetcher._subscriptions.fetch_context():
        while True:
            for result in fetcher._records.values():
                if type(result) is FetchResult and result._partition_records is not None:
                    _pack(result._partition_records, fetcher._client)
            drained = await fetcher.fetched_records(partitions, timeout=0)
            left_s = deadline_s - time.monotonic()
            if drained or left_s <= 0 or fetcher._closed:
                return {tp: packed for tp, (packed,) in drained.items()}
            waiter = fetcher._create_fetch_waiter()
            done, _ = await asyncio.wait([waiter], timeout=left_s)
            if not done:
                waiter.cancel()
            else:
                waiter.result()  # what the coordinator has to say: a missing authorization


def _pack(fetched: PartitionRecords, keeping: Keeping) -> None:
    """From now on its only item is all of its records."""
    assert fetched._isolation_level == READ_UNCOMMITTED, "aborted transactions are not looked for here"
    iterator = fetched._records_iterator
    if iterator is not None and getattr(iterator, "__name__", "") != "unpacked":
        fetched._records_iterator = unpacked(fetched, keeping.take(fetched._tp, fetched.next_fetch_offset))


def unpacked(fetched: PartitionRecords, raw: bytes | None) -> Iterator[PackedRecords]:
    """All records of a fetch as one item; none where there are only control records.

    raw: the same fetch as bytes, if they are known. Raises CorruptRecordException where a checksum is wrong; nothing of the
    fetch is given then, and it is fetched again.
    """
    read = None if raw is None else split(raw, fetched.next_fetch_offset, check=fetched._check_crcs)
    packed, fetched.next_fetch_offset = read or _parsed(fetched)
    if len(packed):
        yield packed


def split(raw: bytes, position: int, *, check: bool) -> tuple[PackedRecords, int] | None:
    """The records of a fetch that asked for `position`, and where the next one begins; None where aiokafka has to read it.

    check: whether checksums are.
    """
    letters = np.frombuffer(raw, np.uint8)
    batches = np.empty((len(raw) // kernels.HEADER_BYTES + 1, 8), np.int64)
    count = kernels.find_batches(letters, batches)
    if count <= 0 or (check and not _sound(raw, batches[:count])):
        return None
    batches = batches[:count]
    most = int(batches[:, kernels.COUNT].sum())
    found, keyless, nulls = np.empty((8, most), np.int64), np.empty(most, np.bool_), np.empty(most, np.bool_)
    rows = kernels.split_records(letters, batches, position, found, keyless, nulls)
    if rows < 0:
        return None
    columns = found[:, :rows]
    packed = PackedRecords(
        columns[kernels.OFFSET],
        columns[kernels.TIMESTAMP_MS],
        Texts(letters, columns[kernels.KEY], columns[kernels.KEY_END]),
        keyless[:rows],
        Texts(letters, columns[kernels.VALUE], columns[kernels.VALUE_END]),
        nulls[:rows],
        _headers(Texts(letters, columns[kernels.HEADERS], columns[kernels.HEADERS_END])),
    )
    return packed, int(batches[-1, kernels.NEXT_OFFSET])


def _sound(raw: bytes, batches: Places) -> bool:
    """Whether every checksum is right."""
    return all(
        google_crc32c.value(raw[begin + kernels.CHECKED_AT : end])
        == int.from_bytes(raw[begin + kernels.CHECKSUM_AT : begin + kernels.CHECKED_AT])
        for begin, end in batches[:, : kernels.END + 1].tolist()
    )


def _headers(sections: Texts) -> list[Headers] | None:
    """What stands there, record by record; None where nothing does."""
    headed = np.flatnonzero(sections.stops > sections.starts)
    if not len(headed):
        return None
    found: list[Headers] = [()] * len(sections.starts)
    for row, raw in zip(headed.tolist(), sections.only(headed).tolist(), strict=True):
        headers: list[Any] = []
        at = 0
        while at < len(raw):
            length, at = decode_varint(raw, at)
            name, at = raw[at : at + length].decode(errors="replace"), at + length
            length, at = decode_varint(raw, at)
            headers.append((name, raw[at : at + length] if length >= 0 else None))
            at += max(length, 0)
        found[row] = headers
    return found


def _parsed(fetched: PartitionRecords) -> tuple[PackedRecords, int]:
    """As `split`, through aiokafka's parser. Raises CorruptRecordException.

    What is behind UNPACKED_BYTES is left, and fetched again: a fetch of compressed batches may unpack to any size.
    """
    offsets: list[int] = []
    timestamps_ms: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Any] = []
    batches = fetched._records
    following = fetched.next_fetch_offset
    unpacked_bytes = 0
    while batches.has_next() and unpacked_bytes < UNPACKED_BYTES:
        batch = batches.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        if not batch.is_control_batch:
            rows = []
            for row in batch:
                if row.offset >= following:  # a broker may begin before what was asked for
                    rows.append(row)
                    following = row.offset + 1
            offsets += [row.offset for row in rows]
            timestamps_ms += [row.timestamp for row in rows]
            keys += [row.key for row in rows]
            values += [row.value for row in rows]
            unpacked_bytes += sum(len(row.value or b"") for row in rows)
            headers += [row.headers for row in rows]
        following = batch.next_offset
    packed = PackedRecords.of_lists(offsets, timestamps_ms, keys, values, headers if any(headers) else None)
    return packed, following
