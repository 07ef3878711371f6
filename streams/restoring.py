"""Restoring: how many partitions of one process do it at once, and what it means for the process' memory.

Restoring is work for one core, so more of it at once is no sooner done, and each partition that is ready can serve while the
next is restored. Two at once, so that one fetches while the other builds.
"""

from __future__ import annotations

import asyncio
import gc
from types import TracebackType

AT_ONCE = 2


class Restoring:
    """`async with` it to restore one partition: waits for its turn. One for all partitions of a worker."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._wanted = 0

    async def __aenter__(self) -> None:
        self._wanted += 1
        if self._wanted == 1:
            self.begin()
        try:
            await self._turns.acquire()
        except BaseException:
            self._done()
            raise

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._turns.release()
        self._done()

    def begin(self) -> None:
        """Called when the first wants to restore."""

    def end(self) -> None:
        """Called when the last of them has ended, in whichever way."""

    def _done(self) -> None:
        self._wanted -= 1
        if self._wanted == 0:
            self.end()


YOUNG = 50_000
"""So many new objects make the collector of cycles look at them; Python's own 700 are gone with each slice of a batch."""


class RestoringUncollected(Restoring):
    """Restoring, while the collector of cycles waits: for a process of its own.

    A state is millions of objects and no cycle. Python's collector would look at all of them again and again as they grow,
    for a third of the time and in ever longer pauses. So it waits, and the state that was restored is put out of its sight;
    what an earlier assignment has left behind is collected first. Later, too, it looks less often: a slice of a batch is
    thousands of objects, gone when it is counted, and to look at them half way costs a tenth of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        gc.set_threshold(YOUNG, *gc.get_threshold()[1:])

    def begin(self) -> None:
        """Collects what was let go, then nothing more."""
        gc.unfreeze()
        gc.collect()
        gc.disable()

    def end(self) -> None:
        """Collects again, but not in what is there now."""
        gc.freeze()
        gc.enable()
