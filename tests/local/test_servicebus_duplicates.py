"""Duplicate detection: a message id is stored once within the window, whatever its way in."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage

from local.servicebus.server import QueueConfig
from tests.local.servicebus_world import World, bodies, world

DETECTING = QueueConfig("once", requires_session=False, duplicate_detection_window_s=600)
CARELESS = QueueConfig("twice", requires_session=False, duplicate_detection_window_s=None)


def message(text: str, message_id: str | None) -> ServiceBusMessage:
    return ServiceBusMessage(text.encode(), message_id=message_id)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, DETECTING, CARELESS) as running:
        yield running


async def test_a_repeated_message_id_is_accepted_and_dropped(bus: World) -> None:
    async with bus.client.get_queue_sender("once") as sender:
        await sender.send_messages(message("first", "m-1"), timeout=10)
        await sender.send_messages(message("again", "m-1"), timeout=10)
    assert bodies(await bus.drain("once")) == [b"first"]


async def test_inside_a_batch_every_message_is_judged_by_its_own_id(bus: World) -> None:
    await bus.send("once", message("a", "m-1"), message("b", "m-2"), message("c", "m-1"))
    await bus.send("once", message("d", "m-1"), message("e", "m-3"))
    assert bodies(await bus.drain("once")) == [b"a", b"b", b"e"]


async def test_an_id_is_remembered_after_its_message_was_completed(bus: World) -> None:
    await bus.send("once", message("a", "m-1"))
    assert len(await bus.drain("once")) == 1
    await bus.send("once", message("a", "m-1"))
    assert await bus.drain("once") == []


async def test_an_id_is_forgotten_when_its_window_has_passed_and_a_repeat_does_not_prolong_it(bus: World) -> None:
    await bus.send("once", message("a", "m-1"))
    bus.later(599)
    await bus.send("once", message("b", "m-1"))
    bus.later(2)
    await bus.send("once", message("c", "m-1"))
    assert bodies(await bus.drain("once")) == [b"a", b"c"]


async def test_what_is_forgotten_does_not_stay_on_disk(bus: World) -> None:
    await bus.send("once", *[message("a", f"m-{number}") for number in range(50)])
    bus.later(700)
    await bus.send("once", message("b", "m-50"))
    store = bus.server._store
    assert store is not None
    assert store._db.execute("SELECT message_id FROM history").fetchall() == [("m-50",)]


async def test_a_scheduled_message_counts_as_seen(bus: World) -> None:
    async with bus.client.get_queue_sender("once") as sender:
        at = datetime.datetime.fromtimestamp(bus.clock.now + 60, datetime.UTC)
        await sender.schedule_messages(message("scheduled", "m-1"), at)
        await sender.send_messages(message("now", "m-1"), timeout=10)
    bus.later(61)
    assert bodies(await bus.drain("once")) == [b"scheduled"]


async def test_messages_without_an_id_are_never_duplicates(bus: World) -> None:
    await bus.send("once", message("a", None), message("a", None))
    assert len(await bus.drain("once")) == 2


async def test_a_queue_without_detection_stores_repeats(bus: World) -> None:
    await bus.send("twice", message("a", "m-1"), message("a", "m-1"))
    assert len(await bus.drain("twice")) == 2
