"""Killed, torn, damaged, or a disk that refuses: what the spool accepted is sent, or it is said what became of it."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meterline_client import DeliveryFailed, Producer, SpoolError, SpoolFull
from meterline_client.segments import Segment
from meterline_client.spool import Spool
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
    while len(synced) < 3:
        await asyncio.sleep(0.001)
    (path,) = left_in(tmp_path)
    assert sys.platform != "linux" or synced == [str(path), str(path.parent), str(tmp_path)], (
        "the file, and the directories that name it"
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


@pytest.mark.parametrize("damage", ["content", "length", "zeros"])
async def test_damage_in_the_middle_of_a_file_costs_what_is_damaged_and_nothing_behind_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    for number in range(9):
        await first.send(TYPE, "a", [number, PAD])
    await closed(first, clock)
    (path,) = left_in(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"[3,") - 200
    if damage == "content":
        data[at + 210] ^= 1
    else:
        begin = data.rindex(b'{"specversion', 0, at + 200) - 11  # its subject "a", and the frame
        data[begin : begin + 4] = (1 << 30).to_bytes(4, "little") if damage == "length" else bytes(4)
    path.write_bytes(data)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock) as second:
        assert second.ledger().recovered == 8
    assert [event["data"][0] for event in recorder.all_events()] == [0, 1, 2, 4, 5, 6, 7, 8]
    (kept,) = tmp_path.glob("damaged-*")
    assert b"[3," in kept.read_bytes() and b"[4," not in kept.read_bytes()
    assert f"{path} is damaged from byte" in caplog.text and str(kept) in caplog.text
    assert left_in(tmp_path) == []


async def test_what_was_told_as_failed_for_a_full_disk_is_not_sent_by_the_next_producer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, clock, failed = Recorder(1), ManualClock(), []
    recorder.away = True
    first = Producer(
        recorder, SOURCE, spool_dir=tmp_path, clock=clock, on_failure=lambda failure: failed.append(failure.event_id)
    )
    await first.start()
    sent = [await first.send(TYPE, "a", 0)]
    await clock.pass_s(1)
    sent += [await first.send(TYPE, "a", number) for number in range(1, 9)]
    write, left = os.write, 700

    def filling(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left < len(data):
            raise OSError(28, "No space left on device")
        left -= len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", filling)
    closing = asyncio.create_task(first.close(timeout_s=1))
    await clock.pass_s(1)
    with pytest.raises(DeliveryFailed, match="8 events failed"):
        await closing
    monkeypatch.undo()
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock) as second:
        assert second.ledger().recovered == 1
    found = {event["id"] for event in recorder.all_events()}
    assert len(failed) == 8 and found == {event.event_id for event in sent} - {*failed}


async def test_a_full_disk_at_the_very_first_start_spoils_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(SpoolError, match="No space left"):
            await Producer(Recorder(1), SOURCE, spool_dir=tmp_path).start()
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path):
        pass
    (tmp_path / "topic").write_text("")  # as an older version left it
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path):
        pass


async def test_a_child_that_lives_on_does_not_hold_the_directory(tmp_path: Path) -> None:
    recorder = Recorder(1)
    first = Producer(recorder, SOURCE, spool_dir=tmp_path)
    await first.start()
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    try:
        await first.close()
        async with Producer(recorder, SOURCE, spool_dir=tmp_path):
            pass
    finally:
        child.kill()
        child.join()


async def test_a_child_of_a_killed_service_does_not_hold_the_directory(tmp_path: Path) -> None:
    victim = subprocess.run(
        [sys.executable, "-c", _FORKED, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    child = int(victim.stdout)
    try:
        assert victim.returncode == -signal.SIGKILL
        async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


_FORKED = """
import asyncio, os, signal, sys
from meterline_client import Producer
from tests.client.doubles import Recorder, SOURCE

async def main():
    await Producer(Recorder(1), SOURCE, spool_dir=sys.argv[1]).start()
    child = os.fork()
    if not child:
        os.close(1)
        signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_start_that_is_cancelled_gives_the_directory_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), threading.Event()
    loop, check = asyncio.get_running_loop(), Spool._check_topic

    def slow(spool: Spool) -> None:
        loop.call_soon_threadsafe(reading.set)
        go_on.wait()
        check(spool)

    monkeypatch.setattr(Spool, "_check_topic", slow)
    starting = asyncio.create_task(Producer(Recorder(1), SOURCE, spool_dir=tmp_path).start())
    await reading.wait()
    starting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path):
        pass


async def test_what_a_file_system_keeps_for_itself_is_no_part_of_the_spool(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    first = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await first.start()
    await first.send(TYPE, "a", 1)
    await closed(first, clock)
    (path,) = left_in(tmp_path)
    (path.parent / ".nfs0000001").write_bytes(b"removed while somebody had it open")
    (tmp_path / "lost+found").mkdir()
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock) as second:
        assert second.ledger().recovered == 1
    (tmp_path / "00000009-abc").mkdir()
    (tmp_path / "00000009-abc" / "notes").touch()
    with pytest.raises(SpoolError, match="notes is no file of a spool"):
        await Producer(recorder, SOURCE, spool_dir=tmp_path).start()
