"""Stopped and mended on real Apache Kafka, with worker processes and the command line: the numbers are the ledger's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from local.once import Options, Pause, generated, once, rendered
from local.reading import Rules
from local.stack import Stack
from local.topics import ensure_topics, partition_counts
from local.waiting import closes_behind, until
from local.workers import Fleet, WorkerProcess
from schemas.errors import BrokerError
from settings import Settings
from tests.e2e.test_eventhubs import own_topics
from tests.kafka_cluster import KafkaCluster
from transport.client import client_options
from transport.sending import UsageProducer

METERS = Path("meters.yaml")
ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 2
pytestmark = pytest.mark.e2e


class Operator:
    """Who is called when a partition has stopped: looks, stops the workers, mends, starts them again."""

    def __init__(self, stack: Stack, fleet: Fleet) -> None:
        self.stack = stack
        self.fleet = fleet

    async def mend(self, *words: str) -> tuple[int, str, str]:
        """`python app.py mend …`: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", "mend", *words,
            cwd=ROOT, env={**os.environ, **self.stack.environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def stopped(self) -> list[dict[str, Any]]:
        """The stopped partitions of `mend show`."""
        code, out, err = await self.mend("show", "--json")
        found = [one for one in json.loads(out)["partitions"] if one["state"] == "stopped"]
        assert code == (1 if found else 0), err
        return found

    async def heal(self) -> list[str]:
        """Does what `mend show` says until everything is fine; the commands that it took."""
        done: list[str] = []
        while found := await self.stopped():
            for one in found:
                code, out, err = await self.mend(*one["commands"][0].split()[1:])
                assert code == 0, out + err
                done.append(one["commands"][0])
        return done

    async def workers(self, count: int) -> None:
        await self.fleet.scale(count)

    async def not_ready(self, *said: str) -> str:
        """The worker says on /readyz that it is stopped, and why, and what to do; all of it, in the end."""
        worker: WorkerProcess = self.fleet.up[0]
        for _ in range(600):
            try:
                told = "\n".join((await worker.get("/readyz"))["reasons"])
            except BrokerError:
                told = ""
            if all(part in told for part in said):
                return told
            await asyncio.sleep(0.1)
        raise AssertionError(f"/readyz does not say {said}, but {told!r}")

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**client_options(self.stack.settings))
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def make_anew(self, topic: str) -> None:
        """Deletes a topic and creates it again."""
        async with self.admin() as admin:
            await admin.delete_topics([topic])
            while topic in await partition_counts(admin):
                await asyncio.sleep(0.05)
        await ensure_topics(self.stack.settings, self.stack.usage_partitions, self.stack.partials_partitions)

    async def forget_offsets(self) -> None:
        """What a group's offsets expiring leaves."""
        group = self.stack.settings.app_id
        async with self.admin() as admin:
            answer = await admin._send_request(DeleteGroupsRequest([group]), await admin.find_coordinator(group))
        assert [code for _, code, *_ in answer.results] == [0]


