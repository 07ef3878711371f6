"""A broker that takes connections and says nothing, or that comes later: an attempt ends, and the next one finds it."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local.broker import Broker
from local.ports import free_port
from local.servicebus.server import ServiceBusServer
from meterline_client import DeliveryFailed, KafkaTransport, Producer, TransportError
from meterline_client.amqp import AmqpTransport
from tests.client.brokers import new_topic, read_until
from tests.client.doubles import SOURCE, TYPE
from tests.local.servicebus_world import config
from tests.scripted_broker import ScriptedBroker
from tests.wall import Wall

PARTITIONS = 3


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path / "broker") as broker:
        yield broker


async def hub(tmp_path: Path, broker: Broker, topic: str, port: int) -> ServiceBusServer:
    server = ServiceBusServer(
        config(tmp_path / "amqp", event_hubs={"usage": topic}, kafka_bootstrap=broker.bootstrap, port=port)
    )
    await server.start()
    return server


async def test_a_start_over_amqp_that_failed_may_be_tried_again(tmp_path: Path, broker: Broker) -> None:
    """What an earlier producer left on disk is sent then: a client of the SDK that was closed sends nothing any more."""
    topic, port = await new_topic(broker.bootstrap, PARTITIONS), free_port()
    server = await hub(tmp_path, broker, topic, port)
    spool, text = tmp_path / "spool", server.connection_string
    first = Producer(AmqpTransport("usage", connection_string=text), SOURCE, spool_dir=spool, durable=True)
    await first.start()
    await server.close()
    sent = [await first.send(TYPE, f"tenant-{n}", n) for n in range(20)]
    await first.close(timeout_s=0.1)

    second = Producer(AmqpTransport("usage", connection_string=text), SOURCE, spool_dir=spool, durable=True)
    with pytest.raises(TransportError) as raised:
        await second.start()
    assert raised.value.retryable
    server = await hub(tmp_path, broker, topic, port)
    try:
        await second.start()
        await second.flush()
        assert (second.ledger().recovered, second.ledger().delivered) == (20, 20)
        await second.close()
    finally:
        await server.close()
    await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})


async def test_over_amqp_a_peer_that_says_nothing_is_given_up_and_found_again(tmp_path: Path, broker: Broker) -> None:
    topic = await new_topic(broker.bootstrap, PARTITIONS)
    port = free_port()
    server = await hub(tmp_path, broker, topic, port)
    try:
        async with Wall(port) as wall:
            text = server.connection_string.replace(str(port), str(wall.port))
            transport = AmqpTransport("usage", connection_string=text, send_timeout_s=1)
            async with Producer(transport, SOURCE) as producer:
                await (await producer.send(TYPE, "tenant", 0))
                wall.silent = True
                wall.cut()
                sent = await producer.send(TYPE, "tenant", 1)
                while "no answer within 1 s" not in str(producer.trouble):
                    await asyncio.sleep(0.01)
                assert not sent.done
                wall.silent = False  # for new connections: the one that is there hears nothing, ever
                await sent
                assert producer.trouble is None
    finally:
        await server.close()


async def test_over_amqp_a_start_ends_where_the_peer_says_nothing(tmp_path: Path) -> None:
    async with Wall(0) as wall:
        wall.silent = True
        text = f"Endpoint=sb://127.0.0.1:{wall.port};SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
        producer = Producer(AmqpTransport("usage", connection_string=text, send_timeout_s=0.5), SOURCE)
        with pytest.raises(TransportError, match=r"no answer within 0\.5 s") as raised:
            await producer.start()
        assert raised.value.retryable


async def test_over_kafka_the_delivery_timeout_holds_where_the_broker_says_nothing() -> None:
    async with ScriptedBroker({"usage": 1}) as broker:
        producer = Producer(KafkaTransport("usage", bootstrap=broker.bootstrap), SOURCE, delivery_timeout_s=0.5)
        await producer.start()
        broker.silent = True
        with pytest.raises(DeliveryFailed, match=r"no answer within 0\.5 s"):
            await (await producer.send(TYPE, "a", 1))
        with pytest.raises(DeliveryFailed):
            await producer.close(timeout_s=0.1)


async def test_a_record_that_is_refused_as_throttled_and_is_large_may_be_too_large_for_the_tier() -> None:
    """Event Hubs has one error for both (POLICY_VIOLATION), so the advice names both, and the setting that ends it."""
    async with ScriptedBroker({"usage": 1}) as broker:
        broker.refusals["usage", 0] = [44] * 3
        async with Producer(KafkaTransport("usage", bootstrap=broker.bootstrap), SOURCE) as producer:
            large = await producer.send(TYPE, "a", "x" * 300_000)
            while producer.trouble is None:
                await asyncio.sleep(0.01)
            assert "takes no record of 300" in producer.trouble.hint and "set max_record_bytes" in producer.trouble.hint
            await large
        producer = Producer(KafkaTransport("usage", bootstrap=broker.bootstrap, max_record_bytes=262_144), SOURCE)
        await producer.start()
        large, small = await producer.send(TYPE, "a", "x" * 300_000), await producer.send(TYPE, "a", 1)
        await small
        with pytest.raises(DeliveryFailed, match="MessageSizeTooLarge"):
            await large
        with pytest.raises(DeliveryFailed):
            await producer.close()


async def test_a_start_over_kafka_that_is_cancelled_leaves_no_connection() -> None:
    async with Wall(0) as wall:
        wall.silent = True
        producer = Producer(KafkaTransport("usage", bootstrap=f"127.0.0.1:{wall.port}"), SOURCE)
        starting = asyncio.create_task(producer.start())
        while not wall.connections:
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            await starting
        del producer, starting
        gc.collect()
        assert [str(warning.message) for warning in told if warning.category is ResourceWarning] == []
