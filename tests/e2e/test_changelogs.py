"""What befalls logs on a real Kafka: each partition is restored, or stops in bounded time and says why; none begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from local.topics import ensure_topics, partition_counts
from local.workers import WorkerProcess
from schemas.errors import BrokerError
from settings import Settings
from tests.e2e.deployments import PARTITIONS, Deployment, deployment, told, until
from tests.kafka_cluster import KafkaCluster
from transport.broker import LogReader
from transport.sending import UsageProducer

pytestmark = pytest.mark.e2e


@pytest.fixture
async def admin(kafka: KafkaCluster) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    yield client
    await client.close()


async def lived(made: Deployment) -> None:
    """A worker has metered, and left its state behind in several checkpoints."""
    worker = await made.start_worker(METERLINE_CHECKPOINT_MS="100")
    async with UsageProducer(made.settings) as producer:
        for _ in range(5):
            committed = await made.committed()
            await made.send(producer, 200)
            await until(worker, lambda: made.has_read_all(worker))
            while await made.committed() == committed:
                await asyncio.sleep(0.05)
    await worker.stop()
    assert worker.process.returncode == 0


async def told_by(worker: WorkerProcess, count: int) -> dict[str, str]:
    """`/readyz` once so many partitions have stopped and the others run: partition -> why, of those that have stopped."""
    reasons: list[str] = []

    async def settled() -> bool:
        nonlocal reasons
        try:
            reasons = (await worker.get("/readyz"))["reasons"]
        except BrokerError:  # it does not serve yet
            return False
        return len(reasons) == count and all("] stopped: " in reason for reason in reasons)

    await until(worker, settled)
    return {reason.partition("] ")[0].partition(" of ")[0] + reason.partition("[")[2][:1]: reason for reason in reasons}


async def last_value(settings: Settings, topic: str, partition: int) -> bytes:
    """The last record of a log."""
    reader = LogReader(settings)
    await reader.open()
    try:
        _, end = await reader.bounds(topic, partition)
        ((_, value),) = await reader.read(topic, partition, end - 1, end)
        return value
    finally:
        await reader.close()


async def test_a_changelog_that_was_cut_or_emptied_stops_its_partition_and_no_other(
    kafka: KafkaCluster, admin: AIOKafkaAdminClient, tmp_path: Path
) -> None:
    async with deployment(kafka.bootstrap, tmp_path) as made:
        await lived(made)
        before, s = await made.committed(), made.settings
        cut, emptied = TopicPartition(s.metering_state_topic, 0), TopicPartition(s.closing_state_topic, 0)
        await admin.delete_records({cut: RecordsToDelete(2), emptied: RecordsToDelete(-1)})
        worker = await made.start_worker()
        reasons = await told_by(worker, 2)
        assert f"the newest snapshot of {cut.topic} began at its offset" in reasons["metering0"]
        assert f"the changelog {emptied.topic} is empty" in reasons["closing0"]
        assert "retention" in reasons["metering0"]
        assert worker.process.said(f"metering {s.usage_topic}[1] restored")
        assert worker.process.said(f"closing {s.partials_topic}[1] restored")
        assert worker.process.said(reasons["metering0"].partition("stopped: ")[2]), "the log says it, too"
        after = await made.committed()
        assert (after["metering", 0], after["closing", 0]) == (before["metering", 0], before["closing", 0])


async def test_topics_that_were_made_anew_stop_every_partition(
    kafka: KafkaCluster, admin: AIOKafkaAdminClient, tmp_path: Path
) -> None:
    """Kafka forgets the committed offsets of a topic that is deleted; the state of one that is gone is not begun again."""
    async with deployment(kafka.bootstrap, tmp_path) as made:
        await lived(made)
        s = made.settings
        await admin.delete_topics([s.usage_topic, s.closing_state_topic])
        while {s.usage_topic, s.closing_state_topic} & set(await partition_counts(admin)):
            await asyncio.sleep(0.05)
        await ensure_topics(s, PARTITIONS, PARTITIONS)
        worker = await made.start_worker()
        reasons = await told_by(worker, 4)
        for partition in range(PARTITIONS):
            assert f"the changelog {s.closing_state_topic} is empty" in reasons[f"closing{partition}"]
            assert f"there is no committed offset for {s.usage_topic}" in reasons[f"metering{partition}"]


async def test_a_changelog_that_ends_in_control_records_of_transactions_is_restored(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """A copy of a chunk that is there already changes nothing; what ends its transaction is no record at all."""
    async with deployment(kafka.bootstrap, tmp_path) as made:
        await lived(made)
        before, s = await made.committed(), made.settings
        topics = (s.metering_state_topic, s.closing_state_topic)
        last = {(topic, at): await last_value(s, topic, at) for topic in topics for at in range(PARTITIONS)}
        for commits in (True, False):
            name = f"{s.app_id}-{commits}"
            async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=name) as producer:
                await producer.begin_transaction()
                for (topic, partition), value in last.items():
                    await producer.send_and_wait(topic, value, partition=partition)
                await (producer.commit_transaction() if commits else producer.abort_transaction())
        worker = await made.start_worker()
        await worker.serving()
        assert await made.has_read_all(worker)
        assert told(worker, "restored") == before
