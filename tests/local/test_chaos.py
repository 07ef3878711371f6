"""Who carries misfortunes out is a supervisor as well: what ends by itself is started again, noted, and given up on in time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local import chaos
from local.chaos import Chaos
from local.misfortunes import Misfortune
from local.process import Child
from local.workers import Fleet
from schemas.errors import BrokerError

STAYS = "import time; time.sleep(3600)"


class Worker:
    """A process in the place of a worker. program: what it runs in each of its lives, the last one again and again."""

    def __init__(self, directory: Path, *program: str) -> None:
        self.process = Child("worker 1", [], log=directory / "worker.log")
        self.lives = 0
        self._program = list(program)

    async def start(self) -> None:
        program = self._program[min(self.lives, len(self._program) - 1)]
        self.process.command = [sys.executable, "-c", program]
        self.lives += 1
        await self.process.start()

    async def stop(self) -> None:
        await self.process.stop()

    async def serving(self) -> None:
        """It serves."""


async def run(worker: Worker, *misfortunes: Misfortune, share: Callable[[], float] = lambda: 1.0) -> Chaos:
    nothing: Any = None
    fleet = Fleet(nothing)
    fleet.up.append(worker)  # type: ignore[arg-type]
    over = asyncio.Event()
    carried_out = Chaos(misfortunes, over, share, lambda _: None)
    await worker.start()
    try:
        await carried_out.run(nothing, fleet)
        return carried_out
    finally:
        assert over.is_set(), "the usage must end, whatever happened"
        await worker.process.kill()


async def test_a_killed_worker_is_started_again_and_has_not_ended_by_itself(tmp_path: Path) -> None:
    worker = Worker(tmp_path, STAYS)
    carried_out = await run(worker, Misfortune(0, "kill worker"), Misfortune(0.5, "kill worker"))
    assert (worker.lives, carried_out.survived, carried_out.ended) == (3, {"kill worker": 2}, [])


async def test_a_worker_that_ended_by_itself_is_started_again_and_noted(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "raise SystemExit(2)", STAYS)
    # The moment of the misfortune comes once it was started again, and the misfortune starts it a third time.
    carried_out = await run(worker, Misfortune(1, "kill worker"), share=lambda: float(worker.lives > 1))
    assert worker.lives == 3
    assert len(carried_out.ended) == 1
    assert "worker 1 ended with exit code 2" in carried_out.ended[0]


async def test_one_that_ends_again_and_again_is_given_up_on_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "MOST_ENDED", 1)
    worker = Worker(tmp_path, "raise SystemExit('no such module')")
    with pytest.raises(BrokerError, match=r"(?s)worker 1 ended with exit code 1.*no such module"):
        await asyncio.wait_for(run(worker, Misfortune(1, "rolling restart"), share=lambda: 0.0), 60)


async def test_a_worker_that_does_not_end_on_sigterm_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    worker = Worker(tmp_path, deaf, STAYS)

    async def stop() -> None:
        await worker.process.stop(grace_s=0.1)

    monkeypatch.setattr(worker, "stop", stop)
    carried_out = await run(
        worker, Misfortune(1, "rolling restart"), share=lambda: float(worker.process.said("deaf") or worker.lives > 1)
    )
    assert [ended.split(";")[0] for ended in carried_out.ended] == [
        "not in order, on SIGTERM: worker 1 was ended by SIGKILL"
    ]
