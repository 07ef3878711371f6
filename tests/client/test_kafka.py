"""Over real brokers: acknowledged is in the log, whatever happens to the broker meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors

from local.broker import Broker
from local.ports import free_port
from meterline_client import ConfigurationError, KafkaTransport, Producer, StillSpooled, TransportError
from meterline_client.connection import parse_eventhubs
from meterline_client.outcomes import Sent
from meterline_client.packing import ENVELOPE_BYTES
from schemas import events as wire
from schemas.events import RawEvent, decode
from schemas.hashing import partition_for
from schemas.plain import decode_plain
from tests.client.brokers import Found, new_topic, read_until
from tests.client.doubles import SOURCE, TYPE, counters
from tests.kafka_cluster import KafkaCluster
from tests.kafka_cluster import connection_string as another_key

PARTITIONS = 3


def each_lane_is_whole(records: list[Found], count: int) -> None:
    """Every counter of every lane from 1 on, in order of first appearance; no id with two contents; `count` in all."""
    lanes: dict[int, dict[str, Any]] = defaultdict(dict)
    for record in records:
        for event in record.events:
            assert lanes[record.partition].setdefault(event["id"], event) == event, "an id has one content"
    assert sum(len(lane) for lane in lanes.values()) == count
    for partition, lane in lanes.items():
        assert counters([*lane.values()]) == [*range(1, len(lane) + 1)]
        assert {partition_for(event["subject"], PARTITIONS) for event in lane.values()} == {partition}


async def test_what_is_acknowledged_is_where_its_receipt_says_and_meterline_reads_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Broker(tmp_path) as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)
        async with Producer(KafkaTransport(topic, bootstrap=broker.bootstrap), SOURCE) as producer:
            assert producer.partitions == PARTITIONS
            sent = [await producer.send(TYPE, f"tenant-{n % 23}", {"n": n}) for n in range(3000)]
            receipts = await asyncio.gather(*sent)
        records = await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    each_lane_is_whole(records, 3000)
    monkeypatch.setattr(wire, "_decode_each", lambda value: pytest.fail("not read on the fast path"))
    for record in records:
        assert len(record.value) <= ENVELOPE_BYTES
        decoded = decode(record.value, record.headers)
        assert all(isinstance(event, RawEvent) for event in decoded)
        assert decode_plain([record.value])[1] == [], "read as columns"
        assert record.key == record.events[0]["subject"].encode()
    at = {(record.partition, record.offset): record for record in records}
    for event, receipt in zip(sent, receipts, strict=True):
        assert receipt.offset is not None
        assert at[receipt.partition, receipt.offset].events[receipt.place]["id"] == event.event_id


async def test_a_broker_that_freezes_costs_time_and_nothing_else(tmp_path: Path) -> None:
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)
        transport = KafkaTransport(topic, bootstrap=broker.bootstrap, request_timeout_ms=1000)
        async with Producer(transport, SOURCE, max_bytes=50_000, spool_dir=tmp_path / "spool") as producer:
            await (await producer.send(TYPE, "tenant-0", {"n": -1}))
            broker.process.signal(signal.SIGSTOP)
            sent = [await producer.send(TYPE, f"tenant-{n % 23}", {"n": n}) for n in range(2000)]
            assert sent[-1].spooled and producer.memory_bytes <= 50_000
            while producer.trouble is None:
                await asyncio.sleep(0.05)
            broker.process.signal(signal.SIGCONT)
            await producer.flush()
            assert producer.ledger().delivered == 2001 and producer.spool_bytes == 0
        records = await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    each_lane_is_whole(records, 2001)


async def test_a_broker_that_stays_away_ends_close_in_time_and_the_next_producer_goes_on(tmp_path: Path) -> None:
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)

        def transport() -> KafkaTransport:
            return KafkaTransport(topic, bootstrap=broker.bootstrap)

        first = Producer(transport(), SOURCE, max_bytes=50_000, spool_dir=tmp_path / "spool")
        await first.start()
        broker.process.signal(signal.SIGSTOP)
        sent = [await first.send(TYPE, f"tenant-{n % 23}", {"n": n}) for n in range(1000)]
        async with asyncio.timeout(30):  # a request may take 60 s, and this does not wait for it
            await first.close(timeout_s=0.1)
        for event in sent:
            with pytest.raises(StillSpooled):
                await event
        broker.process.signal(signal.SIGCONT)
        async with Producer(transport(), SOURCE, spool_dir=tmp_path / "spool") as second:
            assert second.ledger().recovered == 1000
        records = await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    each_lane_is_whole(records, 1000)


@pytest.mark.parametrize("how", ["ended", "silent"])
async def test_a_kafka_client_that_is_broken_is_replaced(tmp_path: Path, how: str) -> None:
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)
        transport = KafkaTransport(topic, bootstrap=broker.bootstrap, request_timeout_ms=1000)
        async with Producer(transport, SOURCE) as producer:
            await (await producer.send(TYPE, "tenant-0", {"n": 0}))
            assert transport._producer is not None
            sender = transport._producer._sender
            if how == "ended":  # as after an error that aiokafka did not expect
                sender._message_accumulator.fail_all(errors.KafkaError("Unexpected error during batch delivery"))
            sender.sender_task.cancel()
            sent = [await producer.send(TYPE, f"tenant-{n}", {"n": n}) for n in range(1, 30)]
            await asyncio.gather(*sent)
        records = await read_until(broker.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    each_lane_is_whole(records, 30)


async def test_kills_of_the_broker_lose_nothing_double_no_content_and_keep_the_order(tmp_path: Path) -> None:
    cluster = KafkaCluster(tmp_path / "kafka")
    try:
        await cluster.start()
        topic = await new_topic(cluster.bootstrap, PARTITIONS)
        transport = KafkaTransport(topic, bootstrap=cluster.bootstrap, request_timeout_ms=5000)
        async with Producer(
            transport, SOURCE, max_bytes=200_000, spool_dir=tmp_path / "spool", linger_s=0.01
        ) as producer:
            sent: list[Sent] = []
            stop = asyncio.Event()

            async def keep_sending() -> None:
                while not stop.is_set():
                    sent.append(await producer.send(TYPE, f"tenant-{len(sent) % 23}", {"n": len(sent)}))
                    await asyncio.sleep(0.001)

            sending = asyncio.create_task(keep_sending())
            for _ in range(2):
                before = producer.ledger().delivered
                while producer.ledger().delivered < before + 500:
                    await asyncio.sleep(0.01)
                await cluster.kill()
                accepted = producer.ledger().accepted
                while producer.ledger().accepted < accepted + 500:  # a service goes on while the broker is away
                    await asyncio.sleep(0.01)
                await cluster.start()
            stop.set()
            await sending
            await producer.flush()
            assert producer.ledger().delivered == len(sent)
        records = await read_until(cluster.bootstrap, topic, PARTITIONS, {event.event_id for event in sent})
    finally:
        await cluster.stop()
    each_lane_is_whole(records, len(sent))


_VICTIM = """
import asyncio, sys
from meterline_client import KafkaTransport, Producer
from tests.client.doubles import SOURCE, TYPE

