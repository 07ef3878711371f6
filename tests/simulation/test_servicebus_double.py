"""The simulator's Service Bus keeps the service's promises, and its client raises what the SDK raises."""

from __future__ import annotations

import asyncio
import random

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from simulation.servicebus import Consumer, ServiceBus
from simulation.wire import Kind, Misfortune, Weather
from sinks.servicebus import ServiceBusSink
from tests.simulation.sink_world import SETTINGS, Script, deliver, revision, tell, wire


async def send(bus: ServiceBus, *ids: str, weather: Weather | None = None, session: str | None = "acme") -> None:
    client = bus.client(wire(weather)).from_connection_string(
        SETTINGS.servicebus_connection_string or "", retry_total=0
    )
    sender = client.get_queue_sender("invoicing")
    batch = await sender.create_message_batch()
    for one in ids:
        batch.add_message(ServiceBusMessage(b"{}", message_id=one, session_id=session))
    await sender.send_messages(batch, timeout=20)


def test_a_message_id_is_dropped_within_the_detection_window_and_forgotten_after_it() -> None:
    async def story() -> None:
        bus = ServiceBus(detection_window_s=600)
        await send(bus, "w:1", "w:1")
        await asyncio.sleep(500)
        await send(bus, "w:1", "w:2")
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2"]
        await asyncio.sleep(101)
        await send(bus, "w:1", "w:2")
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2", "w:1"]

    tell(story)


def test_a_batch_is_stored_whole_or_not_at_all() -> None:
    async def story() -> None:
        bus = ServiceBus()
        client = bus.client(wire()).from_connection_string(SETTINGS.servicebus_connection_string or "", retry_total=0)
        sender = client.get_queue_sender("invoicing")
        batch = await sender.create_message_batch()
        batch.add_message(ServiceBusMessage(b"{}", message_id="w:1", session_id="acme"))
        batch.add_message(ServiceBusMessage(b"{}", message_id="w:2"))
        with pytest.raises(ServiceBusError, match="SessionId"):
            await sender.send_messages(batch, timeout=20)
        assert bus.messages == []
        with pytest.raises(ServiceBusError):
            await send(bus, "w:1", "w:2", weather=Script("send", Misfortune(Kind.LOST_ANSWER)))
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2"]

    tell(story)


@pytest.mark.parametrize(
    ("misfortune", "raised"),
    [
        (Misfortune(Kind.LOST_ANSWER), OperationTimeoutError),
        (Misfortune(Kind.LOST_REQUEST), OperationTimeoutError),
        (Misfortune(Kind.LOST_REQUEST, wait_s=1), ServiceBusConnectionError),
        (Misfortune(Kind.DOWN), ServiceBusConnectionError),
        (Misfortune(Kind.THROTTLED), ServiceBusServerBusyError),
        (Misfortune(Kind.UNAVAILABLE), ServiceBusCommunicationError),
        (Misfortune(Kind.UNSURE), ServiceBusError),
    ],
)
def test_the_bus_client_raises_what_the_sdk_raises(misfortune: Misfortune, raised: type[Exception]) -> None:
    async def story() -> None:
        with pytest.raises(raised) as caught:
            await send(ServiceBus(), "w:1", weather=Script("send", misfortune))
        assert type(caught.value) is raised

    tell(story)


def test_nobody_reaches_a_bus_that_is_down_and_nothing_is_received_from_it() -> None:
    async def story() -> None:
        bus = ServiceBus()
        consumer = Consumer(bus, random.Random(3))
        receiving = asyncio.ensure_future(consumer.run())
        bus.set_down(True)
        with pytest.raises(ServiceBusConnectionError):
            await send(bus, "w:1")
        bus.set_down(False)
        assert bus.send([("w:1", "acme", b"{}")]) is None
        bus.set_down(True)
        await asyncio.sleep(100)
        assert consumer.seen == {} and not receiving.done()
        bus.set_down(False)
        await asyncio.sleep(1)
        assert list(consumer.seen) == ["w:1"] and bus.is_empty

    tell(story)


def test_a_consumer_handles_each_message_id_once_in_the_order_of_its_session_though_locks_are_lost() -> None:
    async def story() -> None:
        bus = ServiceBus()
        consumers = [Consumer(bus, random.Random(seed), lost_lock=0.3) for seed in range(2)]
        tasks = [asyncio.ensure_future(consumer.run()) for consumer in consumers]
        await send(bus, *(f"w:{number}" for number in range(1, 31)))
        await asyncio.sleep(60)
        assert bus.is_empty and not any(task.done() for task in tasks)
        seen = [number for consumer in consumers for number in consumer.orders.get("w", [])]
        assert sorted(set(seen)) == list(range(1, 31))
        assert all(order == sorted(order) for consumer in consumers for order in consumer.orders.values())
        assert sum(consumer.repeats for consumer in consumers) > 0

    tell(story)


def test_a_second_content_under_one_message_id_is_kept_as_a_conflict() -> None:
    async def story() -> None:
        bus = ServiceBus(detection_window_s=20)
        consumer = Consumer(bus, random.Random(3))
        receiving = asyncio.ensure_future(consumer.run())
        sink = ServiceBusSink(SETTINGS, client=bus.client(wire()))
        first, second = revision(1), revision(1, value="9")
        await deliver(sink, [first])
        await asyncio.sleep(30)
        await deliver(sink, [second])
        await asyncio.sleep(1)
        assert not receiving.done() and consumer.conflicts == [(first.message_id, first.body, second.body)]

    tell(story)
