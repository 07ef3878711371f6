"""Sending: outcomes, linger, back-pressure, retries in order, flush and close."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tracemalloc

import pytest

from meterline_client import (
    Closed,
    ConfigurationError,
    DeliveryFailed,
    EventRefused,
    Failure,
    Ledger,
    Producer,
    Receipt,
    SpoolFull,
    TransportError,
)
from meterline_client.turns import Turns
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters, settled

PAD = "x" * 900


async def test_awaiting_an_event_tells_where_it_is() -> None:
    recorder = Recorder(1)
    async with Producer(recorder, SOURCE, linger_s=0.001, run="abcdef01") as producer:
        first, second = await producer.send(TYPE, "a", 1), await producer.send(TYPE, "a", 2)
        assert (first.event_id, second.event_id) == ("abcdef01-0-1", "abcdef01-0-2")
        assert await asyncio.gather(first, second) == [Receipt(0, 0, 0), Receipt(0, 0, 1)]
        assert await first == Receipt(0, 0, 0), "again, and later"
    assert producer.ledger() == Ledger(accepted=2, recovered=0, delivered=2, failed=0, pending=0)


async def test_an_event_waits_for_company_no_longer_than_its_linger() -> None:
    recorder, clock = Recorder(1), ManualClock()
    async with Producer(recorder, SOURCE, linger_s=0.05, clock=clock) as producer:
        producer.try_send(TYPE, "a", 1)
        await clock.pass_s(0.04)
        producer.try_send(TYPE, "a", 2)
        assert not recorder.records[0]
        await clock.pass_s(0.01)
        assert [len(recorder.events(0)), len(recorder.records[0])] == [2, 1]


async def test_a_long_linger_leaves_no_timers_behind() -> None:
    clock = ManualClock()
    async with Producer(Recorder(1), SOURCE, linger_s=3600, clock=clock) as producer:
        for _ in range(1000):
            await producer.send(TYPE, "a", PAD)
            await settled()
        assert clock.timers == 1, "of the one envelope that is open"


async def test_the_ids_of_a_lane_have_no_gap_and_lanes_do_not_share_them() -> None:
    recorder = Recorder(3)
    async with Producer(recorder, SOURCE, run="abcdef01") as producer:
        for number in range(300):
            await producer.send(TYPE, f"subject-{number % 17}", number)
    for partition in range(3):
        events = recorder.events(partition)
        assert counters(events) == [*range(1, len(events) + 1)]
        assert {event["id"].rsplit("-", 1)[0] for event in events} == {f"abcdef01-{partition}"}


async def test_a_retry_is_the_same_bytes_and_nothing_overtakes_it() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, linger_s=0.0, clock=clock) as producer:
        producer.try_send(TYPE, "a", 1)
        await clock.pass_s(0.01)
        producer.try_send(TYPE, "a", 2)
        for _ in range(4):
            await clock.pass_s(20)
        assert len(recorder.attempts) == 5 and len({*recorder.attempts}) == 1
        assert isinstance(producer.trouble, TransportError)
        recorder.away = False
        await clock.pass_s(20)
        await clock.pass_s(20)
        assert producer.trouble is None
    assert [event["data"] for event in recorder.events(0)] == [1, 2]


async def test_a_lane_whose_broker_is_away_does_not_hold_up_the_others() -> None:
    recorder, clock = Recorder(2), ManualClock()
    producer = Producer(recorder, SOURCE, clock=clock)
    await producer.start()
    subjects = {producer.try_send(TYPE, name, 0).partition: name for name in "abcdefgh"}
    await clock.pass_s(1)
    recorder.stuck = {0}
    producer.try_send(TYPE, subjects[0], "stuck")
    flows = producer.try_send(TYPE, subjects[1], "flows")
    await clock.pass_s(1)
    assert flows.done and recorder.events(1)[-1]["data"] == "flows"
    recorder.stuck = set()
    await clock.pass_s(20)
    await producer.close()
    assert recorder.events(0)[-1]["data"] == "stuck"


# --- bounds ------------------------------------------------------------------------------------------------------------


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


async def test_what_was_given_up_stands_in_nobodys_way() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, linger_s=0.0, delivery_timeout_s=30, clock=clock)
    await producer.start()
    given_up = producer.try_send(TYPE, "a", 1)
    await clock.pass_s(0.001)
    assert isinstance(producer.trouble, TransportError)
    while not given_up.done:
        await clock.pass_s(20)
    with pytest.raises(DeliveryFailed):
        await given_up
    assert producer.trouble is None, "nothing is on the road"
    with pytest.raises(DeliveryFailed):
        await producer.close()


async def test_what_stands_in_the_way_of_one_lane_is_said_while_others_flow() -> None:
    recorder, clock = Recorder(2), ManualClock()
    producer = Producer(recorder, SOURCE, linger_s=0.0, clock=clock)
    await producer.start()
    subjects = {producer.try_send(TYPE, name, 0).partition: name for name in "abcdefgh"}
    await clock.pass_s(0.001)
    recorder.stuck = {0}
    producer.try_send(TYPE, subjects[0], "stuck")
    await clock.pass_s(0.001)
    flows = producer.try_send(TYPE, subjects[1], "flows")
    await clock.pass_s(0.001)  # less than the pause before the next attempt
    assert flows.done and "away" in str(producer.trouble)
    recorder.stuck = set()
    await clock.pass_s(20)
    assert producer.trouble is None
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


# --- failures ----------------------------------------------------------------------------------------------------------


async def test_what_the_broker_refuses_for_good_is_told_three_ways_and_the_lane_goes_on() -> None:
    recorder = Recorder(1)
    recorder.refuse = {0}
    told: list[Failure] = []
    producer = Producer(recorder, SOURCE, linger_s=0.0, on_failure=told.append)
    await producer.start()
    first = await producer.send(TYPE, "a", 1)
    second = await producer.send(TYPE, "a", 2)
    with pytest.raises(DeliveryFailed, match="too large") as raised:
        await second
    assert (raised.value.event_id, raised.value.partition) == (second.event_id, 0)
    assert [failure.event_id for failure in told] == [first.event_id, second.event_id]
    assert b'"data":2}' in told[1].event
    with pytest.raises(DeliveryFailed, match="2 events failed"):
        await producer.flush()
    await producer.flush()  # told once
    recorder.refuse = set()
    await (await producer.send(TYPE, "a", 3))
    await producer.close()
    assert producer.ledger() == Ledger(accepted=3, recovered=0, delivered=1, failed=2, pending=0)


async def test_an_envelope_is_given_up_after_the_delivery_timeout_and_says_so() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, linger_s=0.0, delivery_timeout_s=30, clock=clock)
    await producer.start()
    sent = producer.try_send(TYPE, "a", 1)
    await clock.pass_s(0.01)
    for _ in range(2):
        await clock.pass_s(14)
    assert not sent.done
    await clock.pass_s(14)
    assert sent.done
    with pytest.raises(DeliveryFailed, match="away"):
        await sent
    with pytest.raises(DeliveryFailed):
        await producer.close()


async def test_a_defect_of_the_transport_fails_the_events_and_hangs_nobody() -> None:
    recorder = Recorder(1)

    async def defect(partition: int, key: bytes, value: bytes) -> int | None:
        raise ZeroDivisionError("a defect")

    recorder.send = defect  # type: ignore[method-assign]
    producer = Producer(recorder, SOURCE)
    await producer.start()
    sent = await producer.send(TYPE, "a", 1)
    with pytest.raises(DeliveryFailed, match="ZeroDivisionError: a defect"):
        await producer.flush()
    with pytest.raises(DeliveryFailed):
        await sent
    await producer.close()


async def test_a_callback_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(1)
    recorder.refuse = {0}

    def broken(failure: Failure) -> None:
        raise RuntimeError("in the callback")

    producer = Producer(recorder, SOURCE, on_failure=broken)
    await producer.start()
    await producer.send(TYPE, "a", 1)
    with pytest.raises(DeliveryFailed):
        await producer.close()
    assert "in the callback" in caplog.text


# --- the end -----------------------------------------------------------------------------------------------------------


async def test_flush_sends_what_still_lingers_and_returns_when_all_is_acknowledged() -> None:
    recorder = Recorder(3)
    async with Producer(recorder, SOURCE, linger_s=3600, clock=ManualClock()) as producer:
        sent = [producer.try_send(TYPE, f"s{number}", number) for number in range(10)]
        await producer.flush()
        assert all(event.done for event in sent)


async def test_flush_with_a_deadline_says_how_much_is_left() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, clock=clock)
    await producer.start()
    producer.try_send(TYPE, "a", 1)
    flushing = asyncio.create_task(producer.flush(5))
    await clock.pass_s(5)
    with pytest.raises(TimeoutError, match="1 events"):
        await flushing
    recorder.away = False
    await clock.pass_s(20)
    await producer.close()
    assert recorder.events(0)


async def test_close_without_a_spool_raises_what_remains_after_the_deadline() -> None:
    recorder, clock = Recorder(2), ManualClock()
    recorder.away = True
    told: list[Failure] = []
    producer = Producer(recorder, SOURCE, clock=clock, on_failure=told.append)
    await producer.start()
    sent = [producer.try_send(TYPE, f"s{number}", number) for number in range(10)]
    closing = asyncio.create_task(producer.close(timeout_s=7))
    await clock.pass_s(7)
    with pytest.raises(DeliveryFailed, match="10 events failed") as raised:
        await closing
    assert raised.value.events == 10 and recorder.closed
    assert {failure.event_id for failure in told} == {event.event_id for event in sent}
    for event in sent:
        with pytest.raises(DeliveryFailed, match="closed before"):
            await event
    assert producer.ledger() == Ledger(10, 0, 0, 10, 0)


async def test_after_close_nothing_is_accepted_and_who_waits_is_told() -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, max_bytes=2000, clock=clock)
    await producer.start()
    await producer.send(TYPE, "a", PAD)
    waiting = asyncio.create_task(producer.send(TYPE, "a", PAD))
    await settled()
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    with pytest.raises(DeliveryFailed):
        await closing
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await producer.send(TYPE, "a", 1)
    await producer.close()


async def test_a_start_need_not_wait_for_the_broker_if_it_is_told_the_partitions() -> None:
    recorder, clock = Recorder(3), ManualClock()
    reachable = False
    opened = recorder.open

    async def open_later() -> int:
        if not reachable:
            raise TransportError("nothing listens there", retryable=True)
        return await opened()

    recorder.open = open_later  # type: ignore[method-assign]
    with pytest.raises(TransportError, match="nothing listens"):
        await Producer(recorder, SOURCE, clock=clock).start()
    async with Producer(recorder, SOURCE, partitions=3, clock=clock) as producer:
        sent = await producer.send(TYPE, "a", 1)
        await clock.pass_s(20)
        assert not sent.done and producer.trouble is not None
        reachable = True
        await clock.pass_s(20)
        await clock.pass_s(20)
        assert sent.done


async def test_a_wrong_number_of_partitions_sends_nothing_anywhere() -> None:
    recorder, clock = Recorder(4), ManualClock()
    producer = Producer(recorder, SOURCE, partitions=3, clock=clock)
    await producer.start()
    producer.try_send(TYPE, "a", 1)
    await clock.pass_s(20)
    await clock.pass_s(20)
    assert isinstance(producer.trouble, ConfigurationError) and "has 4 partitions, not 3" in str(producer.trouble)
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    with pytest.raises(DeliveryFailed):
        await closing
    assert not recorder.attempts


@pytest.mark.parametrize("run", ["", "with-dash-in", "short", "x" * 65])
def test_a_run_that_would_spoil_the_ids_is_refused(run: str) -> None:
    with pytest.raises(ConfigurationError, match="no run"):
        Producer(Recorder(), SOURCE, run=run)


async def test_two_producers_never_share_a_run() -> None:
    async with Producer(Recorder(), SOURCE) as first, Producer(Recorder(), SOURCE) as second:
        assert first.run != second.run


_FORKING = """
import asyncio, os
from meterline_client import Closed, Producer
from tests.client.doubles import SOURCE, TYPE, Recorder

def in_a_child(work):
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, work().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 1000).decode()

async def run_of(producer):
    async with producer:
        return producer.run

before = Producer(Recorder(), SOURCE)
first, second = (in_a_child(lambda: asyncio.run(run_of(before))) for _ in range(2))
assert len(first) == len(second) == 16 and first != second

def used():
    try:
        return producer.try_send(TYPE, "a", 1).event_id
    except Closed as error:
        return str(error)

async def main():
    global producer
    async with Producer(Recorder(), SOURCE) as producer:
        print(in_a_child(used))
        assert (await producer.send(TYPE, "a", 1)).event_id.endswith("-1"), "the parent goes on"

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
def test_a_forked_process_never_sends_under_the_ids_of_another() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _FORKING], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not started in this process" in done.stdout
