"""The Kafka side of the Event Hubs bridge, with aiokafka: acks=all, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from .eventhubs import Event, Extent

_PEEK_S = 5.0  # how long to look for a partition's last record, which gives its time


class KafkaForwarder:
    """One producer for all hubs, and a consumer that is only there to describe partitions."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._producer: Any = None
        self._consumer: Any = None
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Raises KafkaError where the broker cannot be reached."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            linger_ms=2,
            max_batch_size=256 * 1024,
            max_request_size=1_000_000,
            metadata_max_age_ms=180_000,
            connections_max_idle_ms=180_000,
        )
        try:
            await self._producer.start()
        except KafkaError:
            await self._producer.stop()
            self._producer = None
            raise

    async def close(self) -> None:
        for client in (self._producer, self._consumer):
            if client is not None:
                await client.stop()
        self._producer = self._consumer = None

    async def partition_count(self, topic: str) -> int:
        """Raises RuntimeError when the topic does not exist."""
        try:
            partitions = await self._producer.partitions_for(topic)
        except KafkaError as failure:
            raise RuntimeError(f"Kafka topic {topic!r} of an event hub cannot be used: {failure}") from failure
        if not partitions:
            raise RuntimeError(f"Kafka topic {topic!r} of an event hub does not exist: create it first")
        return len(partitions)

    async def send(self, topic: str, partition: int, event: Event) -> Awaitable[object]:
        pending: Awaitable[object] = await self._producer.send(
            topic, event.value, partition=partition, headers=list(event.headers)
        )
        return pending

    async def extent(self, topic: str, partition: int) -> Extent:
        """Raises KafkaError where the broker does not answer."""
        where = TopicPartition(topic, partition)
        async with self._looking:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False)
                await consumer.start()
                self._consumer = consumer
            begin = (await self._consumer.beginning_offsets([where]))[where]
            end = (await self._consumer.end_offsets([where]))[where]
            last_ms = 0
            if end > begin:
                self._consumer.assign([where])
                self._consumer.seek(where, end - 1)
                try:
                    # A fetch knows the end too, and better than Tansu, whose ListOffsets takes a batch for one record.
                    at = end - 1
                    while at < end:
                        record = await asyncio.wait_for(self._consumer.getone(where), _PEEK_S)
                        at, last_ms = record.offset + 1, record.timestamp
                        end = max(end, self._consumer.highwater(where) or 0)
                except TimeoutError:
                    pass  # a transaction's marker may be last; the offsets are right all the same
                self._consumer.unsubscribe()
        return Extent(begin, end, last_ms)
