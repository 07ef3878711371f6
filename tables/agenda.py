"""What is due when, for windows by their slots."""

from __future__ import annotations

import heapq

import numpy as np

from schemas.texts import Places


class Agenda:
    """Slots by the time at which something is due for them, ms.

    Windows end together, so there are far fewer times than windows: only the times are kept in order.
    """

    def __init__(self) -> None:
        self._times: list[int] = []
        self._slots: dict[int, list[Places]] = {}

    def add(self, times_ms: Places, slots: Places) -> None:
        """Something is due for each of these slots, then."""
        if not len(slots):
            return
        order = np.argsort(times_ms, kind="stable")
        times_ms, slots = times_ms[order], slots[order]
        begins = np.flatnonzero(np.diff(times_ms, prepend=times_ms[0] - 1))
        for time_ms, some in zip(times_ms[begins].tolist(), np.split(slots, begins[1:]), strict=True):
            held = self._slots.get(time_ms)
            if held is None:
                heapq.heappush(self._times, time_ms)
                self._slots[time_ms] = [some]
            else:
                held.append(some)

    def take(self, until_ms: int) -> Places:
        """What is due by that time, in order of the times; it is given once."""
        due: list[Places] = []
        while self._times and self._times[0] <= until_ms:
            due += self._slots.pop(heapq.heappop(self._times))
        return np.concatenate(due) if due else np.zeros(0, np.int64)
