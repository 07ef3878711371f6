"""A disk that is full or refuses: nothing is accepted that it does not have, and nothing is told of it that is not so."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from meterline_client import DeliveryFailed, Producer, SpoolError, SpoolFull
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder
from tests.client.spooled import closed, left_in


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
