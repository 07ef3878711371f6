"""Who listens is told the newest state of each window that moved, once; who is slow is told how many it missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from streams import live
from streams.live import LiveFeed


class Windows:
    """Windows by name and number, and a listener that is listening when it is handed out."""

    def __init__(self) -> None:
        self.feed = LiveFeed()
        self.values: dict[str, int] = {}
        self.numbers: dict[str, int] = {}

    def move(self, **values: int) -> None:
        self.values |= values
        numbers = [self.numbers.setdefault(name, len(self.numbers) * 1000) for name in values]
        self.feed.tell(np.array(numbers), self.describe)

    def describe(self, number: int) -> dict[str, Any] | None:
        name = next(name for name, known in self.numbers.items() if known == number)
        return {"id": name, "value": self.values[name]} if name in self.values else None

    async def listener(self) -> AsyncIterator[dict[str, Any]]:
        stream = self.feed.listen()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        self.move(begun=0)
        assert await first == {"id": "begun", "value": 0}
        return stream


async def test_a_window_that_moved_twice_is_told_once_as_it_is_now() -> None:
    windows = Windows()
    listener = await windows.listener()
    windows.move(a=1, b=1)
    windows.move(a=2)
    assert [await anext(listener), await anext(listener)] == [{"id": "a", "value": 2}, {"id": "b", "value": 1}]


async def test_a_window_that_is_gone_by_now_is_not_told() -> None:
    windows = Windows()
    listener = await windows.listener()
    windows.move(a=1, b=1)
    del windows.values["a"]
    assert await anext(listener) == {"id": "b", "value": 1}


async def test_a_slow_listener_is_told_how_many_it_missed_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "HELD_MAX", 2)
    windows = Windows()
    slow, quick = await windows.listener(), await windows.listener()
    assert await anext(slow) == {"id": "begun", "value": 0}
    for name in ("a", "b", "c"):
        windows.move(**{name: 1})
        assert await anext(quick) == {"id": name, "value": 1}
    assert [await anext(slow) for _ in range(3)] == [
        {"dropped": 1}, {"id": "b", "value": 1}, {"id": "c", "value": 1},
    ]  # fmt: skip


async def test_who_left_is_forgotten() -> None:
    windows = Windows()
    listener = await windows.listener()
    assert len(windows.feed._listeners) == 1
    await listener.aclose()  # type: ignore[attr-defined]
    assert not windows.feed._listeners