async def main(bootstrap, topic, spool):
    async with Producer(KafkaTransport(topic, bootstrap=bootstrap), SOURCE, spool_dir=spool, durable=True) as producer:
        number = 0
        while True:
            sent = await producer.send(TYPE, f"tenant-{number % 23}", {"n": number})
            print(sent.event_id, producer.ledger().delivered, flush=True)
            number += 1
            await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kills_of_the_producer_in_the_middle_of_sending_lose_nothing_that_was_accepted(tmp_path: Path) -> None:
    accepted: set[str] = set()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, PARTITIONS)
        spool = tmp_path / "spool"
        for life in range(3):
            arguments = [sys.executable, "-c", _VICTIM, broker.bootstrap, topic, str(spool)]
            victim = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env=environ)
            assert victim.stdout is not None
            delivered = 0
            while delivered < 500 + 333 * life:  # while acknowledgements flow, and files come and go
                line = (await victim.stdout.readline()).decode().split()
                accepted.add(line[0])
                delivered = int(line[1])
            victim.kill()
            async for late in victim.stdout:
                if late.endswith(b"\n"):
                    accepted.add(late.decode().split()[0])
            await victim.wait()
        async with Producer(KafkaTransport(topic, bootstrap=broker.bootstrap), SOURCE, spool_dir=spool) as last:
            recovered = last.ledger().recovered
        records = await read_until(broker.bootstrap, topic, PARTITIONS, accepted)
    assert recovered > 0, "each life ended with something on its disk"
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        for event in record.events:
            lane = runs[event["id"].split("-")[0]][record.partition]
            assert lane.setdefault(event["id"], event) == event, "an id has one content"
    assert len(runs) == 3
    found = {id for run in runs.values() for lane in run.values() for id in lane}
    assert accepted <= found and len(found) <= len(accepted) + 3, (
        "at most the one event that was on its way to the test"
    )
    for run in runs.values():
        for lane in run.values():
            assert counters([*lane.values()]) == [*range(1, len(lane) + 1)], "in order of first appearance, no gap"


