"""Who waits for room: in one line, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

from meterline_client.clock import Clock, wake
from meterline_client.errors import SpoolFull

NO_ROOM = "slow down, or set a spool_dir"


class Turns:
    """One at a time has the turn, and waits until something is given free. taken: somebody waits."""

    def __init__(self, clock: Clock) -> None:
        self.taken = False
        self._clock = clock
        self._line: deque[asyncio.Future[bool]] = deque()
        self._freed: asyncio.Future[bool] | None = None

    async def line_up(self, deadline_s: float | None) -> None:
        """Wait behind all who wait, until the turn is ours; give it back with `next`. Raises SpoolFull at the deadline."""
        if self.taken:
            turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._line.append(turn)
            try:
                if not await self._before(turn, deadline_s):
                    raise SpoolFull("no room in time: others waited for it before", hint=NO_ROOM)
            except BaseException:
                if turn in self._line:
                    self._line.remove(turn)
                elif not turn.cancelled() and turn.result():
                    self.next()  # it was given to us, and is the next one's
                raise
        self.taken = True

    def next(self) -> None:
        """The turn is over."""
        self.taken = False
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                self.taken = True
                turn.set_result(True)
                return

    async def until_freed(self, deadline_s: float | None) -> bool:
        """For who has the turn: wait until something was given free; False at the deadline."""
        self._freed = asyncio.get_running_loop().create_future()
        return await self._before(self._freed, deadline_s)

    def freed(self) -> None:
        """Something was given free, or waiting is of no use any more."""
        wake(self._freed, True)

    async def _before(self, waiting: asyncio.Future[bool], deadline_s: float | None) -> bool:
        if deadline_s is None:
            return await waiting
        left_s = max(deadline_s - self._clock.monotonic_s(), 0.0)
        timer = self._clock.call_later(left_s, lambda: wake(waiting, False))
        try:
            return await waiting
        finally:
            timer.cancel()
