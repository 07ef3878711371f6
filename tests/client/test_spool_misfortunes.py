"""Killed, torn, damaged, or a disk that refuses: what the spool accepted is sent, or it is said what became of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meterline_client import DeliveryFailed, Producer, SpoolError, SpoolFull
from meterline_client.segments import Segment
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters
from tests.client.spooled import PAD, closed, left_in

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


# --- the disk ----------------------------------------------------------------------------------------------------------


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
    assert (producer.ledger().failed, producer.ledger().pending, producer.memory_bytes) == (1, 0, 0)


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
