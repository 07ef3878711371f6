"""A producer that is closed while its broker is away, and what it leaves on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meterline_client import Producer
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder

PAD = "x" * 500
"""Data that makes an event more than half a kilobyte."""


async def closed(producer: Producer, clock: ManualClock) -> None:
    """Close with the broker away: the deadline passes."""
    closing = asyncio.create_task(producer.close(timeout_s=1))
    await clock.pass_s(1)
    await closing


async def abandoned(recorder: Recorder, clock: ManualClock, directory: Path, *, events: int) -> Path:
    """The file in which a producer that is gone left its events, [0, PAD] and so on; the broker is still away."""
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=directory, durable=True, clock=clock)
    await producer.start()
    for number in range(events):
        await producer.send(TYPE, "a", [number, PAD])
    await closed(producer, clock)
    (path,) = left_in(directory)
    return path


def left_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.events"))
