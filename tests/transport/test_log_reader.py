"""Recovery reads a log between its true bounds, on every broker."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from local.broker import Broker as Tansu
from local.topics import ensure_topics
from schemas.errors import BrokerError
from settings import Settings
from tests.kafka_cluster import KafkaCluster
from transport.broker import LogReader


async def _bounds_and_content(settings: Settings) -> None:
    await ensure_topics(settings, 1, 1)
    usage, state = settings.usage_topic, settings.metering_state_topic
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=50) as producer:
        for topic, count in ((usage, 3), (state, 5)):  # each as one batch of several records
            sent = [await producer.send(topic, b"%d" % number, partition=0) for number in range(count)]
            offsets = [(await one).offset for one in sent]
            assert offsets == list(range(count))
    reader = LogReader(settings)
    await reader.open()
    try:
        # In the order in which recovery asks: a fetch at the end of the one is under way when the other is asked.
        assert await reader.bounds(usage, 0) == (0, 3)
        assert await reader.bounds(state, 0) == (0, 5)
        assert await reader.bounds(usage, 0) == (0, 3)
        found: list[tuple[int, bytes | None]] = []
        while found[-1:] != [(4, b"4")]:
            found += await reader.read(state, 0, len(found), 5)
        assert found == [(number, b"%d" % number) for number in range(5)]
        assert await reader.read(state, 0, 2, 4) == [(2, b"2"), (3, b"3")]
        assert await reader.bounds(settings.closing_state_topic, 0) == (0, 0)
    finally:
        await reader.close()


async def test_the_bounds_are_true_on_tansu_whose_list_of_offsets_is_not(tmp_path: Path) -> None:
    async with Tansu(tmp_path) as broker:
        await _bounds_and_content(Settings(kafka_bootstrap=broker.bootstrap))


async def test_the_bounds_are_true_on_apache_kafka(kafka: KafkaCluster) -> None:
    topics = ("usage", "partials", "metering_state", "closing_state")
    names: dict[str, Any] = {f"{name}_topic": f"reader-{name}" for name in topics}
    await _bounds_and_content(Settings(kafka_bootstrap=kafka.bootstrap, dead_letters_topic="reader-dead", **names))


async def test_a_log_that_is_cut_while_it_is_read_is_an_error_and_never_a_wait(kafka: KafkaCluster) -> None:
    settings = Settings(kafka_bootstrap=kafka.bootstrap)
    topic = await _log(kafka, count=5)
    reader, admin = LogReader(settings), AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await reader.open()
    await admin.start()
    try:
        assert await reader.bounds(topic, 0) == (0, 5)
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(3)})
        with pytest.raises(BrokerError, match="could not be read at 0: OffsetOutOfRange"):
            await reader.read(topic, 0, 0, 5)
        assert await reader.bounds(topic, 0) == (3, 5)
        assert await reader.read(topic, 0, 3, 5) == [(3, b"3"), (4, b"4")]
        assert await reader.read(topic, 0, 5, 5) == [], "nothing is left below the end"
        with pytest.raises(BrokerError, match="could not be read at 99: OffsetOutOfRange"):
            await reader.read(topic, 0, 99, 100)
    finally:
        await admin.close()
        await reader.close()


async def test_control_records_at_the_end_are_within_the_bounds_and_are_no_records(kafka: KafkaCluster) -> None:
    topic = await _log(kafka, count=1)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic) as producer:
        for number in (2, 4):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"%d" % (number - 1), partition=0)
            await (producer.commit_transaction() if number == 2 else producer.abort_transaction())
    reader = LogReader(Settings(kafka_bootstrap=kafka.bootstrap))
    await reader.open()
    try:
        assert await reader.bounds(topic, 0) == (0, 5)
        assert await reader.read(topic, 0, 4, 5) == []
        found: list[tuple[int, bytes | None]] = []
        while not found or found[-1][0] < 3:
            found += await reader.read(topic, 0, found[-1][0] + 1 if found else 0, 5)
        assert found == [(0, b"0"), (1, b"1"), (3, b"3")]
        assert await reader.read(topic, 0, 2, 3) == [], "a control record alone"
    finally:
        await reader.close()


async def _log(kafka: KafkaCluster, count: int) -> str:
    """A topic of its own with so many records."""
    topic = f"log-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(count):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
    return topic
