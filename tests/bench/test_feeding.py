"""What was made lies in Apache Kafka, record by record, and what a group has committed is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.record.memory_records import MemoryRecords

from bench.field import inputs, job
from bench.field.feeding import Feed, read
from tests.kafka_cluster import KafkaCluster

HOUR_MS = 1_700_000_000_000 // job.WINDOW_MS * job.WINDOW_MS


@pytest.fixture
async def kafka(tmp_path: Path) -> AsyncIterator[KafkaCluster]:
    cluster = KafkaCluster(tmp_path / "kafka")
    await cluster.start()
    yield cluster
    await cluster.stop()


async def test_a_topic_holds_every_record_once_and_in_order_and_a_group_is_where_it_committed(
    kafka: KafkaCluster,
) -> None:
    given = inputs.make("test", inputs.Keys(inputs.tenants(50)), inputs.zipf(50, 70_000, HOUR_MS, 7), 7)
    batches = [batch for block in given.blocks for batch in block.batches]
    expected: dict[int, list[bytes]] = {partition: [] for partition in range(job.PARTITIONS)}
    for batch in batches:
        part = MemoryRecords(batch.data).next_batch()
        assert part is not None
        expected[batch.partition] += [record.value for record in part]
    async with Feed(kafka.bootstrap) as feed:
        await feed.create("usage", "other")
        await feed.append("usage", batches)
        assert await feed.ends("usage") == sum(block.records for block in given.blocks)
        found: dict[int, list[bytes]] = {partition: [] for partition in range(job.PARTITIONS)}
        async for record in read(kafka.bootstrap, "usage"):
            found[record.partition].append(record.value)
        assert found == expected

        assert await feed.committed("readers", "usage") == 0
        consumer = AIOKafkaConsumer(
            "usage",
            bootstrap_servers=kafka.bootstrap,
            group_id="readers",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            taken = len(await consumer.getmany(timeout_ms=10_000)) and sum(
                [await consumer.position(place) for place in consumer.assignment()]
            )
            assert taken > 0
            await consumer.commit()
        finally:
            await consumer.stop()
        assert await feed.committed("readers", "usage") == taken
        assert await feed.committed("readers", "other") == 0
        await feed.delete(*await feed.topics_of("usage"))
        assert await feed.topics_of("usage") == []
