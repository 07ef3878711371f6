"""The live feed: which windows moved, told to whoever listens, coalesced per window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.texts import Letters, Places
from streams.live_kernels import let_go, noted
from tables.keys import grown

Json = dict[str, Any]
Describe = Callable[[int], Json | None]
HELD_MAX = 10_000
"""Windows a slow listener may have waiting; beyond it the ones that moved longest ago are dropped from the feed."""


class LiveFeed:
    """Listeners and what each has yet to be told. Only numbers are kept; the state is described when it is sent."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def tell(self, moved: Places, describe: Describe) -> None:
        """Windows moved, each once, named by numbers. describe: gives a window's document now, or None where it is gone."""
        if len(moved):
            for listener in self._listeners:
                listener.add(moved, describe)

    async def listen(self) -> AsyncIterator[Json]:
        """Documents of windows that move from now on, the newest state of each; `{"dropped": n}` where some were missed."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)


@dataclass(slots=True)
class _Place:
    """What one listener has yet to be told of one place that windows come from. bits: one per number, set while it waits."""

    waiting: int = 0
    bits: Letters = field(default_factory=lambda: np.zeros(128, np.uint8))


class _Listener:
    def __init__(self) -> None:
        self._queue: deque[tuple[Describe, Places]] = deque()
        self._places: dict[Describe, _Place] = {}
        self._waiting = 0
        self._dropped = 0
        self._news = asyncio.Event()

    def add(self, moved: Places, describe: Describe) -> None:
        place = self._places.setdefault(describe, _Place())
        place.bits = grown(place.bits, (int(moved.max()) >> 3) + 1)
        new = np.empty(len(moved), np.int64)
        new = new[: noted(moved, place.bits, new)]
        if len(new):
            self._queue.append((describe, new))
            place.waiting += len(new)
            self._waiting += len(new)
        while self._waiting > HELD_MAX:
            self._dropped += len(self._first(self._waiting - HELD_MAX)[1])
        self._news.set()

    async def next(self) -> Json:
        while True:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return {"dropped": dropped}
            while self._queue:
                describe, numbers = self._first(1)
                document = describe(int(numbers[0]))
                if document is not None:
                    return document
            self._news.clear()
            await self._news.wait()

    def _first(self, most: int) -> tuple[Describe, Places]:
        """Those that have waited longest, at most so many; they wait no more."""
        describe, numbers = self._queue.popleft()
        if len(numbers) > most:
            self._queue.appendleft((describe, numbers[most:]))
            numbers = numbers[:most]
        place = self._places[describe]
        let_go(numbers, place.bits)
        place.waiting -= len(numbers)
        self._waiting -= len(numbers)
        if not place.waiting:
            del self._places[describe]  # its stage may be gone by now
        return describe, numbers
