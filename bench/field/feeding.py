"""The field's own hand on the broker: topics, made batches into them, how far a group has come, what a topic holds.

Batches go out as they were made, as whole Produce requests: the generator costs next to nothing while others are measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest

from bench.field.inputs import Batch
from bench.field.job import PARTITIONS
from schemas.errors import BrokerError

_REQUEST_BYTES = 1 << 20
_IN_FLIGHT = 4
_TIMEOUT_MS = 60_000
_NAME = "bench-field"


class Feed:
    """`async with Feed(bootstrap) as feed`. Every failed request raises BrokerError: nothing is sent again."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def __aenter__(self) -> Self:
        self._client = AIOKafkaClient(
            bootstrap_servers=self._bootstrap, client_id=_NAME, request_timeout_ms=_TIMEOUT_MS
        )
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, client_id=_NAME)
        await self._client.bootstrap()
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._admin.close()

    async def create(self, *topics: str) -> None:
        """New topics of PARTITIONS partitions; returns once each has its leaders."""
        response = await self._admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
        for name, code, *_ in response.topic_errors:
            if code:
                raise BrokerError(f"topic {name!r} could not be created: {errors.for_code(code).__name__}")
        for topic in topics:
            await self._led(topic)

    async def delete(self, *topics: str) -> None:
        """Their logs are no longer of use; a topic that is not there is no error."""
        if topics:
            await self._admin.delete_topics(list(topics))

    async def topics_of(self, name: str) -> list[str]:
        """Topics whose names hold this one."""
        return [topic for topic in await self._admin.list_topics() if name in topic]

    async def append(self, topic: str, batches: Sequence[Batch]) -> None:
        """All batches, in order per partition, as fast as the broker takes them; returns when it has them."""
        await self._led(topic)
        flying: set[asyncio.Task[None]] = set()
        waiting: dict[int, bytes] = {}
        if batches:
            await self._first(topic, batches[0])
        for batch in batches[1:]:
            if batch.partition in waiting or sum(map(len, waiting.values())) + len(batch.data) > _REQUEST_BYTES:
                flying = await self._launch(topic, waiting, flying)
                waiting = {}
            waiting[batch.partition] = batch.data
        if waiting:
            flying = await self._launch(topic, waiting, flying)
        await asyncio.gather(*flying)

    async def send(self, topic: str, batch: Batch) -> None:
        """One batch; returns when the broker has it. The topic's leaders are known from `append` or `create`."""
        await self._produce(topic, {batch.partition: batch.data})

    async def ends(self, topic: str) -> int:
        """How many records the topic has ever been given, all partitions together."""
        async with _consumer(self._bootstrap) as consumer:
            places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
            return sum((await consumer.end_offsets(places)).values())

    async def committed(self, group: str, topic: str) -> int:
        """How many records of the topic the group has committed, all partitions together."""
        try:
            offsets = await self._admin.list_consumer_group_offsets(group)
        except (errors.KafkaError, AssertionError, KeyError):  # the group's coordinator is not known yet
            return 0
        return sum(max(0, at.offset) for place, at in offsets.items() if place.topic == topic)

    async def _led(self, topic: str) -> None:
        for _ in range(600):
            cluster = self._client.cluster
            places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
            leaders = {cluster.leader_for_partition(place) for place in places}
            if None not in leaders and -1 not in leaders:
                return
            await self._client.set_topics([topic])
            await self._client.force_metadata_update()
            await asyncio.sleep(0.05)
        raise BrokerError(f"topic {topic!r} has no leaders after 30 s")

    async def _first(self, topic: str, batch: Batch) -> None:
        """Alone, since a leader that metadata tells of may not know of it yet: then this is asked for again, and nothing
        overtakes it."""
        for _ in range(100):
            try:
                return await self._produce(topic, {batch.partition: batch.data})
            except BrokerError as error:
                if errors.NotLeaderForPartitionError.__name__ not in str(error):
                    raise
            await asyncio.sleep(0.1)
        raise BrokerError(f"{topic}[{batch.partition}] has had no leader for 10 s")

    async def _launch(
        self, topic: str, waiting: dict[int, bytes], flying: set[asyncio.Task[None]]
    ) -> set[asyncio.Task[None]]:
        while len(flying) >= _IN_FLIGHT:
            done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return flying | {asyncio.create_task(self._produce(topic, waiting))}

    async def _produce(self, topic: str, waiting: dict[int, bytes]) -> None:
        node = self._client.cluster.leader_for_partition(TopicPartition(topic, next(iter(waiting))))
        request = ProduceRequest(
            transactional_id=None, required_acks=-1, timeout=_TIMEOUT_MS, topics=[(topic, list(waiting.items()))]
        )
        response = await self._client.send(node, request)
        for _, partitions in response.topics:
            for partition, code, *_ in partitions:
                if code:
                    raise BrokerError(f"{topic}[{partition}] took no batch: {errors.for_code(code).__name__}")


async def read(bootstrap: str, topic: str) -> AsyncIterator[Any]:
    """Every record of the topic, from its beginning to what is its end now."""
    async with _consumer(bootstrap) as consumer:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        ends = await consumer.end_offsets(places)
        left = {place for place in places if ends[place] > 0}
        consumer.assign(sorted(left))
        if left:
            await consumer.seek_to_beginning(*left)
        while left:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    yield record
            for place in [*left]:
                if await consumer.position(place) >= ends[place]:
                    left.discard(place)


async def follow(bootstrap: str, topic: str) -> AsyncIterator[Iterable[Any]]:
    """Every record of the topic, in the bunches in which it can be seen, for ever."""
    async with _consumer(bootstrap) as consumer:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while True:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                yield records


class _consumer:
    """A consumer of no group. aiokafka's own knows no `async with`."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, client_id=_NAME, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
        )

    async def __aenter__(self) -> Any:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