async def test_event_hubs_connection_string_over_sasl_ssl_and_a_wrong_key(
    kafka_sasl: KafkaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    topic = await new_topic(kafka_sasl.bootstrap, PARTITIONS)
    right = KafkaTransport(topic, connection_string=kafka_sasl.connection_string, ca_file=str(kafka_sasl.ca_file))
    async with Producer(right, SOURCE) as producer:
        receipt = await (await producer.send(TYPE, "acme", 1))
        assert receipt.offset == 0
    wrong = another_key(kafka_sasl.sasl_port, "d3Jvbmc=")
    refused = KafkaTransport(topic, connection_string=wrong, ca_file=str(kafka_sasl.ca_file))
    with pytest.raises(ConfigurationError, match="AuthenticationFailed") as raised:
        await Producer(refused, SOURCE).start()
    stranger = KafkaTransport(topic, connection_string=kafka_sasl.connection_string)
    with pytest.raises(ConfigurationError, match="SSLCertVerificationError"):
        await Producer(stranger, SOURCE).start()
    for text in (repr(right), repr(refused), str(raised.value), caplog.text):
        assert "d3Jvbmc=" not in text and kafka_sasl.connection_string not in text


async def test_a_record_larger_than_the_broker_takes_has_failed_and_the_next_one_passes(kafka: KafkaCluster) -> None:
    topic = await new_topic(kafka.bootstrap, 1)
    producer = Producer(KafkaTransport(topic, bootstrap=kafka.bootstrap), SOURCE)
    await producer.start()
    large = await producer.send(TYPE, "acme", "x" * 2_000_000)
    small = await producer.send(TYPE, "acme", "x")
    assert (await small).offset == 0
    with pytest.raises(Exception, match="MessageSizeTooLarge"):
        await large
    with pytest.raises(Exception, match="1 events failed"):
        await producer.close()


async def test_a_topic_that_is_not_there_and_a_broker_that_is_not_there(kafka: KafkaCluster) -> None:
    with pytest.raises(ConfigurationError, match="'not-there' does not exist"):
        await Producer(KafkaTransport("not-there", bootstrap=kafka.bootstrap), SOURCE).start()
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(TransportError, match=nobody) as raised:
        await Producer(KafkaTransport("usage", bootstrap=nobody), SOURCE).start()
    assert raised.value.retryable and "ConnectionRefusedError" in str(raised.value)


@pytest.mark.parametrize("options", [{}, {"bootstrap": "a:1", "connection_string": "b"}])
def test_a_transport_needs_exactly_one_broker(options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="give bootstrap, or connection_string"):
        KafkaTransport("usage", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("bootstrap", ["", "localhost", "localhost:", "a:1,b", ":9092", "a:70000"])
def test_an_address_without_host_or_port_is_named(bootstrap: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a broker"):
        KafkaTransport("usage", bootstrap=bootstrap)


def test_a_connection_string_that_lacks_a_part_is_named_without_its_secret() -> None:
    with pytest.raises(ConfigurationError, match="lacks SharedAccessKeyName") as raised:
        KafkaTransport("usage", connection_string="Endpoint=sb://x/;SharedAccessKey=c2VjcmV0")
    assert "c2VjcmV0" not in str(raised.value)
    whole = "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0"
    assert "c2VjcmV0" not in repr(parse_eventhubs(whole)) and parse_eventhubs(whole).bootstrap == "x:9093"
