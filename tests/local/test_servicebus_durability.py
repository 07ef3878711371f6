"""What was acknowledged survives: a restart, a kill -9, and a disk that fails tells nobody a lie."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError

from local.servicebus.__main__ import KEY_VARIABLE
from local.servicebus.server import ServiceBusServer
from tests.local.servicebus_world import KEY, KEY_NAME, Clock, bodies, body, client_of, config, hurried_sdk, world

ROOT = Path(__file__).resolve().parents[2]


async def test_a_restart_brings_back_messages_counts_deferrals_dead_letters_states_and_history(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock) as bus:
        await bus.send("plain", *[ServiceBusMessage(b"%d" % n, message_id=f"m-{n}") for n in range(4)])
        async with bus.client.get_queue_receiver("plain") as receiver:
            messages = await receiver.receive_messages(4, max_wait_time=5)
            while len(messages) < 4:
                messages += await receiver.receive_messages(4, max_wait_time=5)
            await receiver.complete_message(messages[0])
            await receiver.abandon_message(messages[1])
            await receiver.defer_message(messages[2])
            await receiver.dead_letter_message(messages[3], reason="why", error_description="because")
        async with bus.client.get_queue_receiver("invoicing", session_id="s") as session:
            await session.session.set_state(b"half way")
    async with world(tmp_path, clock=clock) as bus:
        await bus.send("plain", *[ServiceBusMessage(b"repeat", message_id=f"m-{n}") for n in range(4)])
        async with bus.client.get_queue_receiver("plain") as receiver:
            seen = await receiver.peek_messages(10, sequence_number=1)
            assert [(body(m), m.state, m.delivery_count) for m in seen] == [
                (b"1", ServiceBusMessageState.ACTIVE, 1),
                (b"2", ServiceBusMessageState.DEFERRED, 0),
            ]
        (dead,) = await bus.drain("plain", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("why", "because")
        async with bus.client.get_queue_receiver("invoicing", session_id="s") as session:
            assert await session.session.get_state() == b"half way"


async def test_sequence_numbers_are_never_given_twice_whatever_was_removed(tmp_path: Path) -> None:
    clock = Clock()
    for expected in (1, 2, 3):
        async with world(tmp_path, clock=clock) as bus:
            await bus.send("plain", ServiceBusMessage(b"x", message_id=f"m-{expected}"))
            assert [message.sequence_number for message in await bus.drain("plain")] == [expected]


async def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await ServiceBusServer(config(tmp_path)).start()


async def test_when_the_disk_fails_nothing_is_acknowledged_and_the_server_stops(tmp_path: Path) -> None:
    async with world(tmp_path) as bus:
        async with bus.client.get_queue_sender("plain") as sender:
            store = bus.server._store
            assert store is not None

            def full() -> None:
                raise sqlite3.OperationalError("database or disk is full")

            store.commit = full  # type: ignore[method-assign]
            with pytest.raises(ServiceBusError):
                await sender.send_messages(ServiceBusMessage(b"x"), timeout=5)
        await asyncio.wait_for(bus.server.stopped(), 5)
        assert isinstance(bus.server.failure, sqlite3.OperationalError)
    async with world(tmp_path) as bus:
        assert await bus.drain("plain") == []


async def test_the_commit_comes_before_every_word(tmp_path: Path) -> None:
    """At each write to a socket the store has no open transaction."""
    async with world(tmp_path) as bus:
        store = bus.server._store
        assert store is not None
        open_at_write: list[bool] = []
        async with bus.client.get_queue_sender("plain") as sender:
            for connection in bus.server._connections:
                flush = connection.flush

                def watched(flush=flush) -> None:  # type: ignore[no-untyped-def]
                    open_at_write.append(store._open)
                    flush()

                connection.flush = watched  # type: ignore[method-assign]
            for number in range(10):
                await sender.send_messages(ServiceBusMessage(b"%d" % number), timeout=5)
        assert len(open_at_write) >= 10 and not any(open_at_write)


# --- as a process ------------------------------------------------------------------------------------------------------


@contextmanager
def process(data_dir: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "local.servicebus", "--data-dir", str(data_dir), "--port", str(port)]
    command += ["--key-name", KEY_NAME, "--queue", "invoicing", "--queue", "plain:no-sessions"]
    environment = {**os.environ, KEY_VARIABLE: KEY}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line, running.stderr.read() if running.stderr else ""
            told = json.loads(line)
            assert told == {"ready": True, "service": "servicebus", "port": told["port"]}
            yield running, told["port"]
        finally:
            if running.poll() is None:
                running.kill()
            running.communicate()


def connection_string(port: int) -> str:
    return (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY};"
        "UseDevelopmentEmulator=true;"
    )


async def test_after_a_kill_everything_acknowledged_is_there_once_and_resends_are_dropped(tmp_path: Path) -> None:
    acknowledged: list[int] = []

    async def keep_sending(port: int) -> None:
        async with client_of(connection_string(port)) as client, client.get_queue_sender("plain") as sender:
            for start in range(0, 1_000_000, 20):
                numbers = range(start, start + 20)
                batch = [ServiceBusMessage(b"%d" % n, message_id=f"m-{n}") for n in numbers]
                await sender.send_messages(batch, timeout=5)
                acknowledged.extend(numbers)

    with hurried_sdk():
        with process(tmp_path) as (running, port):
            sending = asyncio.create_task(keep_sending(port))
            while len(acknowledged) < 1000:
                await asyncio.sleep(0.01)
                assert not sending.done(), sending.exception()
            running.send_signal(signal.SIGKILL)
            with pytest.raises(ServiceBusError):
                await sending
        with process(tmp_path) as (_, port):
            async with client_of(connection_string(port)) as client:
                last = acknowledged[-1] + 41  # what was on its way is sent again, as a producer would
                async with client.get_queue_sender("plain") as sender:
                    for start in range(0, last, 20):
                        numbers = range(start, min(start + 20, last))
                        batch = [ServiceBusMessage(b"%d" % n, message_id=f"m-{n}") for n in numbers]
                        await sender.send_messages(batch, timeout=5)
                got: list[bytes] = []
                async with client.get_queue_receiver("plain") as receiver:
                    while len(got) < last:
                        batch_got = await receiver.receive_messages(200, max_wait_time=10)
                        assert batch_got
                        got += bodies(batch_got)
                        for message in batch_got:
                            await receiver.complete_message(message)
                    assert await receiver.receive_messages(1, max_wait_time=0.3) == []
    assert got == [b"%d" % number for number in range(last)]


async def test_a_completion_that_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    with hurried_sdk():
        with process(tmp_path) as (running, port):
            async with client_of(connection_string(port)) as client:
                async with client.get_queue_sender("invoicing") as sender:
                    await sender.send_messages([ServiceBusMessage(b"%d" % n, session_id="s") for n in range(2)])
                async with client.get_queue_receiver("invoicing", session_id="s") as receiver:
                    (first,) = await receiver.receive_messages(1, max_wait_time=5)
                    await receiver.complete_message(first)
                    running.send_signal(signal.SIGKILL)
                    running.wait()
        with process(tmp_path) as (_, port):
            async with client_of(connection_string(port)) as client:
                async with client.get_queue_receiver("invoicing", session_id="s") as receiver:
                    assert bodies(await receiver.receive_messages(5, max_wait_time=5)) == [b"1"]


def test_the_process_ends_cleanly_on_sigterm_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    with process(tmp_path) as (running, _):
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=10)
    assert running.returncode == 0 and out == "" and KEY not in err


def test_the_process_says_what_is_wrong_and_does_not_start(tmp_path: Path) -> None:
    def run(*arguments: str, key: str = KEY) -> tuple[int, str]:
        base = [sys.executable, "-m", "local.servicebus", "--data-dir", str(tmp_path), "--port", "0"]
        done = subprocess.run(
            [*base, "--key-name", KEY_NAME, *arguments],
            cwd=ROOT,
            env={**os.environ, KEY_VARIABLE: key},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    code, told = run(key="")
    assert code == 2 and KEY_VARIABLE in told
    assert run("--queue", "a:fast")[0] == 2
    assert run("--event-hub", "usage=usage")[0] == 2
    with process(tmp_path):
        code, told = run("--queue", "plain")
    assert code == 1 and "locked" in told
