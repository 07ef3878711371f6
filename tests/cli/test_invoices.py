"""`invoices` shows each message once and completes it; `--peek` leaves everything; `--count` takes no more than it shows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from click.testing import CliRunner

from cli.invoices import line
from cli.main import group
from local.servicebus.server import QueueConfig, ServiceBusConfig, ServiceBusServer

ROOT = Path(__file__).resolve().parents[2]
KEY = "bG9jYWwgdGVzdCBrZXkgMDEyMzQ1Njc4OQ=="


def document(subject: str, revision: int, **changes: Any) -> dict[str, Any]:
    return {
        "window_id": f"tokens~{subject}",
        "meter": "tokens",
        "subject": subject,
        "group": {"model": "m"},
        "window_start": "2026-03-01T12:00:00Z",
        "window_size": "PT1M",
        "revision": revision,
        "value": "12.5",
        "delta": "-2.5",
        "events": 3,
        "reason": "late",
        **changes,
    }


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[str]:
    """A queue with two sessions of three messages each."""
    server = ServiceBusServer(ServiceBusConfig(tmp_path, "meterline", KEY, (QueueConfig("invoicing"),)))
    await server.start()
    connection = (
        f"Endpoint=sb://127.0.0.1:{server.port};SharedAccessKeyName=meterline;SharedAccessKey={KEY}"
        ";UseDevelopmentEmulator=true"
    )
    async with ServiceBusClient.from_connection_string(connection) as client:
        async with client.get_queue_sender("invoicing") as sender:
            for revision in (1, 2, 3):
                for subject in ("a", "b"):
                    body = json.dumps(document(subject, revision)).encode()
                    await sender.send_messages(
                        ServiceBusMessage(body, session_id=subject, message_id=f"{subject}:{revision}")
                    )
    yield connection
    await server.close()


async def run(connection: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "METERLINE_SERVICEBUS_CONNECTION_STRING": connection}
    command = [sys.executable, str(ROOT / "app.py"), "invoices", *options]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def revisions(shown: subprocess.CompletedProcess[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for text in shown.stdout.splitlines():
        body = json.loads(text)
        found.setdefault(body["subject"], []).append(body["revision"])
    return found


async def test_peek_shows_everything_in_order_and_leaves_it(connection: str) -> None:
    for _ in range(2):
        shown = await run(connection, "--json", "--peek")
        assert shown.returncode == 0, shown.stderr
        assert revisions(shown) == {"a": [1, 2, 3], "b": [1, 2, 3]}


async def test_count_takes_as_many_as_it_shows_and_no_more(connection: str) -> None:
    shown = await run(connection, "--json", "--count", "2")
    taken = revisions(shown)
    assert list(taken.values()) == [[1, 2]]
    left = revisions(await run(connection, "--json", "--peek"))
    (subject,) = taken
    assert left[subject] == [3]
    assert sorted(map(len, left.values())) == [1, 3]


async def test_a_wrong_queue_is_told_with_what_to_do(connection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_SERVICEBUS_QUEUE", "other")
    shown = await run(connection, "--peek")
    assert shown.returncode == 2
    assert "other" in shown.stderr and "to do:" in shown.stderr


def test_no_service_bus_is_told_with_the_settings_to_give() -> None:
    shown = CliRunner().invoke(group, ["invoices"], env={"METERLINE_SERVICEBUS_CONNECTION_STRING": ""})
    assert shown.exit_code == 2
    assert "METERLINE_SERVICEBUS_CONNECTION_STRING" in shown.stderr


def test_a_line_shows_what_matters() -> None:
    text = line(document("a", 2)).plain
    assert all(part in text for part in ("a ", "tokens", "model=m", "12.5 (-2.5)", "r2 late", "3 events"))
    assert "(" not in line(document("a", 1)).plain
