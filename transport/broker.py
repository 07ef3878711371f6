"""What a partition's effects are performed on: one producer, a reader of logs, the strict commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from schemas.errors import BrokerError, CommitRefused, MeterlineError, SendFailed
from schemas.records import Out, Record
from settings import Settings
from tables.effects import Commit, Effect, Produce, ReadBounds, ReadCommitted, ReadLog
from transport.client import client_options, connected, diagnose, missing_topic
from transport.eventhubs import ConsumerThread
from transport.membership import Membership
from transport.throttling import Throttling, be_patient, not_acknowledged

log = logging.getLogger("meterline.broker")

STOP_S = 5.0
COMMITTED_S = 60.0
"""How long the group's coordinator may take to say what is committed; then the membership is over (design §2.4)."""
READ_TIMEOUT_MS = 500
FETCH_WAIT_MS = 20
"""How long the broker may sit on a fetch at a log's end. Before a reader goes to another place, that fetch has to come back."""
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
        self.throttling = Throttling()

    async def start(self) -> None:
        """Connects the producer. Raises the explained error where the broker cannot be used."""
        options = client_options(self._settings)
        producer = AIOKafkaProducer(
            **options, acks="all", linger_ms=2, max_batch_size=262_144, max_request_size=1_000_000
        )
        try:
            await producer.start()
            await connected(self._settings, producer.client.cluster)
        except KafkaError as error:
            await producer.stop()
            raise await diagnose(error, self._settings) from error
        except MeterlineError:
            await producer.stop()
            raise
        be_patient(producer, self.throttling)
        self._producer = producer

    async def stop(self) -> None:
        """Lets go. What was not acknowledged by then is nobody's promise."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await asyncio.wait_for(producer.stop(), STOP_S)
            except TimeoutError:
                log.warning("the broker did not take what was left within %.0f s", STOP_S)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises ConfigurationError where it does not exist.

        All topics are asked for, never one by name: on a broker that may, asking for a name creates it.
        """
        assert self._producer is not None, "start first"
        try:
            cluster = await self._producer.client.fetch_all_metadata()
        except KafkaError as error:
            raise await diagnose(error, self._settings) from error
        found = cluster.partitions_for_topic(topic)
        if not found:
            raise missing_topic(topic, self._settings)
        return len(found)

    async def produce(self, records: Sequence[Out]) -> list[int]:
        """Sends all, waits until every one is acknowledged. Raises SendFailed if one is not.

        Where the broker throttles it waits, for as long as `transport/throttling.py` says.
        """
        try:
            sent = [await self._taken(out) for out in records]
        except KafkaError as error:
            raise not_acknowledged(f"a record for {records[0].topic} was not taken", error) from error
        done: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        for out, result in zip(records, done, strict=True):
            if isinstance(result, KafkaError):
                raise not_acknowledged(
                    f"a record for {out.topic}[{out.partition}] was not acknowledged", result
                ) from result
            if isinstance(result, BaseException):
                raise result
        return [result.offset for result in done]

    async def _taken(self, out: Out) -> asyncio.Future[Any]:
        """Its acknowledgement, once the producer has room for it; that has a deadline, but not while it is throttled."""
        while True:
            if self._producer is None:
                raise SendFailed("the producer is closed: this worker is stopping")
            try:
                taken: asyncio.Future[Any] = await self._producer.send(
                    out.topic, out.value, key=out.key, partition=out.partition
                )
                return taken
            except KafkaTimeoutError:
                if not self.throttling.waiting:
                    raise

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int]:
        """Sends one record where Kafka's default partitioner puts its key. Partition and offset, once acknowledged."""
        if self._producer is None:
            raise SendFailed("the producer is closed: this worker is stopping")
        try:
            done = await self._producer.send_and_wait(topic, value, key=key)
        except KafkaError as error:
            raise not_acknowledged(f"a record for {topic} was not acknowledged", error) from error
        return done.partition, done.offset

    def performer(self, topic: str, partition: int, membership: Membership) -> Performer:
        """Performs the effects of one source partition under one membership."""
        return Performer(self, self._settings, self._thread, topic, partition, membership)


