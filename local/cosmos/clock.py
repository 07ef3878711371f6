"""Time, as the server sees it: handed in, so that no test waits for a wall clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and sleeping. Everything in this package that depends on time asks one of these."""

    def now_ms(self) -> int:
        """Milliseconds UTC since 1970."""

    async def sleep_ms(self, ms: int) -> None:
        """Return when `ms` milliseconds of this clock have passed."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds UTC since 1970."""
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, ms: int) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(ms / 1000)


class ManualClock:
    """A clock that moves only when told to: `advance(ms)` wakes whoever's sleep ended."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """The time it was last moved to."""
        return self._now_ms

    async def sleep_ms(self, ms: int) -> None:
        """Wait until `advance` has moved the clock by `ms` in total."""
        if ms <= 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ms + ms, woken))
        await woken

    def advance(self, ms: int) -> None:
        """Move on by `ms` milliseconds."""
        self._now_ms += ms
        due = [woken for at_ms, woken in self._sleepers if at_ms <= self._now_ms]
        self._sleepers = [(at_ms, woken) for at_ms, woken in self._sleepers if at_ms > self._now_ms]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
