"""A deployment of one's own on a shared Kafka: topics, group, Service Bus, and workers as processes."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from local.ports import free_port
from local.stack import Stack
from local.topics import ensure_topics
from local.workers import WorkerProcess
from schemas.errors import BrokerError
from schemas.hashing import partition_for
from schemas.times import format_rfc3339
from settings import Settings
from transport.client import client_options
from transport.sending import UsageProducer

PARTITIONS = 2
METERS = """
stream: { correct_for: P1D }
meters:
  - { slug: calls, unit: calls, event_type: call, aggregation: count, windows: [PT1H], grace: PT12H }
"""
"""Windows that stay open: these tests are about the state."""
_OFFSETS = re.compile(r"(metering|closing) \S+\[(\d+)\] (handed over|restored) .*?at offset (\d+)")


class Deployment:
    """workers: by the order of their start, each with a log of its own. sent: how many events."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = stack.settings
        self.workers: list[WorkerProcess] = []
        self.sent = 0

    async def start_worker(self, **environ: str) -> WorkerProcess:
        """One more worker; waits for nothing."""
        worker = WorkerProcess(self.stack, len(self.workers) + 1, free_port(), environ)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def send(self, producer: UsageProducer, events: int) -> None:
        """So many events, each of a subject of its own."""
        now = format_rfc3339(time.time_ns() // 1_000_000)
        for begin in range(0, events, 200):
            envelopes: list[list[dict[str, object]]] = [[] for _ in range(PARTITIONS)]
            for number in range(self.sent + begin, self.sent + min(events, begin + 200)):
                subject = f"tenant-{number}"
                event = {"specversion": "1.0", "id": str(number), "source": "/test", "type": "call", "time": now}
                envelopes[partition_for(subject, PARTITIONS)].append({**event, "subject": subject, "data": {}})
            for partition, envelope in enumerate(envelopes):
                if envelope:
                    await producer.send(partition, b"key", orjson.dumps(envelope))
        self.sent += events
        await producer.flush()

    async def read(self, worker: WorkerProcess) -> int:
        """How many events this worker's ledgers have read."""
        audit = await worker.get("/v1/audit?local=1")
        return sum(partition["read"] for partition in audit["partitions"].values())

    async def has_read_all(self, worker: WorkerProcess) -> bool:
        """Whether every event that was sent is in this worker's ledgers."""
        try:
            return await self.read(worker) == self.sent
        except BrokerError:  # it does not serve yet
            return False

    async def committed(self) -> dict[tuple[str, int], int | None]:
        """Stage and partition -> the group's committed offset."""
        s = self.settings
        consumer = AIOKafkaConsumer(**client_options(s), group_id=s.app_id, enable_auto_commit=False)
        await consumer.start()
        try:
            return {
                (stage, partition): await consumer.committed(TopicPartition(topic, partition))
                for stage, topic in (("metering", s.usage_topic), ("closing", s.partials_topic))
                for partition in range(PARTITIONS)
            }
        finally:
            await consumer.stop()


def told(worker: WorkerProcess, what: str) -> dict[tuple[str, int], int]:
    """Stage and partition -> the offset at which the worker's log says it was `handed over` or `restored`."""
    found = _OFFSETS.findall(worker.process.log.read_text())
    return {(stage, int(partition)): int(offset) for stage, partition, said, offset in found if said == what}


async def until(worker: WorkerProcess, condition: Callable[[], Awaitable[bool]], patience_s: float = 60.0) -> None:
    """Returns when it holds. Raises BrokerError with the worker's log where that ends or time runs out."""
    await worker.process.until(condition, patience_s)


@asynccontextmanager
async def deployment(bootstrap: str, directory: Path) -> AsyncIterator[Deployment]:
    """Topics and a Service Bus; whatever happens, no worker is left."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "meters.yaml").write_text(METERS)
    name = uuid.uuid4().hex[:8]
    base = replace(
        Settings(app_id=f"meterline-{name}", kafka_bootstrap=bootstrap, meters=str(directory / "meters.yaml")),
        usage_topic=f"usage-{name}",
        partials_topic=f"partials-{name}",
        metering_state_topic=f"metering-state-{name}",
        closing_state_topic=f"closing-state-{name}",
        dead_letters_topic=f"dead-letters-{name}",
        session_timeout_s=6.0,
        rebalance_timeout_s=6.0,
    )
    await ensure_topics(base, PARTITIONS, PARTITIONS)
    async with Stack(directory / "stack", only=("broker", "servicebus"), kafka=bootstrap, base=base) as stack:
        made = Deployment(stack)
        try:
            yield made
        finally:
            for worker in made.workers:
                await worker.process.kill()