async def test_a_changelog_made_anew_and_offsets_that_expired_change_no_number(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    met: asyncio.Future[Operator] = asyncio.get_running_loop().create_future()
    rules = Rules.of(yaml.safe_load(METERS.read_text()))

    async def feed(producer: UsageProducer, pause: Pause) -> int:
        operator = await met
        first = await generated(rules, 1200, seed=21)(producer, no_pause)
        await pause(first)
        worker = operator.fleet.up[0]
        before = await worker.get("/v1/audit")
        await changelog_made_anew(operator)
        await operator.workers(1)
        await pause(first)
        assert (await operator.fleet.up[0].get("/v1/audit"))["partitions"] == before["partitions"]

        await operator.workers(0)
        await operator.forget_offsets()
        second = await generated(rules, 1200, seed=22)(producer, no_pause)
        await operator.workers(1)
        await operator.not_ready("holds state, but there is no committed offset", "mend offset closing 1")
        await operator.workers(0)
        for stage, partitions in (("closing", operator.stack.partials_partitions), ("metering", PARTITIONS)):
            code, out, err = await operator.mend("offset", stage, "all")
            assert code == 0 and out.count("committed offset") == partitions, out + err
        assert await operator.stopped() == []
        await operator.workers(1)
        return first + second

    async def meanwhile(stack: Stack, fleet: Fleet) -> None:
        met.set_result(Operator(stack, fleet))

    options = Options(tmp_path / "run", METERS, partitions=PARTITIONS, kafka=kafka.bootstrap)
    report = await once(options, own_topics(Settings()), feed, print, meanwhile=meanwhile)
    assert [found for found in report.mismatches if found.where != "worker's log"] == []
    assert report.numbers["counted"] > 1800


async def changelog_made_anew(operator: Operator) -> None:
    """Found by a worker, refused beside it, mended without it."""
    settings = operator.stack.settings
    await operator.workers(0)
    await operator.make_anew(settings.metering_state_topic)
    await operator.workers(1)
    told = await operator.not_ready(f"metering of {settings.usage_topic}[0] stopped", "mend rebuild metering 1")
    assert "docs/mending.md#an-empty-changelog" in told
    code, out, err = await operator.mend("rebuild", "metering", "0")
    assert code == 2 and f"stop the workers of app id '{settings.app_id}' first" in err, out + err
    await operator.workers(0)
    assert [one["commands"] for one in await operator.stopped()] == [
        [f"mend rebuild metering {partition}"] for partition in range(PARTITIONS)
    ]
    assert await operator.heal() == ["mend rebuild metering 0", "mend rebuild metering 1"]
    code, _, err = await operator.mend("rebuild", "metering", "0")
    assert code == 1 and "there is nothing to mend" in err


async def no_pause(_: int) -> None:
    """Nobody counts at the moment."""


async def test_usage_that_retention_removed_is_a_gap_in_the_audit(kafka: KafkaCluster, tmp_path: Path) -> None:
    settings = own_topics(Settings(meters=str(rendered(METERS, tmp_path))))
    stack = Stack(
        tmp_path / "run",
        kafka=kafka.bootstrap,
        usage_partitions=PARTITIONS,
        partials_partitions=PARTITIONS,
        base=settings,
    )
    rules = Rules.of(yaml.safe_load(METERS.read_text()))
    async with stack:
        fleet = Fleet(stack)
        operator = Operator(stack, fleet)
        try:
            await operator.workers(1)
            async with UsageProducer(stack.settings) as producer:
                sent = await generated(rules, 800, seed=23)(producer, no_pause)
                await producer.flush()
                await until(stack, fleet, lambda status: closes_behind(status, sent))
                before = await fleet.up[0].get("/v1/audit")
                await operator.workers(0)
                await generated(rules, 400, seed=24)(producer, no_pause)
                await producer.flush()
                begin, end = await retention_cuts(operator, TopicPartition(stack.settings.usage_topic, 1))
                await operator.workers(1)
                accept = f"mend accept-gap metering 1 --to {end}"
                await operator.not_ready(f"{end - begin} offsets were removed before they were counted", accept)
                await operator.workers(0)
                code, _, err = await operator.mend("accept-gap", "metering", "1", "--to", str(end + 5))
                assert code == 1 and f"offsets {begin} to {end}" in err
                code, out, err = await operator.mend(*accept.split()[1:], "--reason", "retention of an hour")
                assert code == 0, out + err
                assert await operator.stopped() == []
                began_ms = time.time_ns() // 1_000_000
                await producer.tick(began_ms, "/meterline/test")
                await operator.workers(1)
                await fleet.up[0].serving()
                status = await until(stack, fleet, lambda status: behind(status, before))
        finally:
            await fleet.stop()
    audit = status["audit"]
    assert [(g["stage"], g["partition"], g["from"], g["to"], g["reason"]) for g in audit["gaps"]] == [
        ("metering", 1, begin, end, "retention of an hour")
    ]
    assert audit["balanced"]
    counted = {p: (ledger["read"], ledger["counted"]) for p, ledger in audit["partitions"].items()}
    held = {p: (ledger["read"], ledger["counted"]) for p, ledger in before["partitions"].items()}
    assert counted["1"] == held["1"] and counted["0"] > held["0"]
    assert [alarm["kind"] for alarm in status["alarms"]] == []


def behind(status: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Partition 0 has read more than before, and nobody is behind the end of a log."""
    read = status["audit"]["partitions"].get("0", {}).get("read", 0)
    left = [partition for partition, task in status["metering"].items() if task["lag"] or task["state"] != "running"]
    return left if read > before["partitions"]["0"]["read"] else ["0", *left]


async def retention_cuts(operator: Operator, place: TopicPartition) -> tuple[int, int]:
    """Removes from a partition of usage all that is not counted; the committed offset, and where the log begins now."""
    async with operator.admin() as admin:
        group = operator.stack.settings.app_id
        committed = (await admin.list_consumer_group_offsets(group, partitions=[place]))[place].offset
        low = await admin.delete_records({place: RecordsToDelete(before_offset=-1)})
    assert low[place] > committed
    return committed, low[place]
