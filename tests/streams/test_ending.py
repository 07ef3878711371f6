"""A task that is to end ends, also where a cancellation got lost on its way."""

from __future__ import annotations

import asyncio

import pytest

from streams import ending
from streams.ending import end


async def test_a_task_that_lost_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.0)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()
    assert lost == 3


async def test_what_a_task_raises_on_its_way_out_is_nobodys_any_more() -> None:
    async def falls() -> None:
        raise ValueError("on the way out")

    async def done() -> str:
        return "done"

    tasks = [asyncio.create_task(falls()), asyncio.create_task(done())]
    await end(tasks)
    assert all(task.done() for task in tasks)
    await end([])
