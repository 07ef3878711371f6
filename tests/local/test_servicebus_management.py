"""Beyond send and receive: peeking, deferring, scheduling, dead-lettering, and settling without the link."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.exceptions import MessageNotFoundError, ServiceBusError, SessionLockLostError

from local.servicebus import codec
from local.servicebus.errors import Refusal
from local.servicebus.management import Management
from local.servicebus.message import Request
from tests.local.servicebus_world import World, bodies, body, world

DEAD = ServiceBusSubQueue.DEAD_LETTER


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


def numbered(count: int, session: str | None = None) -> list[ServiceBusMessage]:
    return [ServiceBusMessage(b"%d" % n, session_id=session, message_id=f"{session}{n}") for n in range(count)]


async def test_a_peek_sees_everything_from_a_number_on_and_takes_nothing(bus: World) -> None:
    await bus.send("plain", *numbered(5))
    async with bus.client.get_queue_receiver("plain") as receiver:
        await receiver.receive_messages(1, max_wait_time=5)
        assert bodies(await receiver.peek_messages(2, sequence_number=1)) == [b"0", b"1"]
        seen = await receiver.peek_messages(10, sequence_number=4)
        assert bodies(seen) == [b"3", b"4"] and seen[0].state is ServiceBusMessageState.ACTIVE
        assert await receiver.peek_messages(10, sequence_number=99) == []
    assert len(await bus.drain("plain")) == 5


async def test_a_peek_in_a_session_sees_only_that_session(bus: World) -> None:
    await bus.send("invoicing", *numbered(2, "a"), *numbered(3, "b"))
    async with bus.client.get_queue_receiver("invoicing", session_id="b") as receiver:
        seen = await receiver.peek_messages(10)
        assert [(message.session_id, body(message)) for message in seen] == [("b", b"0"), ("b", b"1"), ("b", b"2")]


async def test_a_deferred_message_is_only_had_by_its_number(bus: World) -> None:
    await bus.send("plain", *numbered(2))
    async with bus.client.get_queue_receiver("plain") as receiver:
        (first,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.defer_message(first)
        number = first.sequence_number
        assert number is not None
        assert [m.state for m in await receiver.peek_messages(1, sequence_number=1)] == [
            ServiceBusMessageState.DEFERRED
        ]
    assert bodies(await bus.drain("plain")) == [b"1"]
    async with bus.client.get_queue_receiver("plain") as receiver:
        (deferred,) = await receiver.receive_deferred_messages(number)
        assert body(deferred) == b"0"
        annotations = deferred.raw_amqp_message.delivery_annotations or {}
        assert annotations[b"x-opt-lock-token"] == deferred.lock_token  # where Go's SDK looks for it
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages(number)  # locked now
        await receiver.abandon_message(deferred)
        (again,) = await receiver.receive_deferred_messages([number])
        await receiver.complete_message(again)
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages(number)


async def test_a_deferred_message_of_a_session_is_had_in_that_session(bus: World) -> None:
    await bus.send("invoicing", *numbered(1, "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.defer_message(message)
        number = message.sequence_number
        assert number is not None
        async with bus.client.get_queue_receiver("invoicing", session_id="other") as other:
            with pytest.raises(MessageNotFoundError):
                await other.receive_deferred_messages(number)
        (deferred,) = await receiver.receive_deferred_messages(number)
        await receiver.dead_letter_message(deferred, reason="late")
    (dead,) = await bus.drain("invoicing", sub_queue=DEAD)
    assert dead.dead_letter_reason == "late" and dead.session_id == "s"


async def test_deferred_messages_can_be_received_and_deleted(bus: World) -> None:
    await bus.send("plain", *numbered(1))
    async with bus.client.get_queue_receiver("plain") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.defer_message(message)
    number = message.sequence_number
    assert number is not None
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with bus.client.get_queue_receiver("plain", receive_mode=mode) as receiver:
        assert bodies(await receiver.receive_deferred_messages(number)) == [b"0"]
        assert await receiver.peek_messages(1) == []


async def test_a_dead_letter_keeps_its_number_and_says_why(bus: World) -> None:
    await bus.send("invoicing", *numbered(2, "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        (first,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.dead_letter_message(first, reason="unreadable", error_description="no such customer")
    assert bodies(await bus.drain("invoicing", session_id="s")) == [b"1"]
    async with bus.client.get_queue_receiver("invoicing", sub_queue=DEAD) as receiver:
        (peeked,) = await receiver.peek_messages(5)
        (dead,) = await receiver.receive_messages(1, max_wait_time=5)
        assert body(peeked) == body(dead) == b"0" and dead.sequence_number == first.sequence_number
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("unreadable", "no such customer")
        assert dead.dead_letter_source == "invoicing" and dead.message_id == "s0"
        await receiver.complete_message(dead)
    assert await bus.drain("invoicing", sub_queue=DEAD) == []


async def test_a_dead_letter_is_never_dead_lettered_again_by_failing(bus: World) -> None:
    await bus.send("plain", *numbered(1))
    async with bus.client.get_queue_receiver("plain") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.dead_letter_message(message)
    async with bus.client.get_queue_receiver("plain", sub_queue=DEAD) as receiver:
        for _ in range(12):
            (dead,) = await receiver.receive_messages(1, max_wait_time=5)
            await receiver.abandon_message(dead)
    assert len(await bus.drain("plain", sub_queue=DEAD)) == 1


async def test_nothing_can_be_sent_to_a_dead_letter_queue(bus: World) -> None:
    with pytest.raises(ServiceBusError, match="cannot be sent to a dead-letter queue"):
        await bus.send("plain/$DeadLetterQueue", ServiceBusMessage(b"x"))


async def test_a_scheduled_message_appears_when_it_is_due_as_if_sent_then(bus: World) -> None:
    at = datetime.datetime.fromtimestamp(bus.clock.now + 60, datetime.UTC)
    async with bus.client.get_queue_sender("plain") as sender:
        (number,) = await sender.schedule_messages(ServiceBusMessage(b"later"), at)
        await sender.send_messages(ServiceBusMessage(b"now"), timeout=10)
    async with bus.client.get_queue_receiver("plain") as receiver:
        (peeked,) = await receiver.peek_messages(1, sequence_number=number)
        assert peeked.state is ServiceBusMessageState.SCHEDULED
        (first,) = await receiver.receive_messages(1, max_wait_time=5)
        assert body(first) == b"now"
        await receiver.complete_message(first)
        bus.later(61)
        (second,) = await receiver.receive_messages(1, max_wait_time=5)
        assert body(second) == b"later" and second.sequence_number == 3
        assert second.enqueued_time_utc == at.replace(microsecond=at.microsecond // 1000 * 1000)


async def test_a_scheduled_message_can_be_cancelled_and_an_appeared_one_cannot(bus: World) -> None:
    at = datetime.datetime.fromtimestamp(bus.clock.now + 60, datetime.UTC)
    async with bus.client.get_queue_sender("plain") as sender:
        numbers = await sender.schedule_messages(numbered(3), at)
        assert len(set(numbers)) == 3
        await sender.cancel_scheduled_messages(numbers[:2])
        bus.later(61)
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(numbers[2])
    assert bodies(await bus.drain("plain")) == [b"2"]


async def test_a_message_sent_with_an_enqueue_time_is_scheduled_too(bus: World) -> None:
    at = datetime.datetime.fromtimestamp(bus.clock.now + 60, datetime.UTC)
    await bus.send("plain", ServiceBusMessage(b"x", scheduled_enqueue_time_utc=at))
    assert await bus.drain("plain") == []
    bus.later(61)
    assert bodies(await bus.drain("plain")) == [b"x"]


async def test_a_message_is_settled_over_management_where_its_link_is_gone(bus: World) -> None:
    """The SDK falls back to $management when a link died; the lock token is what counts, not the link."""
    await bus.send("plain", *numbered(4))
    async with bus.client.get_queue_receiver("plain") as receiver:
        messages = await receiver.receive_messages(4, max_wait_time=5)
        while len(messages) < 4:
            messages += await receiver.receive_messages(4, max_wait_time=5)
        for message in messages:
            message._is_deferred_message = True  # which is how the SDK decides for $management
        await receiver.complete_message(messages[0])
        await receiver.abandon_message(messages[1])
        await receiver.dead_letter_message(messages[2], reason="r", error_description="d")
        await receiver.defer_message(messages[3])
        states = {body(m): (m.state, m.delivery_count) for m in await receiver.peek_messages(10, sequence_number=1)}
        assert states == {b"1": (ServiceBusMessageState.ACTIVE, 1), b"3": (ServiceBusMessageState.DEFERRED, 0)}
    (dead,) = await bus.drain("plain", sub_queue=DEAD)
    assert (body(dead), dead.dead_letter_reason, dead.dead_letter_error_description) == (b"2", "r", "d")


async def test_the_state_of_a_session_is_only_for_its_holder(bus: World) -> None:
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        bus.later(61)
        with pytest.raises(SessionLockLostError):
            await receiver.session.set_state(b"x")


async def test_a_session_may_be_named_by_its_link_as_gos_sdk_does(bus: World) -> None:
    await bus.send("invoicing", *numbered(1, "s"))
    async with bus.client.get_queue_receiver("invoicing", session_id="s") as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.defer_message(message)
        entity = bus.server._entities["invoicing"]
        (link,) = bus.server._receivers[entity]
        assert bus.server._store is not None
        sessions = {link.request.name: "s"}
        management = Management(
            entity, bus.server._store, bus.server.now_ms, None, lambda owner: owner is link, sessions.get
        )
        numbers = codec.map_of([(codec.string("sequence-numbers"), codec.array_of([codec.wide_long(1)]))])
        for name, found in (("another link", False), (link.request.name, True)):
            properties = {"operation": b"com.microsoft:receive-by-sequence-number", "associated-link-name": name}
            asked = Request(codec.NULL, None, properties, codec.decode(numbers), numbers)
            if found:
                assert management.answer(asked, lambda reply: None).status == 200
            else:
                with pytest.raises(Refusal, match="session lock"):
                    management.answer(asked, lambda reply: None)
