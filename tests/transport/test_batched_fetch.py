"""What the transport says of a batch is true: where its fetch began, whatever a rebalance did meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, TopicAuthorizationFailedError

from schemas.records import Batch, PackedRecords, Record
from transport import eventhubs
from transport.eventhubs import ConsumerThread
from transport.throttling import Throttling

TP = TopicPartition("usage", 0)
OTHER = TopicPartition("usage", 1)


def record(offset: int) -> Record:
    return Record(offset, 1000 + offset, b"k", b"v")


class Consumer:
    """As much of aiokafka's consumer as the thread asks."""

    def __init__(self, committed: dict[TopicPartition, int | None], begin: int = 0) -> None:
        self.committed_offsets = committed
        self.begin = begin
        self.sought: dict[TopicPartition, int] = {}
        self.looking: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.polled = 0
        self._subscription = self

    @contextmanager
    def fetch_context(self) -> Iterator[None]:
        self.polled += 1
        yield

    def assignment(self) -> set[TopicPartition]:
        return set(self.committed_offsets)

    async def committed(self, tp: TopicPartition) -> int | None:
        return self.committed_offsets[tp]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought[tp] = offset

    async def seek_to_beginning(self, tp: TopicPartition) -> None:
        self.sought[tp] = self.begin

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.looking is not None:
            await self.looking.wait()
        if self.failure is not None:
            raise self.failure
        return dict.fromkeys(tps, self.begin)


@pytest.fixture
def fetched() -> dict[TopicPartition, list[Any]]:
    """What the next fetch brings."""
    return {}


@pytest.fixture
def thread(fetched: dict[TopicPartition, list[Any]], monkeypatch: pytest.MonkeyPatch) -> ConsumerThread:
    async def fetch(
        _consumer: Any, active: set[TopicPartition], _timeout_s: float, _throttling: Throttling
    ) -> dict[TopicPartition, PackedRecords]:
        assert active, "aiokafka takes none for all"
        return {tp: PackedRecords.of(records) for tp, records in fetched.items() if tp in active}

    monkeypatch.setattr(eventhubs, "fetch_packed", fetch)
    thread: ConsumerThread = ConsumerThread.__new__(ConsumerThread)
    thread.epoch, thread.ending, thread.membership, thread._ends = 1, False, None, {}
    thread.takes = lambda _topic, _partition: True
    thread.consumer = SimpleNamespace(flow_active=True)
    thread.throttling = Throttling()
    return thread


async def batches(thread: ConsumerThread, consumer: Consumer) -> dict[TopicPartition, Batch]:
    found = await thread._fetch_records(consumer, {TP, OTHER})
    return {tp: message.value for tp, (message,) in found.items()}


