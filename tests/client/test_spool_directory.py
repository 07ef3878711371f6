"""Whose the spool directory is: one producer's at a time, until that ends, however it ends; and what else may lie there."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meterline_client import Producer, SpoolError
from meterline_client.spool import Spool
from tests.client.doubles import SOURCE, ManualClock, Recorder
from tests.client.spooled import abandoned


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
    path = await abandoned(recorder, clock, tmp_path, events=1)
    (path.parent / ".nfs0000001").write_bytes(b"removed while somebody had it open")
    (tmp_path / "lost+found").mkdir()
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock) as second:
        assert second.ledger().recovered == 1
    (tmp_path / "00000009-abc").mkdir()
    (tmp_path / "00000009-abc" / "notes").touch()
    with pytest.raises(SpoolError, match="notes is no file of a spool"):
        await Producer(recorder, SOURCE, spool_dir=tmp_path).start()
