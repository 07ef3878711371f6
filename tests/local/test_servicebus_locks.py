"""Locks and delivery counts: a message is held by one receiver at a time, and nobody holds it for ever."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import MessageLockLostError

from tests.local.servicebus_world import SHORT, World, bodies, world


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        await running.send("plain", ServiceBusMessage(b"one"))
        yield running


async def test_a_locked_message_says_until_when_and_nobody_else_gets_it(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as holder:
        (message,) = await holder.receive_messages(1, max_wait_time=5)
        until = datetime.datetime.fromtimestamp(int(bus.clock.now * 1000) / 1000 + 60, datetime.UTC)
        assert message.locked_until_utc == until
        assert await bus.drain("plain") == []


async def test_an_abandoned_message_comes_again_with_its_count_and_changed_properties(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        assert message.delivery_count == 0
        await receiver.abandon_message(message)
        (again,) = await receiver.receive_messages(1, max_wait_time=5)
        assert again.delivery_count == 1 and again.sequence_number == message.sequence_number
        assert again.lock_token != message.lock_token


async def test_an_expired_lock_gives_the_message_to_another_and_counts(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as slow:
        (message,) = await slow.receive_messages(1, max_wait_time=5)
        bus.later(59)
        assert await bus.drain("plain") == []
        bus.later(2)
        (again,) = await bus.drain("plain")
        assert again.delivery_count == 1
        with pytest.raises(MessageLockLostError, match="The lock supplied is invalid"):
            await slow.complete_message(message)


async def test_a_renewed_lock_holds_longer(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        bus.later(50)
        until = await receiver.renew_message_lock(message)
        assert until == datetime.datetime.fromtimestamp(int(bus.clock.now * 1000) / 1000 + 60, datetime.UTC)
        bus.later(50)
        await receiver.complete_message(message)
    assert await bus.drain("plain") == []


async def test_a_lost_lock_cannot_be_renewed(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        bus.later(61)
        with pytest.raises(MessageLockLostError):
            await receiver.renew_message_lock(message)


async def test_the_tenth_failed_delivery_makes_a_dead_letter_that_says_why(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        for count in range(10):
            (message,) = await receiver.receive_messages(1, max_wait_time=5)
            assert message.delivery_count == count
            if count % 2:
                await receiver.abandon_message(message)
            else:
                bus.later(61)
        assert await receiver.receive_messages(1, max_wait_time=SHORT) == []
    (dead,) = await bus.drain("plain", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    assert bodies([dead]) == [b"one"] and dead.delivery_count == 10
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert dead.dead_letter_error_description == "Message could not be consumed after 10 delivery attempts."
    assert dead.dead_letter_source == "plain"


async def test_a_closed_receiver_gives_its_messages_back_uncounted(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        await receiver.receive_messages(1, max_wait_time=5)
    (message,) = await bus.drain("plain")
    assert message.delivery_count == 0


async def test_what_a_receiver_prefetched_and_never_looked_at_comes_back_uncounted(bus: World) -> None:
    await bus.send("plain", *[ServiceBusMessage(b"%d" % number) for number in range(10)])
    async with bus.client.get_queue_receiver("plain", prefetch_count=10) as receiver:
        await receiver.receive_messages(1, max_wait_time=5)
    messages = await bus.drain("plain")
    assert len(messages) == 11 and {message.delivery_count for message in messages} == {0}
