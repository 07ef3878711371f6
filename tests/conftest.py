"""Fixtures for every test: a real Apache Kafka, started for the first test that asks and kept for the session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.kafka_cluster import KafkaCluster

settings.register_profile(
    "meterline", deadline=None
)  # no test depends on timing, and a kernel's first call compiles it
settings.load_profile("meterline")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Apache Kafka without authentication."""
    yield from _running(KafkaCluster(tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="session")
def kafka_sasl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Apache Kafka that is spoken to as Event Hubs is: SASL_SSL, `$ConnectionString`, no creation of topics by use."""
    yield from _running(KafkaCluster(tmp_path_factory.mktemp("kafka-sasl"), sasl=True))


def _running(cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        asyncio.run(cluster.stop())
