"""`check` finds what would make a worker wrong or stop it, says how to mend it, and writes nothing."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from click.testing import CliRunner
from rich.console import Console

from cli.check import examine, show
from cli.main import group
from cli.probes import managed_queue, probe_kafka, probe_queue
from cli.verdicts import (
    ContainerFacts,
    CosmosFacts,
    KafkaFacts,
    QueueFacts,
    Verdict,
    judge_cosmos,
    judge_kafka,
    judge_queue,
)
from local.ports import free_port
from local.stack import Stack
from local.topics import ensure_topics
from settings import Settings
from tests.kafka_cluster import KafkaCluster, certificates, connection_string

SETTINGS = Settings()
COUNTS = {"usage": 4, "partials": 2, "metering-state": 4, "closing-state": 2, "dead-letters": 1}
APPENDED = {"usage": {"message.timestamp.type": "LogAppendTime"}}
CONTAINER = ContainerFacts(("/subject",), "LastWriterWins", "/revision")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path / "data") as running:
        yield running


def find(verdicts: list[Verdict], what: str) -> Verdict:
    matching = [verdict for verdict in verdicts if verdict.what == what]
    assert len(matching) == 1, f"{what}: {[verdict.what for verdict in verdicts]}"
    return matching[0]


def not_ok(verdicts: list[Verdict]) -> dict[str, str]:
    return {verdict.what: verdict.status for verdict in verdicts if verdict.status != "ok"}


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_broker_that_fits_is_all_ok() -> None:
    assert not_ok(judge_kafka(KafkaFacts("h:1", partitions=COUNTS, configs=APPENDED), SETTINGS)) == {}


def test_a_missing_topic_is_named_and_its_pair_is_unknown() -> None:
    partitions = {name: count for name, count in COUNTS.items() if name != "closing-state"}
    verdicts = judge_kafka(KafkaFacts("h:1", partitions=partitions, configs=APPENDED), SETTINGS)
    assert not_ok(verdicts) == {"topic closing-state": "failed", "partials = closing-state": "unknown"}
    assert "create it" in find(verdicts, "topic closing-state").mend


def test_counts_that_do_not_fit_show_both_numbers() -> None:
    facts = KafkaFacts("h:1", partitions={**COUNTS, "metering-state": 8}, configs=APPENDED)
    verdict = find(judge_kafka(facts, SETTINGS), "usage = metering-state")
    assert verdict.status == "failed"
    assert verdict.found == "usage has 4 partitions, metering-state has 8"
    assert "a new one with 4" in verdict.mend


@pytest.mark.parametrize(
    ("configs", "appended", "laptop", "status"),
    [
        (APPENDED, None, False, "ok"),
        ({"usage": {"message.timestamp.type": "CreateTime"}}, None, False, "failed"),
        (None, True, False, "ok"),
        (None, False, False, "failed"),
        (None, None, False, "unknown"),
        (APPENDED, None, True, "note"),
    ],
)
def test_append_time_is_judged_by_configuration_then_by_a_record(
    configs: dict[str, dict[str, str]] | None, appended: bool | None, laptop: bool, status: str
) -> None:
    facts = KafkaFacts("h:1", partitions=COUNTS, configs=configs, appended=appended, laptop=laptop)
    verdict = find(judge_kafka(facts, SETTINGS), "append time on usage")
    assert verdict.status == status
    assert bool(verdict.mend) == (status != "ok")


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000"}, "ok"),
        ({"cleanup.policy": "delete", "retention.ms": "-1"}, "ok"),
        ({"cleanup.policy": "delete", "retention.ms": "86400000"}, "failed"),
        ({"cleanup.policy": "compact", "retention.ms": "-1"}, "failed"),
    ],
)
def test_a_changelog_must_be_kept_long_enough_and_not_be_compacted(config: dict[str, str], status: str) -> None:
    facts = KafkaFacts("h:1", partitions=COUNTS, configs={**APPENDED, "closing-state": config})
    assert find(judge_kafka(facts, SETTINGS), "keeping of closing-state").status == status


def test_a_connection_string_of_one_event_hub_is_refused() -> None:
    settings = Settings(eventhubs_connection_string=connection_string(9093, "key") + ";EntityPath=usage")
    verdict = find(judge_kafka(KafkaFacts("h:1", partitions=COUNTS, configs=APPENDED), settings), "connection string")
    assert verdict.status == "failed"
    assert "of the namespace" in verdict.mend


def test_a_queue_without_sessions_or_duplicate_detection_fails() -> None:
    good = QueueFacts("ns", exists=True, sessions=True, duplicate_detection=True, duplicate_window_s=600)
    assert not_ok(judge_queue(good, SETTINGS)) == {}
    assert not_ok(judge_queue(replace(good, sessions=False), SETTINGS)) == {"sessions": "failed"}
    assert not_ok(judge_queue(replace(good, duplicate_detection=False), SETTINGS)) == {"duplicate detection": "failed"}
    assert not_ok(judge_queue(replace(good, duplicate_window_s=20), SETTINGS)) == {"duplicate detection": "failed"}
    unseen = replace(good, sessions=None, duplicate_detection=None, unseen="the key may send only")
    assert not_ok(judge_queue(unseen, SETTINGS)) == {"sessions": "unknown", "duplicate detection": "unknown"}
    assert not_ok(judge_queue(QueueFacts("ns", exists=False), SETTINGS)) == {"queue invoicing": "failed"}


def test_a_container_with_another_key_or_conflict_policy_fails() -> None:
    good = CosmosFacts("https://a", write_regions=("A", "B"), database_exists=True, containers={"windows": CONTAINER})
    assert not_ok(judge_cosmos(good, SETTINGS)) == {}
    other = {"windows": ContainerFacts(("/meter",), "LastWriterWins", "/_ts")}
    assert not_ok(judge_cosmos(replace(good, containers=other), SETTINGS)) == {
        "windows: partition key": "failed",
        "windows: conflict policy": "failed",
    }
    assert not_ok(judge_cosmos(replace(good, containers={"windows": None}), SETTINGS)) == {
        "container windows": "failed"
    }
    assert not_ok(judge_cosmos(replace(good, write_regions=("A",)), SETTINGS)) == {"write regions": "note"}
    missing = replace(good, database_exists=False, containers={})
    assert not_ok(judge_cosmos(missing, SETTINGS)) == {"database meterline": "failed"}


# --- against what is really there -------------------------------------------------------------------------------------


async def test_the_local_stack_has_nothing_that_fails(stack: Stack) -> None:
    verdicts = await examine(stack.settings)
    assert not_ok(verdicts) == {"append time on usage": "note", "duplicate detection": "unknown"}
    assert find(verdicts, "sessions").found == "on (seen over AMQP)"
    assert find(verdicts, "write regions").found == "West Europe, North Europe"


async def test_wrong_keys_are_told_apart_from_services_that_are_away(stack: Stack) -> None:
    servicebus = (stack.settings.servicebus_connection_string or "").replace("SharedAccessKey=", "SharedAccessKey=x")
    wrong = replace(stack.settings, servicebus_connection_string=servicebus, cosmos_key="d3Jvbmc=")
    verdicts = {v.area: v for v in await examine(wrong) if v.status == "failed"}
    assert set(verdicts) == {"servicebus", "cosmos"}
    assert "refused the key" in verdicts["servicebus"].found
    assert "refused the key" in verdicts["cosmos"].found
    assert all(verdict.mend for verdict in verdicts.values())
    away = replace(
        stack.settings,
        kafka_bootstrap="127.0.0.1:1",
        servicebus_connection_string=f"Endpoint=sb://127.0.0.1:{free_port()};SharedAccessKeyName=a;SharedAccessKey=b"
        ";UseDevelopmentEmulator=true",
        cosmos_endpoint=f"http://127.0.0.1:{free_port()}",
    )
    failures = [verdict for verdict in await examine(away) if verdict.status == "failed"]
    assert [verdict.area for verdict in failures] == ["broker", "servicebus", "cosmos"]
    assert not any("refused the key" in verdict.found for verdict in failures)


async def test_what_is_missing_or_made_wrong_is_found(stack: Stack) -> None:
    async with CosmosClient(stack.settings.cosmos_endpoint, stack.settings.cosmos_key) as cosmos:
        database = cosmos.get_database_client(stack.settings.cosmos_database)
        await database.create_container("wrong", PartitionKey("/meter"))
    changed = replace(stack.settings, usage_topic="not-there", servicebus_queue="not-there", cosmos_container="wrong")
    verdicts = await examine(changed)
    assert {what for what, status in not_ok(verdicts).items() if status == "failed"} == {
        "topic not-there",
        "queue not-there",
        "wrong: partition key",
        "wrong: conflict policy",
    }
    assert (await probe_kafka(changed)).partitions.keys() == COUNTS.keys(), "looking for a topic has created it"


async def test_a_queue_without_sessions_is_seen_over_amqp(stack: Stack, tmp_path: Path) -> None:
    base = Settings(servicebus_queue="plain:no-sessions")
    async with Stack(tmp_path / "plain", only="servicebus", base=base) as other:
        facts = await probe_queue(replace(other.settings, servicebus_queue="plain"))
    assert (facts.exists, facts.sessions) == (True, False)


async def test_a_kafka_spoken_to_like_event_hubs_is_all_ok(kafka_sasl: KafkaCluster) -> None:
    await ensure_topics(kafka_sasl.settings, 4, 4)
    verdicts = judge_kafka(await probe_kafka(kafka_sasl.settings), kafka_sasl.settings)
    assert not_ok(verdicts) == {}
    assert find(verdicts, "append time on usage").found == "LogAppendTime (configuration)"
    wrong = replace(kafka_sasl.settings, eventhubs_connection_string=connection_string(kafka_sasl.sasl_port, "d3Jvbmc"))
    [verdict] = judge_kafka(await probe_kafka(wrong), wrong)
    assert verdict.status == "failed"
    assert "authentication failed" in verdict.found
    assert "d3Jvbmc" not in verdict.found + verdict.mend


async def test_a_usage_topic_with_producers_timestamps_fails(
    kafka_sasl: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(kafka_sasl.settings, usage_topic="create-time")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_sasl.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("create-time", 2, 1, topic_configs={"message.timestamp.type": "CreateTime"})])
    await admin.close()
    what = "append time on create-time"
    assert find(judge_kafka(await probe_kafka(settings), settings), what).found == "CreateTime (configuration)"

    async def not_supported(*_: object) -> None:
        return None

    monkeypatch.setattr("cli.probes._configs", not_supported)  # as Event Hubs may answer
    assert find(judge_kafka(await probe_kafka(settings), settings), what).status == "unknown"
    producer = AIOKafkaProducer(bootstrap_servers=kafka_sasl.bootstrap)
    await producer.start()
    await producer.send_and_wait("create-time", b"a", partition=1)
    await producer.stop()
    verdict = find(judge_kafka(await probe_kafka(settings), settings), what)
    assert (verdict.status, verdict.found) == ("failed", "CreateTime (newest record)")


QUEUE = """<entry xmlns="http://www.w3.org/2005/Atom"><title>invoicing</title><content type="application/xml">
<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
 xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><LockDuration>PT1M</LockDuration>
