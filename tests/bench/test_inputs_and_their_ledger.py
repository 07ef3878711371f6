"""The generator's ledger equals a naive sum of the bytes it has made; everything else here measures against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path

import orjson
import pytest
from aiokafka.record.memory_records import MemoryRecords

from bench.field import inputs, job
from bench.field.inputs import Input, Keys, Place, Total
from meterline_client import Producer
from meterline_client.packing import ENVELOPE_BYTES
from schemas.events import RawEvent, decode
from schemas.times import parse_rfc3339
from tests.client.doubles import Recorder

HOUR_MS = 1_700_000_000_000 // job.WINDOW_MS * job.WINDOW_MS


def records(given: Input) -> list[tuple[int, bytes, bytes]]:
    """Partition, key and value of every record, as the broker is given them."""
    found = []
    for block in given.blocks:
        for batch in block.batches:
            memory = MemoryRecords(batch.data)
            while (part := memory.next_batch()) is not None:
                found += [(batch.partition, record.key, record.value) for record in part]
    return found


def naive(given: Input, *, deduplicate: bool) -> dict[Place, Total]:
    """Decode, forget what was seen, add up."""
    seen: set[str] = set()
    counts: Counter[Place] = Counter()
    sums: dict[Place, Decimal] = {}
    for _, _, value in records(given):
        told = orjson.loads(value)
        for event in told if isinstance(told, list) else [told]:
            if deduplicate and event["id"] in seen:
                continue
            seen.add(event["id"])
            time_ms = parse_rfc3339(event["time"])
            place = Place(f"{event['subject']}/{event['type']}", time_ms - time_ms % job.WINDOW_MS)
            counts[place] += 1
            sums[place] = sums.get(place, Decimal(0)) + Decimal(repr(event["data"]["tokens"]))
    return {place: Total(count, sums[place]) for place, count in counts.items()}


EVENTS = 130_000


def drawn(*, envelopes: bool, events: int = EVENTS) -> Input:
    keys = Keys(inputs.tenants(50), by_subject=envelopes)
    return inputs.make("test", keys, inputs.zipf(50, events, HOUR_MS, 7), 7, envelopes=envelopes)


@pytest.mark.parametrize("envelopes", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_the_ledger_equals_a_naive_sum_with_and_without_what_is_sent_twice(envelopes: bool, deduplicate: bool) -> None:
    given = drawn(envelopes=envelopes)
    expected = inputs.ledger(given, given.blocks, retries_count=not deduplicate)
    assert expected == naive(given, deduplicate=deduplicate)
    sent_again = given.events - EVENTS
    assert sent_again >= 100, "nothing is sent twice, so deduplication is not tried"
    assert sum(total.events for total in expected.values()) == EVENTS + (0 if deduplicate else sent_again)


@pytest.mark.parametrize("envelopes", [False, True])
@pytest.mark.parametrize("draws", [partial(inputs.zipf, live=True), inputs.uniform], ids=["zipf", "uniform"])
def test_every_key_is_live_after_the_opening_where_that_is_asked(
    draws: Callable[[int, int, int, int], Iterator[inputs.Draw]], envelopes: bool
) -> None:
    count = 30_000
    keys = Keys(inputs.tenants(count), by_subject=envelopes)
    given = inputs.make("test", keys, draws(count, 30_000, HOUR_MS, 7), 7, envelopes=envelopes, opening=count)
    opening = inputs.ledger(given, given.blocks[: given.opening], retries_count=False)
    assert len(opening) == count
    assert inputs.ledger(given, given.blocks, retries_count=False) == naive(given, deduplicate=True)
    assert sum(total.events for total in inputs.ledger(given, given.blocks, retries_count=False).values()) == 60_000


def test_uniform_keys_come_about_as_often_as_each_other_and_zipfs_do_not() -> None:
    most = {}
    for name, draws in (("zipf", inputs.zipf), ("uniform", inputs.uniform)):
        counts = Counter(draw.key for draw in draws(1_000, 50_000, HOUR_MS, 7))
        most[name] = max(counts.values())
    assert most["uniform"] < 120 < 5_000 < most["zipf"]


def test_every_event_is_of_a_new_key_where_that_is_asked() -> None:
    given = inputs.make("test", Keys(inputs.tenants(20_000)), inputs.new_keys(20_000, HOUR_MS, 7), 7)
    expected = inputs.ledger(given, given.blocks, retries_count=False)
    assert len(expected) == 20_000 and {total.events for total in expected.values()} == {1}
    assert expected == naive(given, deduplicate=True)


async def test_envelopes_are_to_the_byte_what_our_client_sends() -> None:
    """The same events sent with the client: the same ids, in the same order, in the same partitions, under the same keys."""
    given = drawn(envelopes=True, events=20_000)
    sent: dict[int, list[bytes]] = {partition: [] for partition in range(job.PARTITIONS)}
    keys: dict[int, list[bytes]] = {partition: [] for partition in range(job.PARTITIONS)}
    for partition, key, value in records(given):
        if not sent[partition] or sent[partition][-1] != value:  # else it is sent again
            sent[partition].append(value)
            keys[partition].append(key)
    run = orjson.loads(sent[0][0])[0]["id"].split("-")[0]
    transport = Recorder(job.PARTITIONS)
    async with Producer(transport, "/bench/field", run=run) as producer:
        for partition in range(job.PARTITIONS):
            for value, key in zip(sent[partition], keys[partition], strict=True):
                for event in orjson.loads(value):
                    moment = parse_rfc3339(event["time"])
                    await producer.send(event["type"], event["subject"], event["data"], time=moment)
                await producer.flush()
                assert transport.records[partition][-1] == value
                assert transport.keys[partition][-1] == key
    assert {partition: transport.records[partition] for partition in sent} == sent


def test_envelopes_are_full_and_count_on_without_a_gap_and_one_that_is_sent_again_is_the_same() -> None:
    given = drawn(envelopes=True)
    counters = [0] * job.PARTITIONS
    last = [b""] * job.PARTITIONS
    again = rests = 0
    for partition, _, value in records(given):
        if value == last[partition]:
            again += 1
            continue
        last[partition] = value
        told = orjson.loads(value)
        rests += len(told) < inputs.ENVELOPE_EVENTS
        for event in told:
            _, lane, counter = event["id"].split("-")
            counters[partition] += 1
            assert (int(lane), int(counter)) == (partition, counters[partition])
    assert len(counters) == job.PARTITIONS and sum(counters) == EVENTS
    assert again == EVENTS // inputs.ENVELOPE_EVENTS // (inputs.RETRY_EVERY // 4)
    assert rests <= job.PARTITIONS, "only the last of each partition is not full"


def test_the_ledger_of_some_blocks_is_of_them_alone() -> None:
    given = drawn(envelopes=False)
    part = Input(given.title, given.names, given.blocks[:2], given.end_ms)
    assert inputs.ledger(given, given.blocks[:2], retries_count=False) == naive(part, deduplicate=True)


@pytest.mark.parametrize("envelopes", [False, True])
def test_every_record_lies_where_its_key_belongs_and_every_event_of_it_too(envelopes: bool) -> None:
    given = drawn(envelopes=envelopes)
    found = records(given)
    assert len(found) == sum(block.records for block in given.blocks)
    for partition, key, value in found:
        told = orjson.loads(value)
        events = told if isinstance(told, list) else [told]
        named = [event["subject"] if envelopes else f"{event['subject']}/{event['type']}" for event in events]
        assert {inputs.partition_of(name) for name in named} == {partition}
        assert key.decode() == named[0]


@pytest.mark.parametrize("envelopes", [False, True])
def test_meterline_reads_every_event_and_envelopes_stay_below_64_kb(envelopes: bool) -> None:
    given = drawn(envelopes=envelopes)
    for _, _, value in records(given):
        assert len(value) <= ENVELOPE_BYTES
        assert all(type(event) is RawEvent for event in decode(value))


def test_times_are_within_the_hour_and_out_of_order_by_no_more_than_is_promised() -> None:
    given = drawn(envelopes=False)
    latest = [0] * job.PARTITIONS
    for partition, _, value in records(given):
        time_ms = parse_rfc3339(orjson.loads(value)["time"])
        assert HOUR_MS <= time_ms < given.end_ms == HOUR_MS + job.WINDOW_MS
        assert time_ms > latest[partition] - job.DISORDER_MS
        latest[partition] = max(latest[partition], time_ms)


def test_closers_pass_the_end_of_every_window_by_more_than_its_grace_in_every_partition() -> None:
    given = drawn(envelopes=False)
    last = Input("closers", (), [inputs.Block(batches=inputs.closers(given))], given.end_ms)
    found = records(last)
    assert sorted(partition for partition, _, _ in found) == list(range(job.PARTITIONS))
    for _, key, value in found:
        assert key.decode().startswith(job.CLOSER)
        assert parse_rfc3339(orjson.loads(value)["time"]) > given.end_ms + job.GRACE_MS


@pytest.mark.parametrize(("envelopes", "size"), [(False, 100), (True, 2)])
def test_each_batch_ends_with_a_probe_that_says_how_many_there_were(envelopes: bool, size: int) -> None:
    names = inputs.tenants(50)
    draws = inputs.zipf(50, 30_000, HOUR_MS, 7)
    given = inputs.make(
        "test", Keys(names, by_subject=envelopes), draws, 7, envelopes=envelopes, batch_records=size, probes=True
    )
    counts: Counter[int] = Counter()
    for block in given.blocks:
        for batch in block.batches:
            part = MemoryRecords(batch.data).next_batch()
            assert part is not None
            found = [record.value for record in part]
            assert len(found) == batch.records <= size
            last = orjson.loads(found[-1])
            last = last[-1] if envelopes else last
            assert last["subject"] == inputs.subject_for(job.PROBE, batch.partition)
            counts[batch.partition] += 1
            assert batch.probe == counts[batch.partition]
    assert set(counts) == set(range(job.PARTITIONS))
    places = {p: t for p, t in naive(given, deduplicate=True).items() if not p.key.startswith(job.PROBE)}
    assert inputs.ledger(given, given.blocks, retries_count=False) == places


def test_the_trace_is_replayed_by_so_many_tenants_in_order_of_time(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    code, conv = (tmp_path / f"AzureLLMInferenceTrace_{name}.csv" for name in ("code", "conv"))
    code.write_text(head + "2023-11-16 18:00:02.5000000,30,4\n")
    conv.write_text(head + "2023-11-16 18:00:01.0000000,374,44\n2023-11-16 18:00:03.0000000,1,2\n")
    names, draws, events = inputs.trace(tmp_path, 2, HOUR_MS)
    given = inputs.make("trace", Keys(names), draws, 7)
    assert given.events == events == 12
    expected = inputs.ledger(given, given.blocks, retries_count=False)
    assert expected == naive(given, deduplicate=True)
    assert expected[Place("llm-conv-1/llm.input", HOUR_MS)] == Total(2, Decimal(375))
    assert expected[Place("llm-code-0/llm.output", HOUR_MS)] == Total(1, Decimal(4))
