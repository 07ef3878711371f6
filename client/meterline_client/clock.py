"""The clock of a producer: the system's, or one that a test moves by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

_Result = TypeVar("_Result")


class Timer(Protocol):
    """What `call_later` gives."""

    def cancel(self) -> None:
        """Forget the call. Idempotent, also after it."""


class Clock(Protocol):
    """Wall time for events, monotonic time for waiting."""

    def time_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call once, on the running loop, after `delay_s`."""


class SystemClock:
    """The system's clocks and the running loop's timers."""

    def time_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call once, on the running loop, after `delay_s`."""
        return asyncio.get_running_loop().call_later(delay_s, callback)


def wake(waiter: asyncio.Future[_Result] | None, result: _Result) -> None:
    """Let it go on, if it still waits."""
    if waiter is not None and not waiter.done():
        waiter.set_result(result)


async def sleep(clock: Clock, delay_s: float) -> None:
    """Return after `delay_s` of that clock."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(delay_s, lambda: wake(over, None))
    try:
        await over
    finally:
        timer.cancel()


async def within(clock: Clock, work: asyncio.Future[Any], timeout_s: float | None) -> bool:
    """Returns when `work` is done, or after `timeout_s` of the clock (None: never before); whether it is. Cancels nothing."""
    over = None if timeout_s is None else asyncio.ensure_future(sleep(clock, timeout_s))
    try:
        await asyncio.wait({work, over} if over else {work}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        if over:
            over.cancel()
