"""The tests' own Kafka is a real one: what it has acknowledged is there after a kill."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from local.topics import ensure_topics
from tests.kafka_cluster import KafkaCluster


async def test_a_killed_kafka_comes_back_on_its_ports_with_its_log(tmp_path: Path) -> None:
    cluster = KafkaCluster(tmp_path / "kafka")
    try:
        await cluster.start()
        await ensure_topics(cluster.settings, 1, 1)
        producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all")
        await producer.start()
        sent = await producer.send_and_wait("usage", b"kept", partition=0, timestamp_ms=1000)
        await producer.stop()
        assert sent.timestamp_type == 1
        assert sent.timestamp > 1000
        await cluster.kill()
        await cluster.start()
        consumer = AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap)
        await consumer.start()
        consumer.assign([TopicPartition("usage", 0)])
        consumer.seek(TopicPartition("usage", 0), 0)
        record = await consumer.getone()
        await consumer.stop()
        assert (record.value, record.timestamp, record.timestamp_type) == (b"kept", sent.timestamp, 1)
    finally:
        await cluster.stop()
