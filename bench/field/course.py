"""The course of one run: what it has been given, how it is waited for, and how long it worked."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.field.contestants import Contestant, Running
from bench.field.feeding import Feed
from bench.field.inputs import Block, Input, closers, ledger
from bench.field.job import PARTITIONS
from bench.field.judge import Verdict, judge
from schemas.errors import BrokerError

STALLED_S = 180.0
"""Give up when it does nothing for so long. A group waits up to a minute for a member that was killed (Faust, its default)."""
QUIET_S = 6.0
"""Nothing new for so long after the last event: it has said what it has to say."""
SOON_S = 1.5
"""After so long of that it is asked once, and if it is right it is believed: nothing had befallen it."""
SAMPLE_S = 0.05
_POLL_S = 0.25
_MOST = 0.9
_IDLE_S, _IDLE_MOST = 1.0, 0.2
"""A second in which it takes less of a core than that is one without work."""


class Course:
    """The blocks of an input that one run has been given so far."""

    def __init__(self, running: Running, feed: Feed, given: Input) -> None:
        self._running = running
        self._feed = feed
        self._given = given
        self.taken: list[Block] = []

    @property
    def left(self) -> int:
        """Blocks that are left."""
        return len(self._given.blocks) - len(self.taken)

    @property
    def records(self) -> int:
        """Given so far."""
        return sum(block.records for block in self.taken)

    @property
    def events(self) -> int:
        """Given so far."""
        return sum(block.events for block in self.taken)

    def next(self, count: int) -> list[Block]:
        """So many blocks further, or as many as there are."""
        found = self._given.blocks[len(self.taken) : len(self.taken) + count]
        assert found, f"the input {self._given.title!r} is too short"
        return found

    async def write(self, blocks: Sequence[Block]) -> None:
        """Into the topic."""
        self.taken.extend(blocks)
        await self._feed.append(self._running.where.usage, [batch for block in blocks for batch in block.batches])

    async def take(self, blocks: Sequence[Block]) -> None:
        """Into the topic, and counted."""
        await self.write(blocks)
        await until_all(self._running, self._feed, self.records, self.events)

    async def measured(self, blocks: Sequence[Block]) -> tuple[float, float, int]:
        """CPU and wall time of these blocks, and how many events they are."""
        self._running.signal(signal.SIGSTOP)
        await self.write(blocks)
        began_s, began_cpu_s = time.monotonic(), self._running.cpu_s()
        samples = [(began_s, began_cpu_s)]
        self._running.signal(signal.SIGCONT)
        sampling = asyncio.create_task(_sample(self._running, samples))
        try:
            await until_all(self._running, self._feed, self.records, self.events)
        finally:
            sampling.cancel()
        samples.append((time.monotonic(), self._running.cpu_s()))
        cpu_s = samples[-1][1] - began_cpu_s
        return cpu_s, max(busy_for_s(samples), SAMPLE_S), sum(block.events for block in blocks)

    async def verdict(self, contestant: Contestant, *, close: bool, soon: bool = False) -> Verdict:
        """Let everything close, wait until nothing new is told, and compare. soon: not so long, if it is right by then."""
        if close and contestant.closes == "event time":
            await self._feed.append(self._running.where.usage, closers(self._given))
            if not soon:  # a group may not even have given up who was killed
                await until_all(self._running, self._feed, self.records + PARTITIONS, self.events + PARTITIONS)
        expected = ledger(self._given, self.taken, retries_count=not contestant.deduplicates)
        if soon:
            await _until_quiet(self._running, self._feed, SOON_S)
            early = judge(expected, await self._running.totals(), closing=close)
            if early.right:
                return early
        await _until_quiet(self._running, self._feed, QUIET_S)
        return judge(expected, await self._running.totals(), closing=close)


async def _sample(running: Running, samples: list[tuple[float, float]]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        samples.append((time.monotonic(), running.cpu_s()))


async def until(running: Running, feed: Feed, course: Course, share: float) -> float:
    """Returns when so large a share of what it was given is counted, with that share. Raises BrokerError, as `until_all`."""
    return await _moving(running, lambda: running.share(feed, course.records, course.events), share)


async def until_all(running: Running, feed: Feed, records: int, events: int) -> None:
    """Returns when all of it is counted and committed. Raises BrokerError where it ends, or is stuck for STALLED_S."""
    await _moving(running, lambda: running.settled(feed, records, events), 1.0)


async def _moving(running: Running, ask: Callable[[], Awaitable[float]], enough: float) -> float:
    """Waits until it is enough. Raises BrokerError where the contestant ends, or neither moves nor works for STALLED_S."""
    best, cpu_s, since_s = -1.0, running.cpu_s(), time.monotonic()
    while True:
        running.check()
        share = await ask()
        if share >= enough:
            return share
        now_s, spent_s = time.monotonic(), running.cpu_s()
        if share > best or spent_s - cpu_s > 0.5 * STALLED_S:
            best, cpu_s, since_s = max(best, share), spent_s, now_s
        elif now_s - since_s > STALLED_S:
            logs = "\n".join(child.tail() for child in running.children())
            raise BrokerError(f"{share:.1%} counted, and nothing moves for {STALLED_S:.0f} s\n{logs}")
        await asyncio.sleep(_POLL_S)


async def _until_quiet(running: Running, feed: Feed, quiet_s: float) -> None:
    told, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        running.check()
        now = await running.told(feed)
        if now != told:
            told, since_s = now, time.monotonic()
        await asyncio.sleep(_POLL_S)


def busy_for_s(samples: Sequence[tuple[float, float]]) -> float:
    """How long it worked, of (time, CPU time) samples: until it had spent 90 % of its CPU time, and a ninth more.

    Not until the last sample: commits come at intervals, so the end of the work is seen late; and not until it was last
    busy at all: a checkpoint of its own may come seconds after. What it spends while it has nothing to do is no work.
    """
    began_s, began_cpu_s = samples[0]
    idle = _idle_share(samples)
    worked = [(at_s - began_s, cpu_s - began_cpu_s - idle * (at_s - began_s)) for at_s, cpu_s in samples]
    enough_s = _MOST * worked[-1][1]
    return next(after_s for after_s, spent_s in worked if spent_s >= enough_s) / _MOST


def _idle_share(samples: Sequence[tuple[float, float]]) -> float:
    """The share of a core that it takes in its least busy second; 0 where it was never idle."""
    shares, at = [1.0], 0
    for end_s, end_cpu_s in samples:
        while samples[at + 1][0] <= end_s - _IDLE_S:
            at += 1
        begin_s, begin_cpu_s = samples[at]
        if end_s - begin_s >= _IDLE_S:
            shares.append((end_cpu_s - begin_cpu_s) / (end_s - begin_s))
    return min(shares) if min(shares) < _IDLE_MOST else 0.0