async def test_after_a_rebalance_the_fetch_begins_at_a_committed_offset_of_0_too(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    """aiokafka's own seek does nothing for 0; a fetch dropped over the rebalance would then be a gap nobody sees."""
    consumer = Consumer({TP: 0, OTHER: 7})
    thread._ensure_consumer = lambda: consumer
    assert await thread._seek_to_committed() == {TP: 0, OTHER: 7}
    assert consumer.sought == {TP: 0, OTHER: 7}
    fetched[TP] = [record(0), record(1)]
    assert (await batches(thread, consumer))[TP][:2] == (0, 2)


async def test_where_nothing_is_committed_the_fetch_begins_at_the_beginning(thread: ConsumerThread) -> None:
    consumer = Consumer({TP: None}, begin=5)
    thread._ensure_consumer = lambda: consumer
    assert await thread._seek_to_committed() == {}
    assert consumer.sought == {TP: 5}


async def test_a_hole_that_the_log_still_spans_belongs_to_the_batch(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    consumer = Consumer({TP: 0})
    fetched[TP] = [record(0), record(1)]
    assert (await batches(thread, consumer))[TP][:2] == (0, 2)
    fetched[TP] = [record(3)]  # 2 was a control record
    assert (await batches(thread, consumer))[TP][:2] == (2, 4)


async def test_a_hole_that_retention_cut_is_a_gap(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    consumer = Consumer({TP: 0})
    fetched[TP] = [record(0), record(1)]
    await batches(thread, consumer)
    consumer.begin = 10
    fetched[TP] = [record(10)]
    assert (await batches(thread, consumer))[TP][:2] == (10, 11)


async def test_a_fetch_over_which_the_assignment_ended_is_dropped(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    consumer = Consumer({TP: 0})
    fetched[TP] = [record(0)]
    await batches(thread, consumer)
    consumer.looking = asyncio.Event()
    fetched[TP] = [record(4)]
    fetching = asyncio.create_task(batches(thread, consumer))
    await asyncio.sleep(0)
    thread.left()
    thread._ends[TP] = 1  # the next assignment has sought already
    consumer.looking.set()
    assert await fetching == {}
    assert thread._ends == {TP: 1}


async def test_a_partition_that_is_not_wanted_yet_stays_in_the_buffer_and_holds_up_no_other(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    consumer = Consumer({TP: 0, OTHER: 0})
    fetched[TP], fetched[OTHER] = [record(0)], [record(0)]
    thread.takes = lambda topic, partition: partition == OTHER.partition
    assert set(await batches(thread, consumer)) == {OTHER}
    thread.takes = lambda topic, partition: False
    assert await batches(thread, consumer) == {}
    assert consumer.polled == 1, "or the coordinator takes this member for dead"
    thread.takes = lambda topic, partition: True
    assert (await batches(thread, consumer))[TP][:2] == (0, 1)


async def test_a_partition_that_is_wanted_again_does_not_wait_for_the_others(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    """Its next batch is there already, while nothing comes of the partition that the fetch waits for."""
    consumer = Consumer({TP: 0, OTHER: 0})
    fetched[TP] = [record(0)]
    asked = 0

    def takes(_topic: str, partition: int) -> bool:
        nonlocal asked
        asked += partition == TP.partition
        return partition == OTHER.partition or asked > 3

    thread.takes = takes
    found = await thread._fetch_records(consumer, {TP, OTHER}, timeout=3600.0)
    assert set(found) == {TP}


class App:
    """As much of the app as the thread asks where a fetch failed: it may be called in its own loop only."""

    def __init__(self, thread: ConsumerThread) -> None:
        self.start_over = self
        self.over: list[str] = []
        self.loop = asyncio.get_running_loop()
        thread.app, thread.parent_loop = self, self.loop

    def request(self, why: str) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.over.append(why)


async def in_a_thread(thread: ConsumerThread, consumer: Consumer) -> dict[TopicPartition, Batch]:
    """As `batches`, in a loop of another thread, as Faust has it."""
    return await asyncio.to_thread(lambda: asyncio.run(batches(thread, consumer)))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TopicAuthorizationFailedError("usage"), "a fetch failed: [Error 29] TopicAuthorizationFailedError: usage"),
        (CorruptRecordException("Invalid CRC"), "a fetch failed: [Error 2] CorruptRecordException: Invalid CRC"),
        (ZeroDivisionError("a defect"), "a fetch failed: ZeroDivisionError: a defect"),
    ],
    ids=["an authorization taken away", "a corrupt record", "a defect"],
)
async def test_a_fetch_that_fails_starts_the_worker_over_once_and_fetches_nothing_more(
    thread: ConsumerThread, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    fetches = 0

    async def fail(*_: Any) -> dict[TopicPartition, PackedRecords]:
        nonlocal fetches
        fetches += 1
        raise error

    monkeypatch.setattr(eventhubs, "fetch_packed", fail)
    app, consumer = App(thread), Consumer({TP: 0})
    assert await in_a_thread(thread, consumer) == {}
    assert await thread._fetch_records(consumer, {TP}, timeout=0.01) == {}
    assert (app.over, fetches) == ([why], 1)


async def test_a_log_whose_beginning_cannot_be_asked_for_starts_the_worker_over_too(
    thread: ConsumerThread, fetched: dict[TopicPartition, list[Any]]
) -> None:
    app, consumer = App(thread), Consumer({TP: 0})
    fetched[TP] = [record(0)]
    await in_a_thread(thread, consumer)
    fetched[TP] = [record(4)]
    consumer.failure = TopicAuthorizationFailedError("usage")
    assert await in_a_thread(thread, consumer) == {}
    await asyncio.sleep(0)
    assert len(app.over) == 1 and "TopicAuthorizationFailedError" in app.over[0]


async def test_a_consumer_that_was_stopped_is_no_failure(
    thread: ConsumerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(*_: Any) -> dict[TopicPartition, PackedRecords]:
        raise ConsumerStoppedError

    monkeypatch.setattr(eventhubs, "fetch_packed", stopped)
    app = App(thread)
    with pytest.raises(ConsumerStoppedError):
        await in_a_thread(thread, Consumer({TP: 0}))
    await asyncio.sleep(0)
    assert app.over == [] and not thread.ending
