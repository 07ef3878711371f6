"""A producer that is closed while its broker is away, and what it leaves on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meterline_client import Producer
from tests.client.doubles import ManualClock

PAD = "x" * 500
"""Data that makes an event more than half a kilobyte."""


async def closed(producer: Producer, clock: ManualClock) -> None:
    """Close with the broker away: the deadline passes."""
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    await closing


def left_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.events"))
