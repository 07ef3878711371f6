"""Over AMQP, with the Azure SDK against the local Event Hubs bridge: the same partitions as over Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from local.broker import Broker
from local.ports import free_port
from local.servicebus.server import ServiceBusServer
from meterline_client import ConfigurationError, DeliveryFailed, KafkaTransport, Producer
from meterline_client.amqp import AmqpTransport
from streams.counting import ROUTED
from tests.client.brokers import new_topic, read_until
from tests.client.doubles import SOURCE, TYPE, counters
from tests.local.servicebus_world import KEY, config

PARTITIONS = 5


class Both(NamedTuple):
    bootstrap: str
    topic: str
    connection_string: str


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    """One topic, over Kafka and as the event hub `usage`."""
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)
        server = ServiceBusServer(
            config(tmp_path / "amqp", event_hubs={"usage": topic}, kafka_bootstrap=broker.bootstrap)
        )
        await server.start()
        try:
            yield Both(broker.bootstrap, topic, server.connection_string)
        finally:
            await server.close()


async def test_a_subject_has_one_partition_over_kafka_and_over_amqp(both: Both) -> None:
    subjects = [f"tenant-{n}/ünïcödé" for n in range(40)]
    ids: set[str] = set()
    for transport in (
        KafkaTransport(both.topic, bootstrap=both.bootstrap),
        AmqpTransport("usage", connection_string=both.connection_string),
    ):
        async with Producer(transport, SOURCE) as producer:
            assert producer.partitions == PARTITIONS
            sent = [
                await producer.send(TYPE, subject, n, extensions={"traceparent": f"00-{n}"})
                for n, subject in enumerate(subjects * 5)
            ]
            receipts = await asyncio.gather(*sent)
            assert {receipt.offset is None for receipt in receipts} == {isinstance(transport, AmqpTransport)}
            ids |= {event.event_id for event in sent}
    records = await read_until(both.bootstrap, both.topic, PARTITIONS, ids)
    where: dict[str, set[int]] = {subject: set() for subject in subjects}
    for record in records:
        for event in record.events:
            where[event["subject"]].add(record.partition)
            assert event["traceparent"] == f"00-{event['data']}", "extension attributes survive both"
    assert {len(partitions) for partitions in where.values()} == {1}
    assert sum(len(record.events) for record in records) == 400
    over_amqp = [record for record in records if record.key is None]
    assert over_amqp
    for record in over_amqp:
        (header,) = (value for name, value in record.headers if name in ROUTED)
        assert header.endswith(record.events[0]["subject"].encode()[-10:]), "METERING counts it as routed"


async def test_the_ids_of_a_lane_are_whole_over_amqp_too(both: Both) -> None:
    async with Producer(AmqpTransport("usage", connection_string=both.connection_string), SOURCE) as producer:
        sent = [await producer.send(TYPE, f"tenant-{n % 7}", {"n": n, "pad": "x" * 500}) for n in range(1000)]
    records = await read_until(both.bootstrap, both.topic, PARTITIONS, {event.event_id for event in sent})
    for partition in range(PARTITIONS):
        events = [event for record in records if record.partition == partition for event in record.events]
        assert counters(events) == [*range(1, len(events) + 1)]


async def test_an_outage_of_the_hub_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)

        async def started(port: int) -> ServiceBusServer:
            hubs = {"usage": topic}
            server = ServiceBusServer(
                config(tmp_path / "amqp", event_hubs=hubs, kafka_bootstrap=broker.bootstrap, port=port)
            )
            await server.start()
            return server

        port = free_port()
        server = await started(port)
        try:
            transport = AmqpTransport("usage", connection_string=server.connection_string)
            async with Producer(transport, SOURCE, max_bytes=50_000, spool_dir=tmp_path / "spool") as producer:
                sent = [await producer.send(TYPE, f"tenant-{n % 7}", {"n": n}) for n in range(300)]
                await producer.flush()
                await server.close()
                while len(sent) < 1000 or producer.trouble is None:
                    sent.append(await producer.send(TYPE, f"tenant-{len(sent) % 7}", {"n": len(sent)}))
                    await asyncio.sleep(0)
                server = await started(port)
                await producer.flush()
                assert producer.ledger().delivered == len(sent)
        finally:
            await server.close()
        records = await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    for partition in range(PARTITIONS):
        events = [event for record in records if record.partition == partition for event in record.events]
        seen = [*{event["id"]: event for event in events}.values()]
        assert counters(seen) == [*range(1, len(seen) + 1)]


async def test_an_event_larger_than_the_hub_takes_has_failed_and_the_next_one_passes(both: Both) -> None:
    producer = Producer(AmqpTransport("usage", connection_string=both.connection_string), SOURCE)
    await producer.start()
    large = await producer.send(TYPE, "acme", "x" * 1_200_000)
    small = await producer.send(TYPE, "acme", "x")
    await small
    with pytest.raises(DeliveryFailed, match="larger than the event hub takes"):
        await large
    with pytest.raises(DeliveryFailed):
        await producer.close()


async def test_a_wrong_key_is_said_without_the_key(both: Both) -> None:
    wrong = AmqpTransport("usage", connection_string=both.connection_string.replace(KEY, "d3Jvbmc="))
    with pytest.raises(ConfigurationError, match="the key was refused") as raised:
        await Producer(wrong, SOURCE).start()
    assert "d3Jvbmc" not in str(raised.value) + repr(wrong)


def test_what_names_no_event_hub_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no Event Hubs connection string"):
        AmqpTransport("usage", connection_string="nonsense")
    with pytest.raises(ConfigurationError, match="namespace and credential"):
        AmqpTransport("usage", namespace="x.servicebus.windows.net")
