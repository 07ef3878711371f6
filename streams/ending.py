"""Ends tasks for certain.

A cancellation can get lost below us: `asyncio.wait_for` drops it where what it waits for is done at the same moment (Python
before 3.12, gh-86296), and clients drop it where they wait for a task of their own that they have cancelled (aiokafka's
`coordinator.close`). A rebalance that waits for such a task never ends, and its worker is in no group any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 1.0
"""How long a cancelled task may take to let go before it is cancelled again."""


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them, again and again, and returns when all have ended. What they raise on the way out is dropped."""
    given = list(tasks)
    while going := [task for task in given if not task.done()]:
        for task in going:
            task.cancel()
        await asyncio.wait(going, timeout=AGAIN_S)
    await asyncio.gather(*given, return_exceptions=True)
