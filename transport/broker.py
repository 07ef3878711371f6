"""What a partition's effects are performed on: one producer, a reader of logs, the strict commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import BrokerError, CommitRefused, SendFailed
from schemas.records import Out
from settings import Settings
from tables.effects import Commit, Effect, Produce, ReadBounds, ReadCommitted, ReadLog
from transport.client import client_options, diagnose, missing_topic
from transport.eventhubs import ConsumerThread
from transport.membership import Membership

READ_TIMEOUT_MS = 500
READ_PATIENCE = 120
"""How often a read of recovery may come back empty before the broker is called silent: 60 s."""


class Broker:
    """One worker's connection for producing and reading, outside Faust's buffers.

    thread: gives the consumer thread whose membership commits; None before Faust has started it.
    """

    def __init__(self, settings: Settings, thread: Callable[[], ConsumerThread | None]) -> None:
        self._settings = settings
        self._thread = thread
        self._producer: AIOKafkaProducer | None = None
        self._lookup: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connects the producer. Raises the explained error where the broker cannot be used."""
        options = client_options(self._settings)
        producer = AIOKafkaProducer(
            **options, acks="all", linger_ms=2, max_batch_size=262_144, max_request_size=1_000_000
        )
        lookup = AIOKafkaConsumer(**options, enable_auto_commit=False)
        try:
            await producer.start()
            await lookup.start()
        except KafkaError as error:
            await producer.stop()
            await lookup.stop()
            raise await diagnose(error, self._settings) from error
        self._producer, self._lookup = producer, lookup

    async def stop(self) -> None:
        """Lets go. What was not acknowledged by then is nobody's promise."""
        producer, self._producer = self._producer, None
        lookup, self._lookup = self._lookup, None
        if producer is not None:
            await producer.stop()
        if lookup is not None:
            await lookup.stop()

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises ConfigurationError where it does not exist."""
        assert self._producer is not None
        try:
            found = await self._producer.partitions_for(topic)
        except KafkaError as error:
            raise await diagnose(error, self._settings) from error
        if not found:
            raise missing_topic(topic, self._settings)
        return len(found)

    async def produce(self, records: Sequence[Out]) -> list[int]:
        """Sends all, waits until every one is acknowledged. Raises SendFailed if one is not."""
        if self._producer is None:
            raise SendFailed("the producer is closed: this worker is stopping")
        try:
            sent = [
                await self._producer.send(out.topic, out.value, key=out.key, partition=out.partition) for out in records
            ]
            done: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        except KafkaError as error:
            raise SendFailed(f"a record for {records[0].topic} was not taken: {type(error).__name__}") from error
        for out, result in zip(records, done, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, KafkaError):
                    raise result
                what = f"a record for {out.topic}[{out.partition}] was not acknowledged: {type(result).__name__}"
                raise SendFailed(what) from result
        return [result.offset for result in done]

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset held and next offset to be written, asked just now."""
        assert self._lookup is not None, "start first"
        tp = TopicPartition(topic, partition)
        try:
            begin = (await self._lookup.beginning_offsets([tp]))[tp]
            return begin, (await self._lookup.end_offsets([tp]))[tp]
        except KafkaError as error:
            raise BrokerError(
                f"the bounds of {topic}[{partition}] could not be read: {type(error).__name__}"
            ) from error

    def performer(self, topic: str, partition: int, membership: Membership) -> Performer:
        """Performs the effects of one source partition under one membership."""
        return Performer(self, self._settings, self._thread, topic, partition, membership)


class Performer:
    """Performs effects. Holds one reader per log while a recovery reads; `close` lets them go."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        thread: Callable[[], ConsumerThread | None],
        topic: str,
        partition: int,
        membership: Membership,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._thread = thread
        self._topic = topic
        self._partition = partition
        self._membership = membership
        self._readers: dict[str, LogReader] = {}

    async def perform(self, effect: Effect) -> Any:
        """Does what the effect says; its result as `tables/effects.py` promises. Raises BrokerError."""
        match effect:
            case Produce(records):
                return await self._broker.produce(records)
            case Commit(offset):
                return await self._consumer().strict_commit(self._topic, self._partition, offset, self._membership)
            case ReadCommitted():
                try:
                    return await self._consumer().committed(self._topic, self._partition)
                except KafkaError as error:
                    raise BrokerError(f"the committed offset could not be read: {type(error).__name__}") from error
            case ReadBounds(topic):
                return await self._broker.bounds(topic, self._partition)
            case ReadLog(topic, offset, end):
                return await (await self._reader(topic)).read(offset, end)

    async def close(self) -> None:
        """Lets the readers go."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            await reader.close()

    def _consumer(self) -> ConsumerThread:
        thread = self._thread()
        if thread is None:
            raise CommitRefused("there is no consumer any more")
        return thread

    async def _reader(self, topic: str) -> LogReader:
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = LogReader(self._settings, topic, self._partition)
            await reader.open()
        return reader


class LogReader:
    """Reads one partition of a log by offset, outside any consumer group."""

    def __init__(self, settings: Settings, topic: str, partition: int) -> None:
        self._settings = settings
        self._tp = TopicPartition(topic, partition)
        self._consumer: AIOKafkaConsumer | None = None
        self._next = -1

    async def open(self) -> None:
        """Connects."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=READ_TIMEOUT_MS,
        )
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise await diagnose(error, self._settings) from error
        consumer.assign([self._tp])
        self._consumer = consumer

    async def read(self, offset: int, end: int) -> list[tuple[int, bytes]]:
        """Records from `offset` on, below `end`, as one fetch brings them; empty only where none is left below `end`."""
        consumer = self._open_consumer()
        if offset != self._next:
            consumer.seek(self._tp, offset)
        try:
            for _ in range(READ_PATIENCE):
                fetched = (await consumer.getmany(self._tp, timeout_ms=READ_TIMEOUT_MS)).get(self._tp, [])
                found = [(record.offset, record.value or b"") for record in fetched if record.offset < end]
                if found:
                    self._next = fetched[-1].offset + 1
                    return found
                if fetched or await consumer.position(self._tp) >= end:
                    return []
        except KafkaError as error:
            raise BrokerError(f"{self._tp.topic} could not be read at {offset}: {type(error).__name__}") from error
        raise BrokerError(f"{self._tp.topic}[{self._tp.partition}] gave nothing between {offset} and {end}")

    async def close(self) -> None:
        """Lets go. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def __aenter__(self) -> LogReader:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open_consumer(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "open first"
        return self._consumer
