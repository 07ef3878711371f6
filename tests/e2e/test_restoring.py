"""A worker that restores says so, and is alive: also while its broker is silent in the middle of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from schemas.errors import BrokerError
from tests.e2e.deployments import deployment, told, until
from tests.kafka_cluster import KafkaCluster
from transport.sending import UsageProducer

pytestmark = pytest.mark.e2e

RESTORING = re.compile(r"(metering|closing) of \S+\[\d\] restoring \d+ %")


async def test_a_worker_says_how_far_it_is_and_is_ready_once_it_is_whole(kafka: KafkaCluster, tmp_path: Path) -> None:
    async with deployment(kafka.bootstrap, tmp_path) as made:
        first = await made.start_worker()
        async with UsageProducer(made.settings) as producer:
            await made.send(producer, 20_000)
        await until(first, lambda: made.has_read_all(first))
        await first.stop()
        second = await made.start_worker()

        async def is_restoring() -> bool:
            return second.process.said("is restoring")

        await until(second, is_restoring)
        kafka.signal(signal.SIGSTOP)  # so that it is caught at it
        try:
            reasons: list[str] = []

            async def says_so() -> bool:
                nonlocal reasons
                try:
                    reasons = (await second.get("/readyz"))["reasons"]
                except BrokerError:  # it does not serve yet
                    return False
                return bool(reasons) and all(RESTORING.fullmatch(reason) for reason in reasons)

            await until(second, says_so)
            assert (await second.get("/healthz"))["alive"] is True
            assert await made.read(second) < made.sent, "what is not restored is not answered for"
        finally:
            kafka.signal(signal.SIGCONT)
        await second.serving()
        assert told(second, "restored") == await made.committed()
        assert await made.read(second) == made.sent
