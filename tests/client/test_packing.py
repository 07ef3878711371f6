"""Envelopes: bounded, in order per lane, nothing lost, ids without a gap."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from meterline_client import Producer
from meterline_client.hashing import partition_for
from meterline_client.packing import ENVELOPE_BYTES, Envelope
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters

SIZES = st.one_of(st.integers(0, 400), st.integers(15_000, 33_000), st.just(63_700), st.integers(63_500, 64_500))
EVENTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), SIZES, st.booleans()), max_size=60)


@given(EVENTS, st.integers(1, 5))
def test_nothing_is_lost_and_each_lane_keeps_its_order(events: list[tuple[str, int, bool]], partitions: int) -> None:
    asyncio.run(_nothing_is_lost(events, partitions))


async def _nothing_is_lost(events: list[tuple[str, int, bool]], partitions: int) -> None:
    recorder, clock = Recorder(partitions), ManualClock()
    expected = defaultdict(list)
    async with Producer(recorder, SOURCE, clock=clock) as producer:
        for number, (subject, size, pause) in enumerate(events):
            sent = await producer.send(TYPE, subject, {"number": number, "pad": "x" * size})
            assert sent.partition == partition_for(subject.encode(), partitions)
            expected[sent.partition].append(number)
            if pause:
                await clock.pass_s(0.1)
    for partition in range(partitions):
        found = recorder.events(partition)
        assert [event["data"]["number"] for event in found] == expected[partition]
        assert counters(found) == [*range(1, len(found) + 1)]
        for key, value in zip(recorder.keys[partition], recorder.records[partition], strict=True):
            packed = json.loads(value)
            assert key.decode() == packed[0]["subject"]
            assert len(value) <= ENVELOPE_BYTES or len(packed) == 1


async def test_an_envelope_is_filled_before_it_leaves() -> None:
    recorder = Recorder(1)
    async with Producer(recorder, SOURCE, clock=ManualClock()) as producer:
        for _ in range(2000):
            producer.try_send(TYPE, "acme", {"pad": "x" * 100})
    first, *_ = recorder.records[0]
    assert ENVELOPE_BYTES - 300 < len(first) <= ENVELOPE_BYTES


def test_the_bound_of_an_envelope_is_exact() -> None:
    envelope = Envelope(0, b"acme")
    envelope.add(b"x" * (ENVELOPE_BYTES - 10))
    assert envelope.fits(b"y" * 7) and not envelope.fits(b"y" * 8)
    envelope.add(b"y" * 7)
    assert len(envelope.value()) == envelope.size == ENVELOPE_BYTES


async def test_an_event_larger_than_an_envelope_goes_alone_as_it_is() -> None:
    recorder = Recorder(1)
    async with Producer(recorder, SOURCE) as producer:
        for size in (10, 100_000, 10):
            await producer.send(TYPE, "acme", "x" * size)
    assert [len(json.loads(value)) for value in recorder.records[0]] == [1, 1, 1]
    assert len(recorder.records[0][1]) > ENVELOPE_BYTES
