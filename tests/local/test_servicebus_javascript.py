"""Another SDK as a witness: Microsoft's JavaScript client, unmodified, sees what it would see on Azure."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from local.servicebus.server import ServiceBusServer
from tests.local.servicebus_world import config
from tests.requirements import need

JAVASCRIPT = Path(__file__).resolve().parents[1] / "js"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the witness saw, one scenario for all tests."""
    node = shutil.which("node")
    need(node is not None, "node, for the JavaScript SDK")
    need((JAVASCRIPT / "node_modules" / "@azure" / "service-bus").is_dir(), "`npm ci` in tests/js")
    assert node is not None
    return asyncio.run(_play(node, tmp_path_factory.mktemp("javascript")))


async def _play(node: str, data_dir: Path) -> dict[str, Any]:
    server = ServiceBusServer(config(data_dir))
    await server.start()
    try:
        process = await asyncio.create_subprocess_exec(
            node,
            "witness.mjs",
            cwd=JAVASCRIPT,
            env={**os.environ, "METERLINE_WITNESS_CONNECTION": server.connection_string},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0, err.decode()
        told: dict[str, Any] = json.loads(out)
        return told
    finally:
        await server.close()


def test_javascript_receives_what_it_sent_in_order_without_the_duplicate(seen: dict[str, Any]) -> None:
    assert [message["body"] for message in seen["received"]] == ["single", {"n": 1}, {"n": 2}, {"n": 3}]
    assert [message["messageId"] for message in seen["received"]] == ["m-0", "m-1", "m-2", "m-3"]
    assert seen["received"][0]["properties"] == {"n": 1}
    assert [message["sequence"] for message in seen["received"]] == [1, 2, 3, 4]
    assert seen["maxBatch"] == 256 * 1024


def test_javascript_peeks_also_what_is_scheduled_and_not_what_was_cancelled(seen: dict[str, Any]) -> None:
    assert [message["body"] for message in seen["peeked"]] == ["single", {"n": 1}, {"n": 2}, {"n": 3}, "later"]
    assert seen["scheduled"] == [5]


def test_javascript_settles_in_every_way(seen: dict[str, Any]) -> None:
    assert (seen["again"]["body"], seen["again"]["deliveryCount"]) == ({"n": 2}, 1)
    assert seen["again"]["properties"] == {"tried": "once"}
    assert seen["deferred"]["body"] == {"n": 3}
    assert seen["empty"] == 0
    dead = seen["dead"]
    assert (dead["body"], dead["reason"], dead["description"]) == ({"n": 1}, "unreadable", "no such customer")
    assert dead["properties"]["ticket"] == "T-1" and dead["sessionId"] == "a"
    assert seen["lockRenewed"] is True


def test_javascript_holds_sessions(seen: dict[str, Any]) -> None:
    assert seen["state"] == "state" and seen["renewed"] is True
    assert seen["busy"]["code"] == "SessionCannotBeLocked"
    assert seen["next"] == "b" and [message["body"] for message in seen["deleted"]] == ["next"]


def test_javascript_is_refused_in_azures_words(seen: dict[str, Any]) -> None:
    assert "The SessionId was not set on a message" in seen["noSession"]["message"]
    assert seen["tooLarge"]["code"] == "MessageSizeExceeded"
    assert "requires sessions to create a non-sessionful message receiver" in seen["plainReceiver"]["message"]
    assert seen["unknown"]["code"] == "MessagingEntityNotFound"
    assert seen["wrongKey"]["code"] == "UnauthorizedAccess"
    assert "InvalidSignature: The token has an invalid signature" in seen["wrongKey"]["message"]


def test_javascript_subscribes_and_completes_by_itself(seen: dict[str, Any]) -> None:
    assert seen["subscribed"] == [1, 2, 3] and seen["left"] == 0
