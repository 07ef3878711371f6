"""Usage is sent until it is acknowledged, as often as its sender allows, and never lost in silence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from schemas.errors import SendFailed
from settings import Settings
from transport.sending import UsageProducer


class Client:
    """A client that fails as it is told, once per send: at once, later, or not at all; `log` is what it took."""

    def __init__(self, *failures: str) -> None:
        self._failures = list(failures)
        self.log: list[bytes] = []

    async def send(self, _topic: str, value: bytes, **_: Any) -> asyncio.Future[None]:
        failure = self._failures.pop(0) if self._failures else ""
        if failure == "at once":
            raise KafkaTimeoutError
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.log.append(value)
        if failure:
            acknowledged.set_exception(KafkaTimeoutError())
        else:
            acknowledged.set_result(None)
        return acknowledged


def producer(client: Client, resends: int) -> UsageProducer:
    made = UsageProducer(Settings(kafka_bootstrap="127.0.0.1:1"), resends=resends)
    made._producer = client
    return made


@pytest.mark.parametrize("failures", [("later",), ("at once",), ("later", "", "at once"), ("at once", "later")])
async def test_what_was_not_acknowledged_is_sent_again(failures: tuple[str, ...]) -> None:
    client = Client(*failures)
    sender = producer(client, resends=2)
    await sender.send(0, None, b"a")
    await sender.send(0, None, b"b")
    await sender.flush()
    assert set(client.log) == {b"a", b"b"}
    assert client.log[-1] == (b"a" if "later" in failures else b"b"), "a record sent again comes behind the others"


@pytest.mark.parametrize("failure", ["at once", "later"])
async def test_after_the_last_time_it_fails_aloud(failure: str) -> None:
    for resends in (0, 2):
        sender = producer(Client(*[failure] * (resends + 1)), resends)
        with pytest.raises(SendFailed, match="a record was not acknowledged"):
            await sender.send(0, None, b"a")
            await sender.flush()
