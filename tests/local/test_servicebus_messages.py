"""Sending and receiving: what goes in comes out, in order, once."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageHeader
from azure.servicebus.exceptions import MessageSizeExceededError

from local.servicebus.server import QueueConfig
from tests.local.servicebus_world import SHORT, World, bodies, body, world


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


async def test_a_message_comes_out_with_everything_it_went_in_with(bus: World) -> None:
    identifier = uuid.uuid4()
    when = datetime.datetime(2026, 5, 6, 7, 8, 9, 123000, tzinfo=datetime.UTC)
    properties: dict[str | bytes, Any] = {
        "text": "x", "number": 2**30, "real": 1.5, "flag": True, "id": identifier, "raw": b"\x00\x01", "when": when,
    }  # fmt: skip
    sent = ServiceBusMessage(
        b"\x00\x01body",
        application_properties=properties,
        message_id="m-1",
        correlation_id="c-1",
        content_type="application/json",
        subject="invoice",
        to="you",
        reply_to="me",
        reply_to_session_id="rs",
        session_id="s-1",
        time_to_live=datetime.timedelta(hours=1),
    )
    await bus.send("plain", sent)
    (got,) = await bus.drain("plain")
    assert body(got) == b"\x00\x01body"
    received = {(k.decode() if isinstance(k, bytes) else k): v for k, v in (got.application_properties or {}).items()}
    assert received.pop("when") == int(when.timestamp() * 1000)
    assert received.pop("text") == b"x" and received.pop("raw") == b"\x00\x01"
    assert received == {"number": 2**30, "real": 1.5, "flag": True, "id": identifier}
    assert (got.message_id, got.correlation_id, got.content_type) == ("m-1", "c-1", "application/json")
    assert (got.subject, got.to, got.reply_to, got.reply_to_session_id) == ("invoice", "you", "me", "rs")
    assert got.session_id == "s-1" and got.time_to_live == datetime.timedelta(hours=1)
    assert got.sequence_number == 1 and got.delivery_count == 0
    assert got.enqueued_time_utc == datetime.datetime.fromtimestamp(int(bus.clock.now * 1000) / 1000, datetime.UTC)


async def test_a_body_that_is_no_bytes_keeps_its_kind(bus: World) -> None:
    value = AmqpAnnotatedMessage(value_body={b"total": [1, "two"]}, header=AmqpMessageHeader(durable=True, priority=7))
    async with bus.client.get_queue_sender("plain") as sender:
        await sender.send_messages(value, timeout=10)
    (got,) = await bus.drain("plain")
    assert got.body_type is AmqpMessageBodyType.VALUE
    assert got.body == {b"total": [1, b"two"]}
    header = got.raw_amqp_message.header
    assert header is not None and header.durable is True and header.priority == 7


async def test_a_message_without_an_id_is_given_one(bus: World) -> None:
    await bus.send("plain", ServiceBusMessage(b"a"), ServiceBusMessage(b"b", session_id="s", subject="kept"))
    first, second = await bus.drain("plain")
    assert first.message_id and second.message_id and first.message_id != second.message_id
    assert (second.session_id, second.subject, body(second)) == ("s", "kept", b"b")


async def test_messages_come_in_the_order_they_were_sent_whether_single_or_in_batches(bus: World) -> None:
    async with bus.client.get_queue_sender("plain") as sender:
        await sender.send_messages(ServiceBusMessage(b"0"), timeout=10)
        await sender.send_messages([ServiceBusMessage(b"%d" % n) for n in range(1, 40)], timeout=10)
        batch = await sender.create_message_batch()
        for number in range(40, 50):
            batch.add_message(ServiceBusMessage(b"%d" % number))
        await sender.send_messages(batch, timeout=10)
    got = await bus.drain("plain")
    assert bodies(got) == [b"%d" % number for number in range(50)]
    assert [message.sequence_number for message in got] == list(range(1, 51))


async def test_a_completed_message_is_gone_and_an_unsettled_one_is_not(bus: World) -> None:
    await bus.send("plain", ServiceBusMessage(b"done"), ServiceBusMessage(b"open"))
    async with bus.client.get_queue_receiver("plain") as receiver:
        first, _ = await receiver.receive_messages(2, max_wait_time=5)
        await receiver.complete_message(first)
    assert bodies(await bus.drain("plain")) == [b"open"]


async def test_receive_and_delete_takes_the_message_at_once(bus: World) -> None:
    await bus.send("plain", ServiceBusMessage(b"a"), ServiceBusMessage(b"b"))
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    assert bodies(await bus.drain("plain", receive_mode=mode)) == [b"a", b"b"]
    assert await bus.drain("plain") == []


async def test_a_receiver_waits_for_a_message_that_comes_later(bus: World) -> None:
    async with bus.client.get_queue_receiver("plain") as receiver:
        waiting = asyncio.create_task(receiver.receive_messages(1, max_wait_time=10))
        await asyncio.sleep(0)
        await bus.send("plain", ServiceBusMessage(b"late"))
        (got,) = await waiting
        await receiver.complete_message(got)
    assert body(got) == b"late"


async def test_more_messages_than_any_credit_or_window_all_arrive(bus: World) -> None:
    """5000 transfers exceed the credit we grant (1000) and what a receiver asks for at once, many times over."""
    async with bus.client.get_queue_sender("plain") as sender:
        for start in range(0, 4000, 500):
            numbers = range(start, start + 500)
            await sender.send_messages([ServiceBusMessage(b"%d" % number) for number in numbers], timeout=10)
        for number in range(4000, 5000):
            await sender.send_messages(ServiceBusMessage(b"%d" % number), timeout=10)
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    got: list[bytes] = []
    async with bus.client.get_queue_receiver("plain", receive_mode=mode, prefetch_count=300) as receiver:
        while len(got) < 5000 and (batch := await receiver.receive_messages(500, max_wait_time=5)):
            got += bodies(batch)
    assert got == [b"%d" % number for number in range(5000)]


async def test_a_message_larger_than_a_frame_passes_and_one_larger_than_the_limit_is_refused(bus: World) -> None:
    large = bytes(range(256)) * 1000  # 256 000 bytes, four frames each way
    await bus.send("plain", ServiceBusMessage(large))
    (got,) = await bus.drain("plain")
    assert body(got) == large
    async with bus.client.get_queue_sender("plain") as sender:
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * 300_000), timeout=10)
        with pytest.raises(MessageSizeExceededError):
            batch = await sender.create_message_batch()
            while True:
                batch.add_message(ServiceBusMessage(b"x" * 10_000))
    assert 200_000 < batch.size_in_bytes <= 256 * 1024


async def test_competing_receivers_share_a_queue_and_none_gets_what_another_holds(bus: World) -> None:
    await bus.send("plain", *[ServiceBusMessage(b"%d" % number) for number in range(20)])
    async with bus.client.get_queue_receiver("plain") as one, bus.client.get_queue_receiver("plain") as two:
        got = await asyncio.gather(*(link.receive_messages(10, max_wait_time=5) for link in (one, two)))
        first, second = (bodies(messages) for messages in got)
        rest = bodies(await one.receive_messages(20, max_wait_time=SHORT))
        rest += bodies(await two.receive_messages(20, max_wait_time=SHORT))
        assert first and second
        assert sorted(first + second + rest, key=int) == [b"%d" % number for number in range(20)]


async def test_an_expired_message_is_not_delivered(bus: World) -> None:
    ttl = datetime.timedelta(seconds=30)
    await bus.send("plain", ServiceBusMessage(b"short", time_to_live=ttl), ServiceBusMessage(b"long"))
    bus.later(31)
    assert bodies(await bus.drain("plain")) == [b"long"]


async def test_queue_names_are_compared_without_case(tmp_path: Path) -> None:
    async with world(tmp_path, QueueConfig("Invoicing", requires_session=False)) as bus:
        await bus.send("INVOICING", ServiceBusMessage(b"x"))
        assert bodies(await bus.drain("invoicing")) == [b"x"]


async def test_many_clients_at_once_are_all_served(bus: World) -> None:
    async def one(number: int) -> None:
        await bus.send("plain", *[ServiceBusMessage(b"%d" % number) for _ in range(5)])

    await asyncio.gather(*(one(number) for number in range(20)))
    assert sorted(bodies(await bus.drain("plain")), key=int) == [b"%d" % n for n in range(20) for _ in range(5)]
