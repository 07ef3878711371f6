"""A producer's life: its start, its run that no other shares, its flush and its close."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from meterline_client import Closed, ConfigurationError, DeliveryFailed, Failure, Ledger, Producer, TransportError
from tests.client.doubles import PAD, SOURCE, TYPE, ManualClock, Recorder, settled


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


# --- its run -----------------------------------------------------------------------------------------------------------


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


async def test_who_closes_it_besides_waits_until_it_is_closed() -> None:
    """A signal handler closes it, and so does the end of `async with`: the loop must not end before the first is through."""
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, clock=clock)
    await producer.start()
    sent = await producer.send(TYPE, "a", 1)
    first, second = asyncio.create_task(producer.close()), asyncio.create_task(producer.close())
    await clock.pass_s(1)
    assert not first.done() and not second.done()
    recorder.away = False
    await clock.pass_s(10)
    assert first.done() and second.done() and (await sent).offset == 0
    await producer.close()


def test_a_source_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is no valid text"):
        Producer(Recorder(1), "//half\ud800")