<RequiresDuplicateDetection>true</RequiresDuplicateDetection><RequiresSession>false</RequiresSession>
<DuplicateDetectionHistoryTimeWindow>PT10M</DuplicateDetectionHistoryTimeWindow></QueueDescription></content></entry>"""


@pytest.mark.parametrize("status", [200, 401, 404])
async def test_the_management_api_is_believed_and_where_it_may_not_be_asked_amqp_is(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def queue(request: web.Request) -> web.Response:
        return web.Response(status=status, text=QUEUE if status == 200 else "", content_type="application/xml")

    (tmp_path / "server.pem").write_text("".join(certificates(tmp_path / "ca.pem")))
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(tmp_path / "server.pem")
    # The SDK takes no CA for its management client: let aiohttp trust the test's, as if the system did.
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    app = web.Application()
    app.router.add_get("/{path:.*}", queue)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "localhost", port, ssl_context=serving).start()
    facts = await managed_queue(Settings(servicebus_connection_string=connection_string(port, "b")), "ns")
    await runner.cleanup()
    if status == 200:
        assert facts == QueueFacts("ns", None, True, False, True, 600.0, "management")
    elif status == 404:
        assert facts == QueueFacts("ns", exists=False, by="management")
    else:
        assert facts is None


# --- the command ------------------------------------------------------------------------------------------------------


async def test_the_command_prints_one_json_object_and_its_exit_code_tells(stack: Stack, tmp_path: Path) -> None:
    def run(*arguments: str, **changed: str) -> tuple[int, str]:
        environment = {**stack.environment, **changed}
        result = CliRunner().invoke(group, ["check", *arguments], env=environment)
        return result.exit_code, result.stdout

    code, output = await asyncio.to_thread(run, "--json")
    told = json.loads(output)
    assert (code, told["ok"]) == (0, True)
    assert {"area", "what", "status", "found", "mend"} == set(told["checks"][0])
    code, output = await asyncio.to_thread(run, "--json", METERLINE_SERVICEBUS_QUEUE="not-there")
    told = json.loads(output)
    assert (code, told["ok"]) == (1, False)
    [failure] = [verdict for verdict in told["checks"] if verdict["status"] == "failed"]
    assert "az servicebus queue create --name not-there" in failure["mend"]


def test_the_table_shows_every_verdict_and_below_it_what_to_do() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    mend = "a command that is longer than the console is wide " * 3
    show([Verdict("cosmos", "container [x]", "failed", "does not exist", mend.strip())], console)
    text = console.export_text()
    assert "Cosmos DB" in text
    assert text.count("container [x]") == 2
    assert mend.strip() in text
    assert "Nothing is in a worker's way" not in text
