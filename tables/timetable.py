"""What is due when."""

from __future__ import annotations

import heapq

from schemas.windows import WindowKey


class Timetable:
    """Windows by the time at which something is due for them, ms.

    Windows end together, so there are far fewer times than windows: only the times are kept in order.
    """

    __slots__ = ("_times", "_windows")

    def __init__(self) -> None:
        self._times: list[int] = []
        self._windows: dict[int, list[WindowKey]] = {}

    def add(self, time_ms: int, key: WindowKey) -> None:
        """Something is due for this window then."""
        windows = self._windows.get(time_ms)
        if windows is None:
            heapq.heappush(self._times, time_ms)
            self._windows[time_ms] = [key]
        else:
            windows.append(key)

    def take(self, until_ms: int) -> list[tuple[int, WindowKey]]:
        """What is due by that time, each with its time, in order of the times; it is given once."""
        due = []
        while self._times and self._times[0] <= until_ms:
            time_ms = heapq.heappop(self._times)
            due += [(time_ms, key) for key in self._windows.pop(time_ms)]
        return due
