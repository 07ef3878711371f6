"""Usage that never stops while things go wrong: at a steady rate, until told that it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from local.generator import Planned, compressed, live
from local.once import Pause
from local.reading import Rules
from transport.sending import UsageProducer

RATE = 200
"""Events a second."""
ON_TIME_RATE = 100
"""The same for usage of now, which begins with that of the last minutes at once."""
MOST_TIMES = 10
"""How much longer than planned it goes on at most, where misfortunes take their time."""
_EVENT_MS = 30
"""What an event advances the compressed clock by: a minute of usage every 10 s."""
_DAY_MS = 86_400_000


class Flow:
    """A `Feed`: `seconds` of usage, and more of it until `over` is set. share: how much of `seconds` was sent, 0 to 1 and on.

    on_time: usage of now, with a little of the past at once, for workers whose clock ticks; else the usage of the night
    before last, compressed, for workers whose only clock is the data's.
    """

    def __init__(self, rules: Rules, seed: int, seconds: float, over: asyncio.Event, *, on_time: bool = False) -> None:
        self.share = 0.0
        self._rules = rules
        self._seed = seed
        self._rate = ON_TIME_RATE if on_time else RATE
        self._events = int(seconds * self._rate)
        self._over = over
        self._on_time = on_time

    async def __call__(self, producer: UsageProducer, _pause: Pause) -> int:
        """Sends; how many events that was."""
        sent = flowing = 0
        began_s = time.monotonic()
        for planned in self._usage(producer.partitions):
            if self._over.is_set() and self.share >= 1:
                break
            ahead_s = began_s + flowing / self._rate - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            await producer.send(planned.partition, planned.key, planned.value, planned.headers)
            sent += planned.events
            if not self._on_time or planned.due_ms:  # else it is of the past, and sent at once
                flowing += planned.events
                self.share = flowing / self._events
        return sent

    def _usage(self, partitions: int) -> Iterator[Planned]:
        now_ms = time.time_ns() // 1_000_000
        if self._on_time:
            return live(self._rules, seed=self._seed, partitions=partitions, now_ms=now_ms, rate=self._rate)
        midnight_ms = (now_ms - self._rules.settle_ms) // _DAY_MS * _DAY_MS - _DAY_MS
        enough = self._events * MOST_TIMES
        return compressed(
            self._rules,
            seed=self._seed,
            partitions=partitions,
            events=enough,
            start_ms=midnight_ms - self._events * _EVENT_MS // 2,
            span_ms=enough * _EVENT_MS,
            now_ms=now_ms,
        )
