"""A partition's effects: what does not come back is an error in time, never a wait without end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from schemas.errors import BrokerError
from settings import Settings
from tables.effects import ReadCommitted
from transport import broker
from transport.broker import Broker
from transport.membership import Membership


class Thread:
    """A consumer thread whose coordinator is away, as aiokafka waits for it."""

    async def committed(self, _topic: str, _partition: int) -> int | None:
        await asyncio.Event().wait()
        raise AssertionError("never set")


async def test_a_coordinator_that_stays_away_ends_a_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "COMMITTED_S", 0.01)
    thread: Any = Thread()
    settings = Settings(kafka_bootstrap="127.0.0.1:1")
    performer = Broker(settings, lambda: thread).performer("usage", 0, Membership(1, 1, "me"))
    with pytest.raises(BrokerError, match="the committed offset could not be read: TimeoutError"):
        await asyncio.wait_for(performer.perform(ReadCommitted()), 10)
