"""The spool: what does not fit goes to disk, survives the process, and leaves in order with the same ids."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterline_client import ConfigurationError, DeliveryFailed, Ledger, Producer, SpoolError, SpoolFull, StillSpooled
from meterline_client import spool as spooling
from meterline_client.hashing import partition_for
from meterline_client.segments import Segment
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters, settled

PAD = "x" * 500


async def closed(producer: Producer, clock: ManualClock) -> None:
    """Close with the broker away: the deadline passes."""
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    await closing


def left_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.events"))


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


# --- crashes -----------------------------------------------------------------------------------------------------------

_VICTIM = """
import asyncio, sys
from meterline_client import KafkaTransport, Producer
from tests.client.doubles import Recorder, SOURCE, TYPE

async def main():
    recorder = Recorder(3)
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=sys.argv[1], durable=True, run="victimrun")
    await producer.start()
    number = 0
    while True:
        sent = await producer.send(TYPE, f"s{number % 7}", number)
        sys.stdout.write(sent.event_id + "\\n")
        sys.stdout.flush()
        number += 1
        if number % 50 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


async def test_after_a_kill_9_every_event_that_was_accepted_is_sent(tmp_path: Path) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert victim.stdout is not None
    accepted = [victim.stdout.readline().strip() for _ in range(1000)]
    victim.send_signal(signal.SIGKILL)
    accepted += [line.strip() for line in victim.stdout if line.endswith("\n")]
    victim.wait()
    recorder = Recorder(3)
    async with Producer(recorder, SOURCE, spool_dir=tmp_path) as producer:
        assert producer.ledger().recovered >= len(accepted) >= 1000
    found = [event["id"] for event in recorder.all_events()]
    assert {*accepted} <= {*found} and len(found) == len({*found})
    assert len(found) <= len(accepted) + 1, "at most the one that was on its way to the test"
    for partition in range(3):
        assert counters(recorder.events(partition)) == [*range(1, len(recorder.events(partition)) + 1)]


@pytest.mark.parametrize("torn", [1, 7, 8, 9, 40, 300])
async def test_a_torn_tail_is_cut_with_a_warning_and_everything_before_it_survives(
    tmp_path: Path, torn: int, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    for number in range(10):
        await first.send(TYPE, "a", [number, PAD])
    await closed(first, clock)
    (path,) = left_in(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn])
    async with asyncio.timeout(10):
        second = Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock)
        await second.start()
        await closed(second, clock)
    assert path.stat().st_size < len(whole) - torn
    assert "are not a whole event" in caplog.text and "9 whole events" in caplog.text and str(path) in caplog.text
    caplog.clear()
    recorder.away = False
    with caplog.at_level(logging.WARNING, logger="meterline.client"):
        async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
            pass
    assert counters(recorder.events(0)) == [*range(1, 10)]
    assert "are not a whole event" not in caplog.text, "it was cut the first time"


async def test_a_flipped_bit_is_noticed_by_its_checksum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    for number in range(3):
        await first.send(TYPE, "a", [number, PAD])
    await closed(first, clock)
    (path,) = left_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
        pass
    assert counters(recorder.events(0)) == [1, 2]
    assert "are not a whole event" in caplog.text


@pytest.mark.parametrize("length", [0, 5])
async def test_a_crash_at_the_very_beginning_of_a_file_is_no_error(tmp_path: Path, length: int) -> None:
    home = tmp_path / "00000001-deadbeef"
    home.mkdir()
    (home / "lane-00000-00000000000000000000.events").write_bytes(b"meterline-spool-1\n"[:length])
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path) as producer:
        assert producer.ledger().recovered == 0
    assert left_in(tmp_path) == []


async def test_a_disk_that_refuses_accepts_nothing_and_what_was_written_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(1)
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=ManualClock())
    await producer.start()
    await producer.send(TYPE, "a", 1)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpoolError, match="No space left on device"):
        await producer.send(TYPE, "a", 2)
    monkeypatch.setattr(os, "write", write)
    assert producer.ledger().accepted == 1
    await producer.send(TYPE, "a", 3)
    await producer.close()
    assert [(event["data"], event["id"][-2:]) for event in recorder.events(0)] == [(1, "-1"), (3, "-2")]


async def test_what_cannot_be_put_away_at_the_end_is_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock)
    await producer.start()
    sent = await producer.send(TYPE, "a", 1)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    with pytest.raises(DeliveryFailed, match="1 events failed"):
        await closing
    with pytest.raises(DeliveryFailed):
        await sent


async def test_what_cannot_be_read_back_has_failed_and_its_file_is_kept(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await producer.start()
    await producer.send(TYPE, "a", "on the road")
    await clock.pass_s(1)
    damaged = await producer.send(TYPE, "a", "damaged")
    (path,) = left_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    recorder.away = False
    await clock.pass_s(20)
    await clock.pass_s(20)
    with pytest.raises(DeliveryFailed, match="is damaged at byte"):
        await damaged
    with pytest.raises(DeliveryFailed):
        await producer.close()
    assert left_in(tmp_path) == [path] and path.read_bytes() == data


async def test_what_was_written_is_synced_as_often_as_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}") if sys.platform == "linux" else "")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, fsync_s=3, clock=clock)
    await producer.start()
    await producer.send(TYPE, "a", 1)
    await clock.pass_s(2)
    assert synced == []
    await clock.pass_s(1)
    while len(synced) < 2:
        await asyncio.sleep(0.001)
    (path,) = left_in(tmp_path)
    assert sys.platform != "linux" or synced == [str(path), str(path.parent)], (
        "the file, and the directory that names it"
    )

    def refused(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    await producer.send(TYPE, "a", 2)
    await clock.pass_s(3)
    while "cannot be synced" not in caplog.text:
        await clock.pass_s(3)
    monkeypatch.setattr(os, "fsync", fsync)
    recorder.away = False
    await clock.pass_s(20)
    await clock.pass_s(20)
    assert producer.ledger().delivered == 2
    assert isinstance(producer.trouble, SpoolError), "whether all is on the disk nobody knows any more"
    await closed(producer, clock)


async def test_a_full_spool_blames_no_disk_that_only_could_not_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    recorder, clock = Recorder(1), ManualClock()
    producer = Producer(
        recorder,
        SOURCE,
        max_bytes=300,
        spool_dir=tmp_path,
        max_spool_bytes=1000,
        fsync_s=3,
        linger_s=100.0,
        clock=clock,
    )
    await producer.start()
    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", refused)
        producer.try_send(TYPE, "a", "x" * 200)
        while producer.trouble is None:
            await clock.pass_s(3)
    with pytest.raises(SpoolFull, match="nothing but speed"):
        for _ in range(20):
            producer.try_send(TYPE, "a", "x" * 200)
    await closed(producer, clock)


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


def test_a_damaged_file_is_said_with_file_and_byte(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.events")
    start = segment.size
    segment.append(b"a", b"{}")
    segment.append(b"a", b"[]")
    length = segment.size - start
    assert segment.read(start, length) == [b"{}", b"[]"]
    os.truncate(segment.path, segment.size - 1)
    with pytest.raises(SpoolError, match=r"x\.events is damaged at byte"):
        segment.read(start, length)
    segment.close()
