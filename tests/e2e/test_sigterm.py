"""SIGTERM: what was read is flushed and handed over, and the worker is gone within seconds, whatever it was at."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from local.workers import WorkerProcess
from tests.e2e.deployments import Deployment, deployment, told, until
from tests.kafka_cluster import KafkaCluster
from transport.sending import UsageProducer

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
"""A limit for machines that are busy with other things; the tests wait for the exit, not for this."""


async def terminated(worker: WorkerProcess, *codes: int) -> float:
    """SIGTERM; how long until it was gone, seconds. codes: the exit codes that are right, 0 if none are given."""
    began_s = time.monotonic()
    worker.process.signal(signal.SIGTERM)
    code = await asyncio.wait_for(worker.process.exited(), PATIENCE_S)
    assert code in (codes or (0,)), worker.process.obituary()
    return time.monotonic() - began_s


async def test_a_worker_under_load_flushes_hands_over_and_leaves(kafka: KafkaCluster, tmp_path: Path) -> None:
    async with deployment(kafka.bootstrap, tmp_path) as made:
        first = await made.start_worker()
        await first.serving()
        async with UsageProducer(made.settings) as producer:
            load = asyncio.create_task(_load(made, producer))

            async def has_read() -> bool:
                return await made.read(first) > 3000

            await until(first, has_read)
            async with aiohttp.ClientSession() as session, session.get(f"{first.url}/v1/live") as feed:
                await feed.content.readany()  # somebody who listens holds nobody up
                seconds = await terminated(first)
            load.cancel()
            with suppress(asyncio.CancelledError):
                await load
            await producer.flush()
        print(f"gone after {seconds:.1f} s")
        assert "took too long" not in first.process.log.read_text()
        handed_over = told(first, "handed over")
        assert handed_over == await made.committed()
        second = await made.start_worker()
        await second.serving()
        assert told(second, "restored") == handed_over
        await until(second, lambda: made.has_read_all(second))


async def _load(made: Deployment, producer: UsageProducer) -> None:
    while True:
        await made.send(producer, 200)
        await asyncio.sleep(0.01)


async def test_a_worker_that_is_restoring_leaves_at_once_and_changes_nothing(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    async with deployment(kafka.bootstrap, tmp_path) as made:
        first = await made.start_worker()
        async with UsageProducer(made.settings) as producer:
            await made.send(producer, 40_000)
        await until(first, lambda: made.has_read_all(first))
        await terminated(first)
        before = await made.committed()
        second = await made.start_worker()

        async def is_restoring() -> bool:
            return second.process.said("is restoring")

        await until(second, is_restoring)
        seconds = await terminated(second)
        print(f"gone after {seconds:.1f} s")
        assert len(told(second, "restored")) < len(before), "it was told to end before it was ready"
        assert await made.committed() == before
        third = await made.start_worker()
        await third.serving()
        assert told(third, "restored") == before
        assert await made.read(third) == made.sent


@pytest.mark.parametrize("broker", ["killed", "frozen"])
async def test_a_worker_whose_broker_is_gone_leaves_and_says_that_it_could_not_hand_over(
    tmp_path: Path, broker: str
) -> None:
    kafka = KafkaCluster(tmp_path / "kafka")
    await kafka.start()
    try:
        async with deployment(kafka.bootstrap, tmp_path) as made:
            worker = await made.start_worker()
            async with UsageProducer(made.settings) as producer:
                await made.send(producer, 2000)
            await until(worker, lambda: made.has_read_all(worker))
            if broker == "killed":
                await kafka.kill()
            else:
                kafka.signal(signal.SIGSTOP)
            seconds = await terminated(worker, 1)
            print(f"gone after {seconds:.1f} s")
            assert worker.process.said("ended without handing everything over")
            assert not worker.process.said("Traceback")
    finally:
        kafka.signal(signal.SIGCONT)
        await kafka.stop()


async def test_a_worker_that_waits_for_its_broker_leaves(tmp_path: Path) -> None:
    """It starts over and over; told to end, it must not begin anew once more."""
    kafka = KafkaCluster(tmp_path / "kafka")
    await kafka.start()
    try:
        async with deployment(kafka.bootstrap, tmp_path) as made:
            await kafka.kill()
            worker = await made.start_worker()

            async def starts_over() -> bool:
                return worker.process.said("starting over")

            await until(worker, starts_over)
            # It has nothing to hand over. Between two lives, a signal simply ends a process.
            seconds = await terminated(worker, 0, -signal.SIGTERM)
            print(f"gone after {seconds:.1f} s")
            assert not worker.process.said("Traceback")
    finally:
        await kafka.stop()
