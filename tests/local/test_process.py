"""Child processes: what a signal has done once it was sent."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from local.process import Child

# Threads that compute beside each other: hashing lets go of the interpreter.
BUSY = """\
import hashlib, threading
def work():
    while True:
        hashlib.sha256(bytes(1 << 16))
for _ in range(7):
    threading.Thread(target=work).start()
print("at work", flush=True)
work()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the states of threads from /proc: Linux only")
async def test_a_child_that_was_frozen_stands_still_with_all_its_threads(tmp_path: Path) -> None:
    child = Child("busy", [sys.executable, "-c", BUSY], log=tmp_path / "log")
    await child.start()

    async def at_work() -> bool:
        return child.said("at work")

    try:
        await child.until(at_work, 30)
        for _ in range(20):
            child.signal(signal.SIGSTOP)
            tasks = list(Path(f"/proc/{child.pid}/task").iterdir())
            states = [(task / "stat").read_text().rpartition(") ")[2][0] for task in tasks]
            assert states == ["T"] * 8
            child.signal(signal.SIGCONT)
    finally:
        await child.kill()


async def test_a_child_that_has_ended_takes_no_signal(tmp_path: Path) -> None:
    child = Child("brief", [sys.executable, "-c", ""], log=tmp_path / "log")
    await child.start()
    assert await child.exited() == 0
    child.signal(signal.SIGSTOP)
    assert child.returncode == 0
