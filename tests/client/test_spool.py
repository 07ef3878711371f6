"""The spool: what does not fit goes to disk, survives the process, and leaves in order with the same ids."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterline_client import ConfigurationError, Ledger, Producer, SpoolError, SpoolFull, StillSpooled
from meterline_client import spool as spooling
from meterline_client.hashing import partition_for
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters, settled
from tests.client.spooled import PAD, closed, left_in


async def test_what_does_not_fit_into_memory_goes_to_disk_and_leaves_in_order(tmp_path: Path) -> None:
    recorder, clock = Recorder(2), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, max_bytes=10_000, spool_dir=tmp_path, clock=clock) as producer:
        sent = [await producer.send(TYPE, f"s{number % 7}", [number, PAD]) for number in range(500)]
        assert producer.memory_bytes <= 10_000 and producer.spool_bytes > 250_000
        assert not sent[0].spooled and sent[-1].spooled
        recorder.away = False
        await clock.pass_s(20)
        await producer.flush()
        receipts = await asyncio.gather(*sent)
        assert left_in(tmp_path) == [] and producer.spool_bytes == 0
        later = await producer.send(TYPE, "s1", "later")
        assert not later.spooled, "memory again, once the disk has nothing more of the lane"
    for partition in range(2):
        found = recorder.events(partition)
        assert counters(found) == [*range(1, len(found) + 1)]
        numbers = [event["data"][0] for event in found if event["data"] != "later"]
        assert numbers == [n for n in range(500) if partition_for(b"s%d" % (n % 7), 2) == partition]
    for number, receipt in enumerate(receipts):
        event = json.loads(recorder.records[receipt.partition][receipt.offset or 0])[receipt.place]
        assert event["data"][0] == number


async def test_the_next_producer_sends_what_is_left_first_with_the_same_ids_to_the_same_partitions(
    tmp_path: Path,
) -> None:
    recorder, clock = Recorder(2), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, max_bytes=5000, spool_dir=tmp_path, run="firstrun", clock=clock)
    await first.start()
    sent = [await first.send(TYPE, f"s{number % 7}", [number, PAD]) for number in range(200)]
    await closed(first, clock)
    with pytest.raises(StillSpooled):
        await sent[-1]
    assert sent[0].spooled, "what was in memory was put to disk, too"
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, run="secondrun", clock=clock) as second:
        assert second.ledger() == Ledger(0, 200, 0, 0, 200)
        await second.send(TYPE, "s0", "new")
        await second.flush()
        assert second.ledger() == Ledger(1, 200, 201, 0, 0)
    events = recorder.all_events()
    assert sorted(event["id"] for event in events) == sorted(
        [event.event_id for event in sent] + ["secondrun-0-1"]
    ) or (sorted(event["id"] for event in events) == sorted([event.event_id for event in sent] + ["secondrun-1-1"]))
    for partition in range(2):
        found = recorder.events(partition)
        old = [event for event in found if event["id"].startswith("firstrun")]
        assert found[: len(old)] == old, "the old ones first"
        assert counters(old) == [*range(1, len(old) + 1)]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


async def test_extension_attributes_are_on_disk_with_their_event(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    await first.send(TYPE, "acme", 1, extensions={"traceparent": "00-1-2-03", "priority": 3})
    await closed(first, clock)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
        await clock.pass_s(20)
    (event,) = recorder.events(0)
    assert (event["traceparent"], event["priority"]) == ("00-1-2-03", 3)


async def test_what_several_producers_left_leaves_in_the_order_of_their_lives(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    for number, run in enumerate(["zzzzzzzz", "mmmmmmmm", "aaaaaaaa"]):
        producer = Producer(recorder, SOURCE, spool_dir=tmp_path, run=run, clock=clock)
        await producer.start()
        await producer.send(TYPE, "a", number)
        await closed(producer, clock)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path) as last:
        assert last.ledger().recovered == 3
    assert [event["data"] for event in recorder.events(0)] == [0, 1, 2]


@pytest.mark.parametrize("on_disk", [5, 300])
async def test_disk_memory_and_disk_again_are_read_back_in_order(tmp_path: Path, on_disk: int) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, max_bytes=5000, spool_dir=tmp_path, clock=clock)
    await first.start()
    numbers = itertools.count()
    while not (await first.send(TYPE, "a", [next(numbers), PAD])).spooled:
        pass
    for _ in range(on_disk):
        await first.send(TYPE, "a", [next(numbers), PAD])
    recorder.away, recorder.takes = False, 1  # what was in memory arrives; the first of the disk is on the road, stuck
    await clock.pass_s(20)
    assert recorder.away and first.memory_bytes == 0
    for _ in range(30):
        await first.send(TYPE, "a", [next(numbers), PAD])
    await closed(first, clock)
    recorder.away, recorder.takes = False, None
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
        pass
    count = next(numbers)
    assert [event["data"][0] for event in recorder.events(0)] == [*range(count)]
    assert counters(recorder.events(0)) == [*range(1, count + 1)]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(["send", "send", "send", "away", "back", "time", "restart"]), max_size=60))
def test_whatever_happens_nothing_is_lost_and_each_lane_keeps_its_order(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(_whatever_happens(steps, tmp_path_factory.mktemp("spool")))


async def _whatever_happens(steps: list[str], directory: Path) -> None:
    recorder, clock = Recorder(2), ManualClock()
    runs = iter(range(100))

    async def started() -> Producer:
        producer = Producer(
            recorder, SOURCE, max_bytes=3000, spool_dir=directory, run=f"run{next(runs):05d}", clock=clock
        )
        await producer.start()
        return producer

    producer, number = await started(), 0
    for step in steps:
        if step == "send":
            for _ in range(3):
                await producer.send(TYPE, f"s{number % 3}", [number, PAD])
                number += 1
        elif step == "time":
            await clock.pass_s(15)
        elif step == "restart":
            closing = asyncio.create_task(producer.close(timeout_s=1))
            await clock.pass_s(1)
            await closing
            producer = await started()
        else:
            recorder.away = step == "away"
        ledger = producer.ledger()
        assert ledger.failed == 0
    recorder.away = False
    closing = asyncio.create_task(producer.close(timeout_s=100))
    while not closing.done():
        await clock.pass_s(20)
    await closing
    for partition in range(2):
        first_seen = [*dict.fromkeys(event["data"][0] for event in recorder.events(partition))]
        assert first_seen == [n for n in range(number) if partition_for(b"s%d" % (n % 3), 2) == partition]
    contents: dict[str, object] = {}
    for event in recorder.all_events():
        assert contents.setdefault(event["id"], event) == event, "an id has one content"
    assert left_in(directory) == []


async def test_a_spool_that_is_full_too_makes_send_wait_and_try_send_raise(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    options = {"max_bytes": 2000, "spool_dir": tmp_path, "max_spool_bytes": 5000, "clock": clock}
    async with Producer(recorder, SOURCE, **options) as producer:  # type: ignore[arg-type]
        accepted = 0
        with pytest.raises(SpoolFull, match="on disk"):
            while True:
                producer.try_send(TYPE, "a", [accepted, PAD])
                accepted += 1
        assert producer.spool_bytes <= 5000
        waiting = asyncio.create_task(producer.send(TYPE, "a", [accepted, PAD]))
        await settled()
        assert not waiting.done()
        recorder.away = False
        while not waiting.done():
            await clock.pass_s(20)
    assert [event["data"][0] for event in recorder.events(0)] == [*range(accepted + 1)]


async def test_durable_puts_every_event_on_disk_before_send_returns(tmp_path: Path) -> None:
    recorder = Recorder(2)
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=ManualClock()) as producer:
        for number in range(20):
            sent = await producer.send(TYPE, f"s{number}", [number, "durable"])
            assert sent.spooled
            assert sum(path.read_bytes().count(b"durable") for path in left_in(tmp_path)) == number + 1
        assert producer.memory_bytes == 0
        await producer.flush()
        assert left_in(tmp_path) == []
    assert len(recorder.all_events()) == 20


async def test_a_large_spool_is_many_files_and_each_goes_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES", 100_000)
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    async with Producer(recorder, SOURCE, max_bytes=1000, spool_dir=tmp_path, clock=clock) as producer:
        for number in range(1000):
            await producer.send(TYPE, "a", [number, PAD])
        many = len(left_in(tmp_path))
        assert many > 4
        recorder.away = False
        await clock.pass_s(20)
        await producer.flush()
        assert left_in(tmp_path) == []
    assert counters(recorder.events(0)) == [*range(1, 1001)]


# --- whose it is -------------------------------------------------------------------------------------------------------


async def test_a_directory_belongs_to_one_producer_at_a_time(tmp_path: Path) -> None:
    async with Producer(Recorder(), SOURCE, spool_dir=tmp_path):
        with pytest.raises(SpoolError, match="in use by another producer"):
            await Producer(Recorder(), SOURCE, spool_dir=tmp_path).start()
    async with Producer(Recorder(), SOURCE, spool_dir=tmp_path):
        pass


async def test_a_directory_belongs_to_one_topic(tmp_path: Path) -> None:
    async with Producer(Recorder(topic="usage"), SOURCE, spool_dir=tmp_path):
        pass
    with pytest.raises(ConfigurationError, match="for topic 'usage', not for 'other'"):
        await Producer(Recorder(topic="other"), SOURCE, spool_dir=tmp_path).start()


async def test_events_are_never_sent_to_another_partition_because_the_topic_has_fewer(tmp_path: Path) -> None:
    recorder, clock = Recorder(8), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    for number in range(50):
        await first.send(TYPE, f"s{number}", number)
    await closed(first, clock)
    with pytest.raises(ConfigurationError, match="the spool holds events for partition"):
        await Producer(Recorder(2), SOURCE, spool_dir=tmp_path).start()
    more = Recorder(16)
    async with Producer(more, SOURCE, spool_dir=tmp_path):
        pass
    assert max(partition for partition, records in more.records.items() if records) < 8


async def test_what_is_no_spool_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SpoolError, match="no part of a spool"):
        await Producer(Recorder(), SOURCE, spool_dir=tmp_path).start()
