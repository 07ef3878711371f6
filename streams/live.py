"""The live feed: which windows moved, told to whoever listens, coalesced per window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

Json = dict[str, Any]
HELD_MAX = 10_000
"""Windows a slow listener may have waiting; beyond it the ones that moved longest ago are dropped from the feed."""


class LiveFeed:
    """Listeners and what each has yet to be told. Only names are kept; the state is described when it is sent."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def tell(self, names: Iterable[Any], describe: Callable[[Any], Json | None]) -> None:
        """Windows moved. describe: gives a window's document now, or None where it is gone."""
        if self._listeners:
            held = list(names)
            for listener in self._listeners:
                listener.add(held, describe)

    async def listen(self) -> AsyncIterator[Json]:
        """Documents of windows that move from now on, the newest state of each; `{"dropped": n}` where some were missed."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: dict[Any, Callable[[Any], Json | None]] = {}
        self._dropped = 0
        self._news = asyncio.Event()

    def add(self, names: list[Any], describe: Callable[[Any], Json | None]) -> None:
        for name in names:
            self._waiting[name] = describe
        while len(self._waiting) > HELD_MAX:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1
        self._news.set()

    async def next(self) -> Json:
        while True:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return {"dropped": dropped}
            while self._waiting:
                name = next(iter(self._waiting))
                document = self._waiting.pop(name)(name)
                if document is not None:
                    return document
            self._news.clear()
            await self._news.wait()
