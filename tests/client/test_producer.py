"""Sending: outcomes, linger, retries in order, and what is told of what fails."""

from __future__ import annotations

import asyncio

import pytest

from meterline_client import DeliveryFailed, Failure, Ledger, Producer, Receipt, TransportError
from tests.client.doubles import PAD, SOURCE, TYPE, ManualClock, Recorder, Unreachable, counters, settled


async def test_awaiting_an_event_tells_where_it_is() -> None:
    recorder = Recorder(1)
    async with Producer(recorder, SOURCE, linger_s=0.001, run="abcdef01") as producer:
        first, second = await producer.send(TYPE, "a", 1), await producer.send(TYPE, "a", 2)
        assert (first.event_id, second.event_id) == ("abcdef01-0-1", "abcdef01-0-2")
        assert [*await asyncio.gather(first, second)] == [Receipt(0, 0, 0), Receipt(0, 0, 1)]
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


# --- failures ----------------------------------------------------------------------------------------------------------


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


async def test_a_defect_of_the_transport_gives_up_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody expected may be over at the next attempt; an event, and what is on disk of it, would be gone for ever."""
    recorder, clock = Recorder(1), ManualClock()
    send = recorder.send

    async def defect(partition: int, key: bytes, value: bytes) -> int | None:
        raise ZeroDivisionError("a defect")

    recorder.send = defect  # type: ignore[method-assign]
    producer = Producer(recorder, SOURCE, clock=clock)
    await producer.start()
    sent = await producer.send(TYPE, "a", 1)
    await clock.pass_s(1)
    await clock.pass_s(1)
    assert "ZeroDivisionError: a defect -> a defect of the transport: report it" in str(producer.trouble)
    assert "Traceback" in caplog.text
    recorder.send = send  # type: ignore[method-assign]
    await clock.pass_s(10)
    assert await sent == Receipt(0, 0, 0)
    assert producer.trouble is None
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


async def test_the_delivery_timeout_counts_while_there_is_no_connection_yet() -> None:
    clock = ManualClock()
    producer = Producer(Unreachable(), SOURCE, linger_s=0.0, delivery_timeout_s=30, partitions=1, clock=clock)
    await producer.start()
    sent = producer.try_send(TYPE, "a", 1)
    await clock.pass_s(0.01)
    for _ in range(2):
        await clock.pass_s(14)
    assert not sent.done
    await clock.pass_s(14)
    with pytest.raises(DeliveryFailed, match="nobody listens"):
        await sent
    with pytest.raises(DeliveryFailed):
        await producer.close()


async def test_the_delivery_timeout_ends_an_attempt_that_gets_no_answer() -> None:
    recorder, clock, ends = Recorder(1), ManualClock(), []
    send = recorder.send

    async def unanswered(partition: int, key: bytes, value: bytes) -> int | None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ends.append(len(recorder.attempts))
            raise
        return None

    recorder.send = unanswered  # type: ignore[method-assign]
    producer = Producer(recorder, SOURCE, linger_s=0.0, delivery_timeout_s=30, clock=clock)
    await producer.start()
    sent = producer.try_send(TYPE, "a", 1)
    await clock.pass_s(0.01)
    after = producer.try_send(TYPE, "a", 2)
    recorder.send = send  # type: ignore[method-assign]
    await clock.pass_s(30)
    with pytest.raises(DeliveryFailed, match="partition 0: no answer within 30 s"):
        await sent
    await clock.pass_s(1)
    assert (await after).offset == 0
    assert ends == [0], "it is over before the next one of its lane leaves"
    with pytest.raises(DeliveryFailed):
        await producer.close()
