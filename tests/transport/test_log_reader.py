"""Recovery reads a log between its true bounds, on every broker."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaProducer

from local.broker import Broker as Tansu
from local.topics import ensure_topics
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
        found = []
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
    names = {f"{name}_topic": f"reader-{name}" for name in ("usage", "partials", "metering_state", "closing_state")}
    await _bounds_and_content(Settings(kafka_bootstrap=kafka.bootstrap, dead_letters_topic="reader-dead", **names))
