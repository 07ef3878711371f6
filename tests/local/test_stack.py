"""One command's worth of stack: everything answers, its settings are complete, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from azure.cosmos.aio import CosmosClient
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubProducerClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from dotenv import dotenv_values

import settings as configuration
from local.broker import answers
from local.foreground import write_env_file
from local.ports import is_free
from local.stack import Stack
from local.topics import partition_counts
from schemas.errors import BrokerError, ConfigurationError
from settings import Settings
from tests.terminal import as_at_a_terminal

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, sys
from pathlib import Path
from local.foreground import serve
from local.stack import Stack

async def ready(stack):
    print(*(child.pid for child in stack.processes.values()), flush=True)

data = Path(sys.argv[1])
sys.exit(asyncio.run(serve(Stack(data), data / "stack.env", ready)))
"""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path / "data", usage_partitions=3, partials_partitions=2) as running:
        yield running


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Foreground:
    """`serve` in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.env_file = data / "stack.env"
        with as_at_a_terminal():
            self.process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(data)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdout is not None
        self.children = [int(pid) for pid in self.process.stdout.readline().split()]
        assert len(self.children) == 3, self.process.communicate()[1]

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


async def test_every_part_answers_the_sdks_with_the_settings_it_gives(stack: Stack) -> None:
    settings = stack.settings
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    counts = await partition_counts(admin)
    await admin.close()
    assert counts == {"usage": 3, "partials": 2, "metering-state": 3, "closing-state": 2, "dead-letters": 1}

    async with ServiceBusClient.from_connection_string(settings.servicebus_connection_string or "") as client:
        async with client.get_queue_sender(settings.servicebus_queue) as sender:
            await sender.send_messages(ServiceBusMessage("{}", message_id="w:1", session_id="acme"), timeout=10)
        async with client.get_queue_receiver(settings.servicebus_queue, session_id="acme") as receiver:
            messages = await receiver.receive_messages(max_wait_time=10)
            assert [message.message_id for message in messages] == ["w:1"]

    for endpoint in stack.cosmos_endpoints:
        async with CosmosClient(endpoint, settings.cosmos_key) as cosmos:
            database = cosmos.get_database_client(settings.cosmos_database)
            for name in (settings.cosmos_container, settings.cosmos_revisions_container):
                found = await database.get_container_client(name).read()
                assert found["partitionKey"]["paths"] == ["/subject"]
                assert found["conflictResolutionPolicy"]["mode"] == "LastWriterWins"
                assert found["conflictResolutionPolicy"]["conflictResolutionPath"] == "/revision"


async def test_what_an_azure_eventhub_producer_sends_is_in_the_usage_topic(stack: Stack) -> None:
    client = EventHubProducerClient.from_connection_string(
        stack.settings.eventhubs_amqp_connection_string or "", eventhub_name=stack.settings.usage_topic
    )
    async with client:
        await client.send_batch([EventData(b"over amqp")], partition_id="1")
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(bootstrap_servers=stack.settings.kafka_bootstrap)
    await consumer.start()
    consumer.assign([TopicPartition(stack.settings.usage_topic, 1)])
    consumer.seek(TopicPartition(stack.settings.usage_topic, 1), 0)
    assert (await consumer.getone()).value == b"over amqp"
    await consumer.stop()


@pytest.mark.parametrize(("detection", "arrive"), [(True, 1), (False, 2)])
async def test_every_copy_of_a_message_arrives_where_duplicates_are_not_looked_for(
    tmp_path: Path, detection: bool, arrive: int
) -> None:
    async with Stack(tmp_path, only="servicebus", duplicate_detection=detection) as stack:
        settings = stack.settings
        async with ServiceBusClient.from_connection_string(settings.servicebus_connection_string or "") as client:
            async with client.get_queue_sender(settings.servicebus_queue) as sender:
                for _ in range(2):
                    await sender.send_messages(ServiceBusMessage("{}", message_id="w:1", session_id="acme"), timeout=10)
            async with client.get_queue_receiver(settings.servicebus_queue, session_id="acme") as receiver:
                assert len(await receiver.peek_messages(10)) == arrive


async def test_the_env_file_is_private_and_loads_into_the_same_settings(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    write_env_file(path, stack)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert configuration.load({}, path) == stack.settings
    assert "METERLINE_METERS" not in dotenv_values(path)


async def test_the_stack_wins_over_a_deployment_in_the_working_directory(stack: Stack, tmp_path: Path) -> None:
    dotenv = tmp_path / "dotenv"
    dotenv.write_text(
        "METERLINE_EVENTHUBS_CONNECTION_STRING=Endpoint=sb://real/;SharedAccessKeyName=a;SharedAccessKey=b\n"
    )
    assert configuration.load(stack.environment, dotenv).eventhubs() is None


async def test_ports_and_keys_stay_with_the_data_directory(tmp_path: Path) -> None:
    async with Stack(tmp_path, only="cosmos") as first:
        before = first.settings
    async with Stack(tmp_path, only="cosmos") as second:
        assert second.settings == before
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    assert before.cosmos_key
    assert before.cosmos_key not in repr(before)


async def test_two_stacks_cannot_share_a_data_directory(tmp_path: Path) -> None:
    async with Stack(tmp_path, only="broker"):
        with pytest.raises(ConfigurationError, match=f"already .process {os.getpid()}.*another directory"):
            await Stack(tmp_path, only="broker").start()
    async with Stack(tmp_path, only="broker"):
        pass


@pytest.mark.parametrize("part", ["broker", "servicebus", "cosmos"])
async def test_only_one_part_starts_when_asked(tmp_path: Path, part: str) -> None:
    async with Stack(tmp_path, only=part) as stack:
        assert list(stack.processes) == [part]
        told = {
            "broker": stack.settings.kafka_bootstrap,
            "servicebus": stack.settings.servicebus_connection_string,
            "cosmos": stack.settings.cosmos_endpoint,
        }
        assert [name for name, value in told.items() if value] == [part]


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no part 'redis' -> one of broker, servicebus, cosmos"):
        Stack(tmp_path, only="redis")


async def test_a_kafka_that_is_there_is_used_instead_of_the_broker(stack: Stack, tmp_path: Path) -> None:
    theirs = stack.settings.kafka_bootstrap
    names = Settings(usage_topic="their-usage", eventhubs_connection_string="of a deployment")
    async with Stack(tmp_path / "other", only=("broker", "servicebus"), kafka=theirs, base=names) as other:
        assert list(other.processes) == ["servicebus"]
        assert other.settings.kafka_bootstrap == theirs
        assert other.settings.eventhubs() is None
        admin = AIOKafkaAdminClient(bootstrap_servers=theirs)
        await admin.start()
        assert (await partition_counts(admin))["their-usage"] == 4
        await admin.close()


async def test_a_restarted_part_has_kept_port_and_data(stack: Stack) -> None:
    document = {"id": "w", "subject": "acme", "revision": 1}
    settings = stack.settings
    async with CosmosClient(settings.cosmos_endpoint, settings.cosmos_key) as cosmos:
        container = cosmos.get_database_client(settings.cosmos_database).get_container_client(settings.cosmos_container)
        await container.create_item(document)
        await stack.restart("cosmos", kill=True)
        assert (await container.read_item("w", "acme"))["revision"] == 1
    await stack.restart("broker")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    assert len(await partition_counts(admin)) == 5
    await admin.close()


async def test_a_killed_part_is_reported_with_its_name_and_how_it_ended(stack: Stack) -> None:
    waiting = asyncio.create_task(stack.wait())
    await stack.kill("servicebus")
    dead = await waiting
    assert dead.name == "servicebus"
    assert dead.obituary().startswith("servicebus was ended by SIGKILL; the end of ")
    assert '"ready": true' in dead.obituary()


async def test_a_part_that_cannot_start_leaves_no_other_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cosmos").write_text("a file where a directory must be")
    stack = Stack(tmp_path)
    with pytest.raises(BrokerError, match=r"cosmos ended with exit code"):
        await stack.start()
    assert len(stack.processes) == 3
    assert not any(child.running for child in stack.processes.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_0_and_nothing_is_left(tmp_path: Path, number: int) -> None:
    foreground = Foreground(tmp_path)
    assert foreground.env_file.is_file()
    ports = [*json.loads((tmp_path / "stack.json").read_text())["ports"].values()]
    assert not any(is_free(port) for port in ports)
    assert foreground.end(number) == (0, "")
    assert not any(alive(pid) for pid in foreground.children)
    wait_for(lambda: all(is_free(port) for port in ports), "its ports are free again")


def test_the_death_of_a_part_ends_it_with_1_and_says_which(tmp_path: Path) -> None:
    foreground = Foreground(tmp_path)
    os.kill(foreground.children[2], signal.SIGKILL)
    _, errors = foreground.process.communicate(timeout=30)
    assert foreground.process.returncode == 1
    assert "error: cosmos was ended by SIGKILL; the end of " in errors
    assert not any(alive(pid) for pid in foreground.children)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help against orphans is Linux'")
def test_children_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    foreground = Foreground(tmp_path)
    foreground.end(signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in foreground.children), "its children are gone")


async def test_the_env_file_comes_only_once_everything_answers(tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), env=environment, stdout=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "stack.env").exists():
            assert process.returncode is None
            await asyncio.sleep(0.01)
        settings = configuration.load({}, tmp_path / "stack.env")
        assert await answers(settings.kafka_bootstrap or "")
        async with CosmosClient(settings.cosmos_endpoint, settings.cosmos_key) as cosmos:
            await cosmos.get_database_client(settings.cosmos_database).read()
    finally:
        process.terminate()
        await process.wait()
