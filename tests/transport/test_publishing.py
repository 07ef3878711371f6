"""What is published over HTTP goes where its key belongs, and is answered once it is in the log."""

from __future__ import annotations

import uuid

import pytest

from local.topics import ensure_topics
from schemas.errors import SendFailed
from schemas.records import Out
from settings import Settings
from tests.kafka_cluster import KafkaCluster
from transport.broker import Broker, LogReader


async def test_a_record_is_in_the_log_where_it_is_said_to_be_and_its_key_stays_together(kafka: KafkaCluster) -> None:
    name = uuid.uuid4().hex[:8]
    settings = Settings(
        kafka_bootstrap=kafka.bootstrap,
        usage_topic=f"usage-{name}",
        partials_topic=f"partials-{name}",
        metering_state_topic=f"metering-state-{name}",
        closing_state_topic=f"closing-state-{name}",
        dead_letters_topic=f"dead-letters-{name}",
    )
    await ensure_topics(settings, 3, 1)
    broker, reader = Broker(settings, lambda: None), LogReader(settings)
    await broker.start()
    await reader.open()
    try:
        places = [await broker.publish(settings.usage_topic, b"acme", b"%d" % number) for number in range(3)]
        (partition,) = {partition for partition, _ in places}
        assert [offset for _, offset in places] == [0, 1, 2]
        assert await reader.bounds(settings.usage_topic, partition) == (0, 3)
        assert await reader.read(settings.usage_topic, partition, 2, 3) == [(2, b"2")]
    finally:
        await reader.close()
        await broker.stop()


async def test_a_worker_that_is_stopping_sends_nothing_any_more() -> None:
    broker = Broker(Settings(kafka_bootstrap="127.0.0.1:1"), lambda: None)
    await broker.stop()
    with pytest.raises(SendFailed, match="the producer is closed: this worker is stopping"):
        await broker.publish("usage", b"acme", b"1")
    with pytest.raises(SendFailed, match="the producer is closed: this worker is stopping"):
        await broker.produce([Out("partials", 0, None, b"1")])
