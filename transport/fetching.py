"""What a fetch brought, in columns: no object per record between aiokafka's parser and the stage.

aiokafka's `getmany` makes a `ConsumerRecord` of every record, 2.7 µs each; its parsed batches iterate in 0.5. So each fetch
result is unpacked here, with the same rules (`aiokafka/consumer/fetcher.py`, 0.14.0: `PartitionRecords._unpack_records`).
Everything else of it, positions, errors and rebalances, stays aiokafka's. It reads what it fetches uncommitted or not, as
Faust's consumer does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException

from schemas.records import PackedRecords


async def fetch_packed(consumer: Any, partitions: set[Any], timeout_s: float) -> dict[TopicPartition, PackedRecords]:
    """Per partition what fetches brought and nobody took yet; waits for some at most `timeout_s`.

    consumer: an AIOKafkaConsumer. Raises what aiokafka raises: fetch errors, ConsumerStoppedError.
    """
    fetcher = consumer._fetcher
    if consumer._closed or fetcher._closed:
        raise ConsumerStoppedError()
    deadline_s = time.monotonic() + timeout_s
    with fetcher._subscriptions.fetch_context():
        while True:
            for result in fetcher._records.values():
                if type(result) is FetchResult and result._partition_records is not None:
                    _pack(result._partition_records)
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


def _pack(fetched: PartitionRecords) -> None:
    """From now on its only item is all of its records."""
    assert fetched._isolation_level == READ_UNCOMMITTED, "aborted transactions are not looked for here"
    iterator = fetched._records_iterator
    if iterator is not None and getattr(iterator, "__name__", "") != "unpacked":
        fetched._records_iterator = unpacked(fetched)


def unpacked(fetched: PartitionRecords) -> Iterator[PackedRecords]:
    """All records of a fetch as one item; none where there are only control records.

    Raises CorruptRecordException where a checksum is wrong; nothing of the fetch is given then, and it is fetched again.
    """
    offsets: list[int] = []
    timestamps_ms: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Any] = []
    some_headers = False
    batches = fetched._records
    following = fetched.next_fetch_offset
    while batches.has_next():
        batch = batches.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        if not batch.is_control_batch:
            rows = list(batch)
            if rows and rows[0].offset < following:  # a broker may begin before what was asked for
                rows = [row for row in rows if row.offset >= following]
            # Column by column: no tuple per record, which Python's collector would have to look at.
            offsets += [row.offset for row in rows]
            timestamps_ms += [row.timestamp for row in rows]
            keys += [row.key for row in rows]
            values += [row.value for row in rows]
            more = [row.headers for row in rows]
            headers += more
            some_headers = some_headers or any(more)
        following = batch.next_offset
    fetched.next_fetch_offset = following
    if offsets:
        yield PackedRecords(offsets, timestamps_ms, keys, values, headers if some_headers else None)
