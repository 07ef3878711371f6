"""Back-pressure: memory is bounded, and who waits for room gets it in turn, or is told that there is none."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from pathlib import Path

import pytest

from meterline_client import EventRefused, Ledger, Producer, SpoolFull
from meterline_client.turns import Turns
from tests.client.doubles import PAD, SOURCE, TYPE, ManualClock, Recorder, counters, settled


async def test_memory_is_bounded_while_the_broker_is_away() -> None:
    recorder, clock = Recorder(2), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, max_bytes=50_000, clock=clock)
    await producer.start()
    accepted = 0
    with pytest.raises(SpoolFull, match="no room"):
        while True:
            producer.try_send(TYPE, f"s{accepted % 5}", PAD)
            accepted += 1
            await settled()
    assert 40 < accepted < 60 and producer.memory_bytes <= 50_000
    assert producer.ledger() == Ledger(accepted, 0, 0, 0, accepted)
    recorder.away = False
    await clock.pass_s(20)
    await producer.close()
    assert len(recorder.all_events()) == accepted and producer.memory_bytes == 0


async def test_max_bytes_is_what_python_takes() -> None:
    producer = Producer(Recorder(4), SOURCE, max_bytes=4_000_000, clock=ManualClock())
    await producer.start()
    for number in range(100):  # the subjects' routes are remembered, and bounded by themselves
        producer.try_send(TYPE, f"s{number}", 0)
    before = producer.memory_bytes
    tracemalloc.start()
    try:
        with pytest.raises(SpoolFull):
            for number in itertools.count():
                producer.try_send(TYPE, f"s{number % 100}", number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * (producer.memory_bytes - before)
    await producer.close()


async def test_a_loop_of_sends_leaves_the_lanes_their_turn() -> None:
    recorder = Recorder(1)
    async with Producer(recorder, SOURCE) as producer:
        for _ in range(2000):
            await producer.send(TYPE, "a", PAD)
        assert producer.ledger().delivered > 0


async def test_send_waits_for_room_in_the_order_of_the_callers() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, max_bytes=3000, clock=clock) as producer:
        waiting = [asyncio.create_task(producer.send(TYPE, "a", [number, PAD])) for number in range(20)]
        await clock.pass_s(60)
        assert sum(task.done() for task in waiting) < 4
        recorder.away = False
        while not all(task.done() for task in waiting):
            await clock.pass_s(20)
    assert [event["data"][0] for event in recorder.events(0)] == [*range(20)]


async def test_the_time_of_an_event_is_when_it_was_used_not_when_there_was_room() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, max_bytes=2000, clock=clock) as producer:
        await producer.send(TYPE, "a", PAD)
        waiting = asyncio.create_task(producer.send(TYPE, "a", PAD))
        await clock.pass_s(30)
        recorder.away = False
        while not waiting.done():
            await clock.pass_s(30)
    first, second = recorder.events(0)
    assert first["time"] == second["time"] == "2026-01-31T12:00:00.123Z"


async def test_waiting_for_room_can_end_at_a_deadline_or_be_cancelled_and_takes_nothing() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, max_bytes=2000, clock=clock) as producer:
        producer.try_send(TYPE, "a", PAD)
        late = asyncio.create_task(producer.send(TYPE, "a", PAD, timeout_s=5))
        cancelled = asyncio.create_task(producer.send(TYPE, "a", PAD))
        patient = asyncio.create_task(producer.send(TYPE, "a", "patient" + PAD))
        await clock.pass_s(4.9)
        assert not late.done()
        await clock.pass_s(0.2)
        with pytest.raises(SpoolFull):
            late.result()
        cancelled.cancel()
        recorder.away = False
        await clock.pass_s(20)
        await clock.pass_s(20)
        assert (await patient).done or patient.done()
        assert producer.ledger().accepted == 2
    assert counters(recorder.events(0)) == [1, 2]


async def test_a_turn_that_is_given_to_a_cancelled_caller_is_the_next_ones() -> None:
    turns = Turns(ManualClock())
    await turns.line_up(None)
    first = asyncio.create_task(turns.line_up(None))
    second = asyncio.create_task(turns.line_up(None))
    await settled()
    turns.next()
    first.cancel()
    await settled()
    assert first.cancelled() and second.done() and turns.taken
    turns.next()
    assert not turns.taken


async def test_nobody_lingers_while_somebody_waits_for_room() -> None:
    recorder, clock = Recorder(8), ManualClock()
    async with Producer(recorder, SOURCE, max_bytes=5000, linger_s=3600, clock=clock) as producer:
        for number in range(100):
            sending = asyncio.create_task(producer.send(TYPE, f"subject-{number}", PAD))
            await settled()
            assert sending.done()
    assert len(recorder.all_events()) == 100


async def test_an_event_larger_than_all_memory_is_refused_and_does_not_wait_for_ever() -> None:
    async with Producer(Recorder(), SOURCE, max_bytes=1000) as producer:
        with pytest.raises(EventRefused, match="larger than all"):
            await producer.send(TYPE, "a", "x" * 1000)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_flush_after_each_event_costs_neither_memory_nor_envelopes(tmp_path: Path, durable: bool) -> None:
    """What is open is not closed by it while another envelope is on the road: a thousand requests that flush share a few."""
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path if durable else None, durable=durable, clock=clock)
    await producer.start()
    for number in range(1000):
        await producer.send(TYPE, "a", number)
        flushing = asyncio.create_task(producer.flush(timeout_s=0.001))
        await clock.pass_s(0.001)
        with pytest.raises(TimeoutError):
            await flushing
    recorder.away = False
    await clock.pass_s(10)
    await producer.flush()
    assert counters(recorder.events(0)) == [*range(1, 1001)]
    assert len(recorder.records[0]) < 10
    await producer.close()


async def test_what_is_remembered_of_subjects_is_bounded() -> None:
    async with Producer(Recorder(1), SOURCE, clock=ManualClock()) as producer:
        tracemalloc.start()
        try:
            for number in range(30_000):
                producer.try_send(TYPE, f"{number:0500d}", 0)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken - producer.memory_bytes < 20_000_000


async def test_a_durable_event_larger_than_the_spool_is_refused_and_holds_nobody_up(tmp_path: Path) -> None:
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path, max_spool_bytes=10_000, durable=True) as producer:
        with pytest.raises(EventRefused, match="larger than all the room there is -> raise max_spool_bytes"):
            await producer.send(TYPE, "a", "x" * 20_000)
        await (await producer.send(TYPE, "a", 1))
