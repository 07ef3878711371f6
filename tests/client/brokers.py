"""Topics on real brokers, and what is in them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


class Found(NamedTuple):
    """A record of the log."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.value)
        return events


async def new_topic(bootstrap: str, partitions: int) -> str:
    """A topic of this test's own."""
    name = f"usage-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1)])
        while len((await admin.describe_topics([name]))[0]["partitions"]) < partitions:
            await asyncio.sleep(0.05)
    finally:
        await admin.close()
    return name


@asynccontextmanager
async def _reading(bootstrap: str, topic: str, partitions: int) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        yield consumer
    finally:
        await consumer.stop()


async def read_until(bootstrap: str, topic: str, partitions: int, ids: set[str]) -> list[Found]:
    """The log from its beginning, read until every one of these ids was seen and a fetch brought nothing more."""
    found: list[Found] = []
    missing = {*ids}
    async with _reading(bootstrap, topic, partitions) as consumer:
        while True:
            fetched = await consumer.getmany(timeout_ms=500)
            if not fetched and not missing:
                break
            for records in fetched.values():
                for r in records:
                    found.append(Found(r.partition, r.offset, r.key, r.value, tuple(r.headers)))
                    missing -= {event["id"] for event in found[-1].events}
    return sorted(found, key=lambda record: (record.partition, record.offset))
