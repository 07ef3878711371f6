"""A clock that a test moves, and a transport that records: for what real brokers cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from meterline_client import TransportError
from meterline_client.clock import Timer

SOURCE = "//tests.meterline/client"
TYPE = "sample.request"
NOON_MS = 1_769_860_800_123  # 2026-01-31T12:00:00.123Z
PAD = "x" * 900
"""Data that makes an event about a kilobyte."""


class ManualClock:
    """Time passes only by `pass_s`."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._timers: list[_Timer] = []

    def time_ms(self) -> int:
        return NOON_MS + int((self._now_s - 1000.0) * 1000)

    def monotonic_s(self) -> float:
        return self._now_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        timer = _Timer(self._now_s + delay_s, callback)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> int:
        """How many calls are still to come."""
        return sum(not timer.cancelled for timer in self._timers)

    async def pass_s(self, seconds: float) -> None:
        """Move on, call what is due, and let every task run until all wait."""
        await settled()
        self._now_s += seconds
        due = [timer for timer in self._timers if timer.at_s <= self._now_s]
        self._timers = [timer for timer in self._timers if timer.at_s > self._now_s]
        for timer in sorted(due, key=lambda timer: timer.at_s):
            if not timer.cancelled:
                timer.callback()
        await settled()


class _Timer:
    def __init__(self, at_s: float, callback: Callable[[], object]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def settled() -> None:
    """Every task has run until it waits: none of them waits for more turns of the loop than this."""
    for _ in range(50):
        await asyncio.sleep(0)


class Recorder:
    """A transport in memory.

    away: while set, every send is refused, retryable. stuck: partitions that are away. refuse: partitions refused for
    good. takes: so many records more, then it is away.
    """

    def __init__(self, partitions: int = 2, topic: str = "usage") -> None:
        self.topic = topic
        self.partitions = partitions
        self.away = False
        self.takes: int | None = None
        self.refuse: set[int] = set()
        self.stuck: set[int] = set()
        self.records: dict[int, list[bytes]] = defaultdict(list)
        self.keys: dict[int, list[bytes]] = defaultdict(list)
        self.attempts: list[tuple[int, bytes]] = []
        self.closed = False

    async def open(self) -> int:
        return self.partitions

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        self.attempts.append((partition, value))
        await asyncio.sleep(0)
        if partition in self.refuse:
            raise TransportError("too large", retryable=False)
        if self.away or partition in self.stuck:
            raise TransportError("away", retryable=True)
        if self.takes is not None:
            self.takes -= 1
            self.away = not self.takes
        self.records[partition].append(value)
        self.keys[partition].append(key)
        return len(self.records[partition]) - 1

    async def close(self) -> None:
        self.closed = True

    def events(self, partition: int) -> list[dict[str, Any]]:
        """All events of a partition, in the order of the log."""
        return [event for value in self.records[partition] for event in json.loads(value)]

    def all_events(self) -> list[dict[str, Any]]:
        return [event for partition in sorted(self.records) for event in self.events(partition)]


class Unreachable(Recorder):
    """Nobody is there."""

    async def open(self) -> int:
        raise TransportError("nobody listens", retryable=True)


def counters(events: list[dict[str, Any]]) -> list[int]:
    """The last part of their ids."""
    return [int(event["id"].rsplit("-", 1)[1]) for event in events]
