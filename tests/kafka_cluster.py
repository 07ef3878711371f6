"""The tests' Apache Kafka: `local.kafka`; where this machine cannot run it, the test is skipped, and fails in CI."""

from __future__ import annotations

import shutil

from local import kafka
from local.kafka import KEY, certificates, connection_string
from tests.requirements import need

__all__ = ["KEY", "KafkaCluster", "certificates", "connection_string"]


class KafkaCluster(kafka.KafkaCluster):
    """One broker on 127.0.0.1, see there."""

    async def start(self) -> None:
        """Start, and return once it answers."""
        need(shutil.which("java") is not None, "Java 17 or newer, for Apache Kafka")
        need(shutil.which("mvn") is not None, "Maven, for the jars of Apache Kafka")
        await super().start()
