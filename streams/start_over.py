"""How a worker ends: start over where a membership failed, refuse where going on would be wrong, finish where it is told to.

Starting over replaces the process image: nothing of the failed membership survives, recovery is the restart (design §2.4).
It works under any launcher, because the process id stays. The group is left first, so that its partitions move at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from schemas.errors import MeterlineError

log = logging.getLogger("meterline")

RESTARTS = "METERLINE_RESTARTS"
"""Environment of a process that started over: `how often in a row:when last, epoch seconds`. For the backoff alone."""
CALM_S = 60.0
LEAVE_S = 3.0
"""How long leaving the group may take; where the broker does not answer, the session timeout does the same."""
END_S = 15.0
"""How long a worker may take that was told to end, whatever hangs below it; Kubernetes waits 30 s before it kills."""
_TURNS = 10
"""Of the loop, until what a signal calls has been called: it is read from a pipe in one, and called in the next."""


class StartOver:
    """Ends this process. leave: lets the group go, best effort, bounded here."""

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        self._leave = leave
        self._ending: asyncio.Task[None] | None = None
        self._told_to_end = False

    def request(self, why: str) -> None:
        """The membership is over: leave, wait a little more each time in a row, begin anew."""
        if self._ending is None:
            log.error("starting over: %s", why)
            self._ending = asyncio.get_running_loop().create_task(self._begin_anew())

    def refuse(self, error: MeterlineError) -> None:
        """Going on would be wrong and starting over would not help: say why, end with exit code 2."""
        if self._ending is None:
            log.critical("this worker refuses to go on: %s", error)
            self._ending = asyncio.get_running_loop().create_task(self._end(error))

    def told_to_end(self) -> None:
        """SIGTERM or Ctrl-C: the process ends within END_S, with exit code 1 where `finish` did not come by then. Idempotent."""
        if self._told_to_end:
            return
        self._told_to_end = True
        late = threading.Timer(END_S, self._cut_short)  # a thread: what hangs may be the event loop
        late.daemon = True
        late.start()

    @property
    def was_told_to_end(self) -> bool:
        """Whether somebody asked for the end of this process: what ends without has failed."""
        return self._told_to_end

    async def finish(self, handed_over: bool) -> NoReturn:
        """This process is done: it leaves the group and ends at once.

        Exit code 0 where everything was handed over, else 1: nothing is lost, but the next owners have something to do again.
        What Faust would do from here on is of no use to anybody, and hangs or crashes where the broker is gone.
        """
        await self._let_go()
        if handed_over:
            log.info("ended; everything was handed over")
        else:
            log.error("ended without handing everything over; the next owners begin at the last checkpoints")
        _flush()
        os._exit(0 if handed_over else 1)

    async def ended(self) -> None:
        """Waits for the end of this process, once asked for: nothing may start meanwhile."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self, error: MeterlineError) -> None:
        await self._let_go()
        print(f"meterline: {error}", file=sys.stderr, flush=True)
        os._exit(2)

    async def _begin_anew(self) -> None:
        await self._let_go()
        count, last_s = _restarts(os.environ.get(RESTARTS, ""))
        now_s = time.time()
        count = count + 1 if now_s - last_s < CALM_S else 0
        wait_s = min(30.0, 0.25 * float(1 << min(count, 10))) * (0.5 + random.random() / 2)
        os.environ[RESTARTS] = f"{count}:{now_s + wait_s:.0f}"
        await asyncio.sleep(wait_s)
        # There is nothing to hand over: a signal that comes from here on simply ends the process. One that came before may
        # still be on its way through the loop, and would be lost with this image; then nobody would ever end it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if self._told_to_end:
            return
        _flush()
        _same_program_again()

    def _cut_short(self) -> None:
        log.error("cut short: something did not end within %.0f s of being told to", END_S)
        _flush()
        os._exit(1)

    async def _let_go(self) -> None:
        try:
            await asyncio.wait_for(self._leave(), LEAVE_S)
        except Exception as error:  # whatever it is, the session timeout does the same a little later
            log.warning("could not leave the group in order: %s", type(error).__name__)


def _restarts(text: str) -> tuple[int, float]:
    count, _, last_s = text.partition(":")
    return (int(count), float(last_s)) if count.isdigit() and last_s.isdigit() else (-1, 0.0)


def _same_program_again() -> NoReturn:
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - as it was started
    except OSError as error:  # an interpreter that was replaced: staying would be a process in no group, for ever
        log.critical("cannot begin anew, %s does not start: %s", sys.executable, error.strerror or error)
        _flush()
        os._exit(1)


def _flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
