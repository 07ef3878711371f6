"""Sessions: one receiver at a time, in order, with a state; and a queue that wants them refuses everything else."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.local.servicebus_world import SHORT, World, bodies, client_of, world


def message(text: str, session: str) -> ServiceBusMessage:
    return ServiceBusMessage(text.encode(), session_id=session, message_id=f"{session}/{text}")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


async def test_a_session_receiver_gets_only_its_session_in_order(bus: World) -> None:
    await bus.send("invoicing", *[message(str(number), "ab"[number % 2]) for number in range(20)])
    assert bodies(await bus.drain("invoicing", session_id="a")) == [b"%d" % number for number in range(0, 20, 2)]
    assert bodies(await bus.drain("invoicing", session_id="b")) == [b"%d" % number for number in range(1, 20, 2)]


async def test_the_next_available_session_is_the_one_that_has_waited_longest(bus: World) -> None:
    await bus.send("invoicing", message("1", "first"), message("2", "second"))
    async with bus.client.get_queue_receiver("invoicing", session_id=NEXT_AVAILABLE_SESSION) as one:
        assert one.session.session_id == "first"
        async with bus.client.get_queue_receiver("invoicing", session_id=NEXT_AVAILABLE_SESSION) as two:
            assert two.session.session_id == "second"


async def test_the_next_available_session_may_come_while_one_waits(bus: World) -> None:
    receiver = bus.client.get_queue_receiver("invoicing", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20)
    opening = asyncio.create_task(receiver.__aenter__())
    await _until_waiting(bus)
    await bus.send("invoicing", message("1", "new"))
    await opening
    assert receiver.session.session_id == "new"
    assert bodies(await receiver.receive_messages(1, max_wait_time=10)) == [b"1"]
    await receiver.close()


async def test_no_free_session_is_a_timeout(bus: World) -> None:
    await bus.send("invoicing", message("1", "busy"))
    async with bus.client.get_queue_receiver("invoicing", session_id="busy"):
        waits = bus.client.get_queue_receiver("invoicing", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5)
        opening = asyncio.create_task(waits.__aenter__())
        await _until_waiting(bus)
        bus.later(6)
        with pytest.raises(OperationTimeoutError):
            await opening


async def _until_waiting(bus: World) -> None:
    while not any(bus.server._waiters.values()):
        await asyncio.sleep(0.01)


async def test_a_session_that_is_held_cannot_be_locked_by_another(bus: World) -> None:
    async with bus.client.get_queue_receiver("invoicing", session_id="s"):
        with pytest.raises(SessionCannotBeLockedError, match="The requested session 's' cannot be accepted"):
            async with bus.client.get_queue_receiver("invoicing", session_id="s"):
                pass
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        assert receiver.session.session_id == "s"


async def test_a_dead_connection_frees_its_session_and_messages_uncounted(bus: World) -> None:
    await bus.send("invoicing", message("1", "s"))
    async with client_of(bus.server.connection_string) as other:
        async with other.get_queue_receiver("invoicing", session_id="s") as receiver:
            await receiver.receive_messages(1, max_wait_time=5)
            (link,) = [link for links in bus.server._receivers.values() for link in links]
            link.session.connection.abort()
            await asyncio.sleep(0.05)
            (again,) = await bus.drain("invoicing", session_id="s")
            assert again.delivery_count == 0


async def test_an_expired_session_lock_counts_its_messages_and_is_told(bus: World) -> None:
    await bus.send("invoicing", message("1", "s"), message("2", "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as slow:
        (held,) = await slow.receive_messages(1, max_wait_time=5)
        bus.later(61)
        assert [(m.delivery_count, b"".join(m.body)) for m in await bus.drain("invoicing", session_id="s")] == [
            (1, b"1"),
            (0, b"2"),
        ]
        with pytest.raises(SessionLockLostError):
            await slow.complete_message(held)
        with pytest.raises(SessionLockLostError):
            await slow.session.renew_lock()


async def test_a_renewed_session_lock_holds_longer_and_so_do_its_messages(bus: World) -> None:
    await bus.send("invoicing", message("1", "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        (held,) = await receiver.receive_messages(1, max_wait_time=5)
        bus.later(50)
        until = await receiver.session.renew_lock()
        assert until == datetime.datetime.fromtimestamp(int(bus.clock.now * 1000) / 1000 + 60, datetime.UTC)
        bus.later(50)
        await receiver.complete_message(held)
    assert await bus.drain("invoicing", session_id="s") == []


async def test_an_abandoned_message_goes_before_its_followers(bus: World) -> None:
    await bus.send("invoicing", message("1", "s"), message("2", "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        (first,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.abandon_message(first)
        assert bodies(await receiver.receive_messages(2, max_wait_time=5)) == [b"1", b"2"]


async def test_a_session_keeps_its_state_for_the_next_holder(bus: World) -> None:
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        assert await receiver.session.get_state() is None
        await receiver.session.set_state(b"\x00 at 7")
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        assert await receiver.session.get_state() == b"\x00 at 7"
        await receiver.session.set_state(None)
        assert await receiver.session.get_state() is None


async def test_a_plain_receiver_is_refused_where_sessions_are_required(bus: World) -> None:
    with pytest.raises(ServiceBusError, match="requires sessions to create a non-sessionful message receiver"):
        async with bus.client.get_queue_receiver("invoicing") as receiver:
            await receiver.receive_messages(1, max_wait_time=SHORT)


async def test_a_session_receiver_is_refused_where_there_are_none(bus: World) -> None:
    with pytest.raises(ServiceBusError, match="does not require sessions"):
        async with bus.client.get_queue_receiver("plain", session_id="s"):
            pass


async def test_a_message_without_a_session_is_refused_and_so_is_its_whole_batch(bus: World) -> None:
    for bad in ([ServiceBusMessage(b"x")], [message("1", "s"), ServiceBusMessage(b"x")]):
        async with bus.client.get_queue_sender("invoicing") as sender:
            with pytest.raises(ServiceBusError, match="The SessionId was not set on a message"):
                await sender.send_messages(bad, timeout=10)
    assert await bus.drain("invoicing", session_id="s") == []
