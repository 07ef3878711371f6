"""The roads between the regions: what was written in one is applied in the other, later and in order.

A change leaves the queue in the transaction that applies it, so a crash repeats nothing and loses nothing. A region that
is down neither sends nor receives; its queues wait and go on when it is up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from local.cosmos import regions
from local.cosmos.clock import Clock
from local.cosmos.store import Store

logger = logging.getLogger(__name__)

Down = Literal["refused", "unavailable"]
"""How a region is down: its port refuses connections, or it answers 503."""

_CHUNK = 200


class Regions:
    """The two regions: up or down, and the replication between them.

    switch: called with a region's index and how it is down (None: it is up), to open or close its port.
    """

    def __init__(
        self,
        names: tuple[str, str],
        store: Store,
        clock: Clock,
        delay_ms: int,
        switch: Callable[[int, Down | None], Awaitable[None]],
    ) -> None:
        self.names = names
        self._store = store
        self._clock = clock
        self._delay_ms = delay_ms
        self._switch = switch
        self._down: list[Down | None] = [None for _ in names]
        self._wake = asyncio.Event()

    def index(self, name: str) -> int:
        """The index of a region; ValueError names those there are."""
        if name not in self.names:
            raise ValueError(f"unknown region {name!r}, expected one of {', '.join(self.names)}")
        return self.names.index(name)

    def is_up(self, name: str) -> bool:
        """Whether it serves."""
        return self.down(self.index(name)) is None

    def down(self, region: int) -> Down | None:
        """How a region is down, None when it is up."""
        return self._down[region]

    async def take_down(self, name: str, how: Down = "refused") -> None:
        """From when this returns the region serves nobody, and what waits in its queues waits on."""
        region = self.index(name)
        self._down[region] = how
        await self._switch(region, how)

    async def bring_up(self, name: str) -> None:
        """The region serves again, on the same port, and its queues go on."""
        region = self.index(name)
        await self._switch(region, None)
        self._down[region] = None
        self.notify()

    def queued(self) -> dict[str, int]:
        """How many changes wait for each region."""
        return {
            name: sum(self._store.queue_length(origin, target) for origin in range(len(self.names)) if origin != target)
            for target, name in enumerate(self.names)
        }

    def notify(self) -> None:
        """Something was written, or a region came up: look at the queues."""
        self._wake.set()

    async def drain(self) -> None:
        """Apply everything that waits between regions that are up, at once; on disk when this returns."""
        for origin, target in self._open_roads():
            while self._apply(origin, target, until_ms=None):
                pass
        await self._store.committed()

    async def run(self) -> None:
        """Replicate for ever, each change when it is `delay_ms` old."""
        while True:
            self._wake.clear()
            now_ms = self._clock.now_ms()
            waits = []
            for origin, target in self._open_roads():
                while self._apply(origin, target, until_ms=now_ms - self._delay_ms):
                    # Requests come first: a long queue is worked off in slices.
                    await self._store.committed()
                oldest = self._store.queued(origin, target, 1)
                if oldest:
                    waits.append(max(1, oldest[0].at_ms + self._delay_ms - now_ms))
            await self._store.committed()
            await self._sleep(min(waits, default=None))

    async def _sleep(self, ms: int | None) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        # A write while changes wait brings nothing forward; only an idle loop has to listen to it.
        slept = asyncio.ensure_future(self._clock.sleep_ms(ms)) if ms is not None else woken
        try:
            await asyncio.wait({woken, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()

    def _open_roads(self) -> list[tuple[int, int]]:
        up = [region for region in range(len(self.names)) if self._down[region] is None]
        return [(origin, target) for origin in up for target in up if origin != target]

    def _apply(self, origin: int, target: int, *, until_ms: int | None) -> bool:
        """Take one slice of a road's queue; whether there may be more."""
        changes = self._store.queued(origin, target, _CHUNK)
        due = [change for change in changes if until_ms is None or change.at_ms <= until_ms]
        if not due:
            return False
        with self._store.atomic():
            for change in due:
                siblings = regions.receive(self._store.siblings(target, change.address), change.version)
                self._store.put(target, change.address, siblings)
                self._store.advance(target, change.address.container, origin, change.version.clock[origin])
                self._store.unqueue(change)
        return len(due) == _CHUNK
