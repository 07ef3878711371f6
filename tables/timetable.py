"""What is due when."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Timetable(Generic[T]):
    """Windows, or many of them together, by the time at which something is due for them, ms.

    Windows end together, so there are far fewer times than windows: only the times are kept in order.
    """

    __slots__ = ("_due", "_times")

    def __init__(self) -> None:
        self._times: list[int] = []
        self._due: dict[int, list[T]] = {}

    def add(self, time_ms: int, due: T) -> None:
        """Something is due then."""
        held = self._due.get(time_ms)
        if held is None:
            heapq.heappush(self._times, time_ms)
            self._due[time_ms] = [due]
        else:
            held.append(due)

    def take(self, until_ms: int) -> list[tuple[int, T]]:
        """What is due by that time, each with its time, in order of the times; it is given once."""
        due = []
        while self._times and self._times[0] <= until_ms:
            time_ms = heapq.heappop(self._times)
            due += [(time_ms, one) for one in self._due.pop(time_ms)]
        return due
