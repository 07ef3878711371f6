"""The Event Hubs bridge: what AMQP producers send is in Kafka, as Event Hubs shows it to Kafka consumers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from azure.eventhub import EventData, TransportType
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.exceptions import AuthenticationError, ConnectError, EventDataSendError, EventHubError

from local.broker import Broker
from local.ports import free_port
from local.servicebus import codec
from local.servicebus.errors import Refusal
from local.servicebus.eventhubs import Event, EventHubs, Extent, event_of, hash_code
from local.servicebus.links import AttachRequest
from local.servicebus.server import ServiceBusServer
from tests.kafka_cluster import KafkaCluster
from tests.local.servicebus_world import KEY, config

PARTITIONS = 3


class Recorded:
    """A forwarder that keeps what it is given; `hold` delays acknowledgements, `failure` refuses."""

    def __init__(self) -> None:
        self.records: dict[int, list[Event]] = defaultdict(list)
        self.hold: asyncio.Event | None = None
        self.failure: Exception | None = None

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def partition_count(self, topic: str) -> int:
        assert topic == "usage-topic"
        return PARTITIONS

    async def send(self, topic: str, partition: int, event: Event) -> Awaitable[object]:
        self.records[partition].append(event)
        return asyncio.ensure_future(self._acknowledge())

    async def _acknowledge(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure

    async def extent(self, topic: str, partition: int) -> Extent:
        return Extent(5, 5 + len(self.records[partition]), 1_700_000_000_000)


class Bridge:
    def __init__(self, server: ServiceBusServer, kafka: Recorded) -> None:
        self.server, self.kafka = server, kafka

    def producer(self, **more: Any) -> EventHubProducerClient:
        return producer(self.server, **more)


def producer(server: ServiceBusServer, **more: Any) -> EventHubProducerClient:
    return EventHubProducerClient.from_connection_string(
        server.connection_string, eventhub_name="usage", retry_total=0, **more
    )


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    kafka = Recorded()
    configuration = config(tmp_path, event_hubs={"usage": "usage-topic"}, kafka_bootstrap="127.0.0.1:1")
    server = ServiceBusServer(configuration, hubs=EventHubs(configuration.event_hubs, kafka))
    await server.start()
    try:
        yield Bridge(server, kafka)
    finally:
        await server.close()


async def test_single_events_and_batches_arrive_in_order_with_their_bytes(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        await client.send_batch([EventData(b"%d" % number) for number in range(100)])
        await client.send_event(EventData(b"\x00single\xff"))
        batch = await client.create_batch()
        for number in range(10):
            batch.add(EventData(b"batch %d" % number))
        await client.send_batch(batch)
    by_turn = [[event.value for event in events] for events in bridge.kafka.records.values()]
    assert by_turn == [
        [b"%d" % number for number in range(100)],
        [b"\x00single\xff"],
        [b"batch %d" % number for number in range(10)],
    ]


async def test_a_partition_id_is_that_kafka_partition(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        for number in range(PARTITIONS):
            await client.send_batch([EventData(b"to %d" % number)], partition_id=str(number))
    assert {p: [event.value for event in events] for p, events in bridge.kafka.records.items()} == {
        0: [b"to 0"],
        1: [b"to 1"],
        2: [b"to 2"],
    }


async def test_an_unknown_partition_is_refused(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        with pytest.raises((ConnectError, EventHubError), match="Invalid partition 3"):
            await client.send_batch([EventData(b"x")], partition_id="3")


async def test_a_client_that_does_not_look_first_is_told_which_partitions_there_are(bridge: Bridge) -> None:
    assert bridge.server._hubs is not None
    null = codec.NULL
    asked = AttachRequest("l", 0, False, 0, 0, null, null, "", "usage/Partitions/3", {})
    with pytest.raises(Refusal, match="between 0 and 2") as refused:
        bridge.server._hubs.link_for(None, asked, "usage/partitions/3")  # type: ignore[arg-type]
    assert refused.value.condition == "com.microsoft:argument-out-of-range"


async def test_a_partition_key_chooses_by_hash_and_is_a_header(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        for key in ("tenant-a", "tenant-b", "tenant-c", "tenant-a"):
            await client.send_batch([EventData(key.encode()), EventData(b"2")], partition_key=key)
    sent = [(p, event.value) for p, events in bridge.kafka.records.items() for event in events if event.value != b"2"]
    assert sorted(sent) == sorted(
        (abs(hash_code(key)) % PARTITIONS, key.encode()) for key in ("tenant-a", "tenant-b", "tenant-c", "tenant-a")
    )
    for events in bridge.kafka.records.values():
        for first, second in zip(events[::2], events[1::2], strict=True):
            expected = (("x-opt-partition-key", b"\xa1\x08" + first.value),)
            assert first.headers == expected and second.headers == expected


def test_the_hash_is_the_one_of_event_hubs_own_clients() -> None:
    from azure.eventhub._buffered_producer._partition_resolver import generate_hash_code

    keys = ["", "a", "tenant-7", "x" * 11, "x" * 12, "x" * 13, "x" * 24, "subject/1234567890/and more", "~" * 100]
    assert [hash_code(key) for key in keys] == [generate_hash_code(key) for key in keys]


async def test_application_properties_are_headers_in_amqp_encoding(bridge: Bridge) -> None:
    event = EventData(b"x")
    event.properties = {"text": "hello", "number": 7, "flag": True}
    async with bridge.producer() as client:
        await client.send_batch([event])
    ((stored,),) = bridge.kafka.records.values()
    assert dict(stored.headers) == {"text": b"\xa1\x05hello", "number": b"\x54\x07", "flag": b"\x56\x01"}


async def test_an_event_is_acknowledged_only_after_kafka_has_it(bridge: Bridge) -> None:
    bridge.kafka.hold = asyncio.Event()
    async with bridge.producer() as client:
        sending = asyncio.create_task(client.send_batch([EventData(b"x")]))
        while not bridge.kafka.records:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert not sending.done()
        bridge.kafka.hold.set()
        await asyncio.wait_for(sending, 10)


async def test_what_kafka_refuses_is_not_acknowledged(bridge: Bridge) -> None:
    bridge.kafka.failure = RuntimeError("broker away")
    async with bridge.producer() as client:
        with pytest.raises((EventHubError, EventDataSendError), match="did not take the events"):
            await client.send_batch([EventData(b"x")])
        bridge.kafka.failure = None
        await client.send_batch([EventData(b"y")])


async def test_properties_tell_the_real_partitions(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        properties = await client.get_eventhub_properties()
        assert properties["eventhub_name"] == "usage" and properties["partition_ids"] == ["0", "1", "2"]
        assert await client.get_partition_ids() == ["0", "1", "2"]
        await client.send_batch([EventData(b"x")], partition_id="1")
        empty = await client.get_partition_properties("0")
        filled = await client.get_partition_properties("1")
    assert empty["is_empty"] is True and filled["is_empty"] is False
    assert (filled["beginning_sequence_number"], filled["last_enqueued_sequence_number"]) == (5, 5)
    assert filled["last_enqueued_time_utc"].timestamp() == 1_700_000_000


async def test_the_entity_path_of_a_connection_string_names_the_hub(bridge: Bridge) -> None:
    text = bridge.server.connection_string + "EntityPath=usage"
    async with EventHubProducerClient.from_connection_string(text, retry_total=0) as client:
        await client.send_batch([EventData(b"x")])
    assert [event.value for events in bridge.kafka.records.values() for event in events] == [b"x"]


async def test_an_unknown_hub_is_not_found_and_a_wrong_key_stays_out(bridge: Bridge) -> None:
    with pytest.raises((ConnectError, EventHubError), match="could not be found"):
        text = bridge.server.connection_string
        async with EventHubProducerClient.from_connection_string(text, eventhub_name="no", retry_total=0) as client:
            await client.send_batch([EventData(b"x")])
    with pytest.raises((AuthenticationError, ConnectError)):
        text = bridge.server.connection_string.replace(KEY, "d3Jvbmc=")
        async with EventHubProducerClient.from_connection_string(text, eventhub_name="usage", retry_total=0) as client:
            await client.send_batch([EventData(b"x")])
    assert not bridge.kafka.records


async def test_receiving_over_amqp_is_refused_and_says_where_to_read(bridge: Bridge) -> None:
    told: list[str] = []
    failed = asyncio.Event()

    async def on_error(_: Any, error: Exception) -> None:
        told.append(str(error))
        failed.set()

    async def on_event(*_: Any) -> None: ...

    client = EventHubConsumerClient.from_connection_string(
        bridge.server.connection_string, "$Default", eventhub_name="usage", retry_total=0
    )
    async with client:
        receiving = asyncio.create_task(client.receive(on_event, on_error=on_error, partition_id="0"))
        await asyncio.wait_for(failed.wait(), 30)
        receiving.cancel()
    assert "Read it over Kafka, topic 'usage-topic'" in told[0]


async def test_an_event_of_nearly_a_megabyte_passes_and_a_larger_one_does_not(bridge: Bridge) -> None:
    async with bridge.producer() as client:
        await client.send_batch([EventData(b"x" * 1_000_000)])
        with pytest.raises(ValueError, match="size"):
            await client.send_batch([EventData(b"x" * 1_100_000)])
    assert [len(event.value) for events in bridge.kafka.records.values() for event in events] == [1_000_000]


def test_a_body_that_is_no_bytes_keeps_its_amqp_encoding() -> None:
    section = codec.described(codec.VALUE, codec.string("x"))
    assert event_of(section).value == section


# --- with a broker -----------------------------------------------------------------------------------------------------


async def test_a_real_kafka_holds_what_was_acknowledged(tmp_path: Path, kafka: KafkaCluster) -> None:
    await _there_and_back(tmp_path, kafka.bootstrap)


async def test_laptop_modes_broker_holds_what_was_acknowledged(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        await _there_and_back(tmp_path, broker.bootstrap)


async def test_a_broker_that_is_away_stops_the_start_and_says_so(tmp_path: Path) -> None:
    unused = free_port()
    configuration = config(tmp_path, event_hubs={"usage": "usage"}, kafka_bootstrap=f"127.0.0.1:{unused}")
    with pytest.raises(KafkaError, match=str(unused)):
        await ServiceBusServer(configuration).start()


async def _there_and_back(tmp_path: Path, bootstrap: str) -> None:
    topic = "bridge-usage"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    configuration = config(tmp_path, event_hubs={"usage": topic}, kafka_bootstrap=bootstrap)
    server = ServiceBusServer(configuration)
    await server.start()
    try:
        async with producer(server, transport_type=TransportType.Amqp) as client:
            assert await client.get_partition_ids() == ["0", "1", "2"]
            event = EventData(b"1")
            event.properties = {"unit": "GB"}
            await client.send_batch([event, EventData(b"2")], partition_id="2")
            await client.send_batch([EventData(b"keyed")], partition_key="tenant-a")
            extent = await client.get_partition_properties("2")
            assert extent["last_enqueued_sequence_number"] >= 1 and not extent["is_empty"]
    finally:
        await server.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        records = [await asyncio.wait_for(consumer.getone(), 20) for _ in range(3)]
    finally:
        await consumer.stop()
    fixed = [record for record in records if record.value != b"keyed"]
    assert [(r.partition, r.key, r.value) for r in fixed] == [(2, None, b"1"), (2, None, b"2")]
    assert fixed[0].headers == (("unit", b"\xa1\x02GB"),)
    (keyed,) = (record for record in records if record.value == b"keyed")
    assert keyed.key is None and keyed.headers == (("x-opt-partition-key", b"\xa1\x08tenant-a"),)
    assert keyed.partition == abs(hash_code("tenant-a")) % PARTITIONS
