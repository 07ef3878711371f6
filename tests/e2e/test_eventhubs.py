"""The whole road on a real Apache Kafka that is spoken to as Event Hubs is, and a worker that dies in the middle of it."""

from __future__ import annotations

import asyncio
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from local.once import Options, generated, once
from local.process import Child
from local.reading import Rules
from local.stack import Stack
from local.topics import ensure_topics
from local.workers import Fleet
from schemas.errors import MeterlineError
from settings import Settings
from tests.kafka_cluster import KafkaCluster, connection_string

METERS = Path("meters.yaml")
pytestmark = pytest.mark.e2e


def own_topics(base: Settings) -> Settings:
    """Settings with topics and a group of this test's own: the broker is shared."""
    name = uuid.uuid4().hex[:8]
    return replace(
        base,
        app_id=f"meterline-{name}",
        usage_topic=f"usage-{name}",
        partials_topic=f"partials-{name}",
        metering_state_topic=f"metering-state-{name}",
        closing_state_topic=f"closing-state-{name}",
        dead_letters_topic=f"dead-letters-{name}",
        session_timeout_s=6.0,
        rebalance_timeout_s=6.0,
        checkpoint_ms=1000,
    )


def as_event_hubs(cluster: KafkaCluster) -> dict[str, str]:
    """What makes a worker connect over SASL_SSL as `$ConnectionString`, and nothing else."""
    return {
        "METERLINE_KAFKA_BOOTSTRAP": "",
        "METERLINE_EVENTHUBS_CONNECTION_STRING": cluster.connection_string,
        "METERLINE_KAFKA_CA_FILE": str(cluster.ca_file),
    }


async def test_every_message_and_document_equals_the_ledger_over_sasl_ssl(
    kafka_sasl: KafkaCluster, tmp_path: Path
) -> None:
    options = Options(tmp_path / "run", METERS, kafka=kafka_sasl.bootstrap, worker_environ=as_event_hubs(kafka_sasl))
    feed = generated(Rules.of(yaml.safe_load(METERS.read_text())), 4000, seed=7)
    report = await once(options, own_topics(Settings()), feed, print)
    assert report.mismatches == []
    assert report.numbers["counted"] > 3000
    assert report.numbers["invoice_messages"] == report.numbers["revisions"] > report.numbers["windows_closed"]


async def test_a_worker_killed_in_the_middle_changes_no_number(kafka_sasl: KafkaCluster, tmp_path: Path) -> None:
    read_when_killed = 0

    async def kill_one(_stack: Stack, fleet: Fleet) -> None:
        nonlocal read_when_killed
        while True:
            try:
                theirs = await fleet.up[1].get("/v1/audit?local=1")
            except MeterlineError:
                theirs = {"partitions": {}}
            if sum(partition["read"] for partition in theirs["partitions"].values()) > 500:
                break
            await asyncio.sleep(0.02)
        await fleet.up.pop(1).process.kill()
        read_when_killed = sum(partition["read"] for partition in theirs["partitions"].values())

    options = Options(
        tmp_path / "run", METERS, workers=2, kafka=kafka_sasl.bootstrap, worker_environ=as_event_hubs(kafka_sasl)
    )
    feed = generated(Rules.of(yaml.safe_load(METERS.read_text())), 12_000, seed=8)
    report = await once(options, own_topics(Settings()), feed, print, meanwhile=kill_one)
    assert report.mismatches == []
    assert 0 < read_when_killed < report.numbers["events_sent"], "it was killed before it was done"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"METERLINE_EVENTHUBS_CONNECTION_STRING": "wrong key"},
            ["refused the key: authentication failed", "copy the connection string again"],
        ),
        (
            {"METERLINE_USAGE_TOPIC": "no-such-topic"},
            ["topic 'no-such-topic' does not exist", "create it beforehand", "app.py check"],
        ),
        (
            {"METERLINE_METERING_STATE_TOPIC": "closing-state-of-another-count"},
            ["closing-state-of-another-count has 3", "exactly as many partitions as its source"],
        ),
    ],
    ids=["a wrong key", "a missing topic", "partition counts that do not fit"],
)
async def test_a_worker_that_cannot_be_right_says_what_and_what_to_do(
    kafka_sasl: KafkaCluster, tmp_path: Path, environ: dict[str, str], said: list[str]
) -> None:
    settings = own_topics(Settings(kafka_bootstrap=kafka_sasl.bootstrap))
    await ensure_topics(settings, 4, 4)
    other = replace(settings, usage_topic="closing-state-of-another-count", metering_state_topic="metering-state-3")
    await ensure_topics(other, 3, 4)
    wrong = connection_string(kafka_sasl.sasl_port, "d3Jvbmc=")
    environ = {k: wrong if v == "wrong key" else v for k, v in environ.items()}
    log = tmp_path / "worker.log"
    worker = Child("worker", [sys.executable, "-m", "app", "worker"], log=log)
    worker.environ = {
        **settings.environment(),
        **as_event_hubs(kafka_sasl),
        "METERLINE_SERVICEBUS_CONNECTION_STRING": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=b;"
        "UseDevelopmentEmulator=true;",
        **environ,
    }
    await worker.start()
    assert await worker.exited() == 2
    text = log.read_text()
    for part in said:
        assert part in text
    assert "Traceback" not in text
    assert "d3Jvbmc=" not in text
    assert kafka_sasl.connection_string not in text