class Performer:
    """Performs effects. Holds a reader while a recovery reads; `close` lets it go."""

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
        self._reader: LogReader | None = None

    async def perform(self, effect: Effect) -> Any:
        """Does what the effect says; its result as `tables/effects.py` promises. Raises BrokerError."""
        match effect:
            case Produce(records):
                return await self._broker.produce(records)
            case Commit(offset):
                return await self._consumer().strict_commit(self._topic, self._partition, offset, self._membership)
            case ReadCommitted():
                try:  # aiokafka asks for ever while the coordinator is away
                    asked = self._consumer().committed(self._topic, self._partition)
                    return await asyncio.wait_for(asked, COMMITTED_S)
                except (TimeoutError, KafkaError) as error:
                    raise BrokerError(f"the committed offset could not be read: {type(error).__name__}") from error
            case ReadBounds(topic):
                return await (await self._open_reader()).bounds(topic, self._partition)
            case ReadLog(topic, offset, end):
                return await (await self._open_reader()).read(topic, self._partition, offset, end)

    async def close(self) -> None:
        """Lets the reader go."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    def log_end(self) -> int | None:
        """The source partition's end as the last fetch saw it: the next offset to be written; None before any fetch."""
        return self._consumer().end_seen(self._topic, self._partition)

    def _consumer(self) -> ConsumerThread:
        thread = self._thread()
        if thread is None:
            raise CommitRefused("there is no consumer any more")
        return thread

    async def _open_reader(self) -> LogReader:
        if self._reader is None:
            reader = LogReader(self._settings)
            await reader.open()
            self._reader = reader
        return self._reader


class LogReader:
    """Reads logs by partition and offset, outside any consumer group; one place at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._at: tuple[TopicPartition, int] | None = None

    async def open(self) -> None:
        """Connects."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise await diagnose(error, self._settings) from error
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset held, next offset to be written.

        The end is the high watermark of a fetch at the end that ListOffsets names: Tansu 0.6 names the last *batch's*
        first offset there, not the last record's, and a recovery that ends too early would miss state. So it waits until
        a fetch of this very partition was answered; one of another partition may still be under way on the connection.
        """
        consumer, tp = self._open_consumer(), TopicPartition(topic, partition)
        try:
            begin: int = (await consumer.beginning_offsets([tp]))[tp]
            end: int = (await consumer.end_offsets([tp]))[tp]
            if end == begin:
                return begin, end
            consumer.assign([tp])  # anew, so that no high watermark of before is taken for the answer
            consumer.seek(tp, end - 1)
            self._at = None
            for _ in range(READ_PATIENCE):
                await consumer.getmany(tp, timeout_ms=READ_TIMEOUT_MS)
                seen: int | None = consumer.highwater(tp)
                if seen is not None:
                    return begin, max(end, seen)
        except KafkaError as error:
            raise BrokerError(
                f"the bounds of {topic}[{partition}] could not be read: {type(error).__name__}"
            ) from error
        raise BrokerError(f"{topic}[{partition}] did not answer a fetch at {end - 1}")

    async def read(self, topic: str, partition: int, offset: int, end: int) -> list[tuple[int, bytes]]:
        """Offsets and values from `offset` on, below `end`, as one fetch brings them; empty only where none is left."""
        return [(record.offset, record.value or b"") for record in await self._fetch(topic, partition, offset, end)]

    async def records(self, topic: str, partition: int, offset: int, end: int) -> list[Record]:
        """As `read`, whole records."""
        return [
            Record(found.offset, found.timestamp, found.key, found.value, found.headers)
            for found in await self._fetch(topic, partition, offset, end)
        ]

    async def _fetch(self, topic: str, partition: int, offset: int, end: int) -> list[Any]:
        consumer, tp = self._open_consumer(), TopicPartition(topic, partition)
        if self._at != (tp, offset):
            self._seek(tp, offset)
        try:
            for _ in range(READ_PATIENCE):
                fetched = (await consumer.getmany(tp, timeout_ms=READ_TIMEOUT_MS)).get(tp, [])
                found = [record for record in fetched if record.offset < end]
                if found:
                    self._at = (tp, fetched[-1].offset + 1)
                    return found
                if fetched or await consumer.position(tp) >= end:
                    return []
        except KafkaError as error:
            raise BrokerError(f"{topic}[{partition}] could not be read at {offset}: {type(error).__name__}") from error
        raise BrokerError(f"{topic}[{partition}] gave nothing between {offset} and {end}")

    async def close(self) -> None:
        """Lets go. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        consumer = self._open_consumer()
        if tp not in consumer.assignment():
            consumer.assign([tp])
        consumer.seek(tp, offset)

    def _open_consumer(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "open first"
        return self._consumer
