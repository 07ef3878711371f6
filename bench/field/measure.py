"""One contestant, measured: how fast, how soon a total can be seen, and what is right after it was killed.

How fast:

1. it starts on an empty topic and is given stretches of the input: warm-up, until that has taken `warm_s` of CPU time and the
   next stretch is long enough; then that one counts;
2. it is frozen (SIGSTOP) while its backlog is written, so that the generator takes nothing from the broker it reads from;
3. it goes on; its CPU time is read from then until everything is counted and committed. Wall time is how
   long it worked (`busy_for_s`). Events per CPU-second count its own processes' time alone;
4. events whose times lie behind every window let the windows close; then all totals are compared with the ledger.

How soon: batches at an even rate, half of what its one core can take by its CPU time; the last event of each is a probe. The
time of all events of a batch is the time its sending began; they are visible when the probe's total is.

After a kill: the backlog from its first record; SIGKILL when it has counted a third; started again; compared.

A contestant that reads to the end of its topic and ends is started twice: what it takes for the opening is taken off from
what it takes for that and its backlog. Nobody sees how far it is, so it is killed by the clock.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from bench.field.contestants import Contestant, Running, Where
from bench.field.course import QUIET_S, SAMPLE_S, STALLED_S, Course, until, until_all
from bench.field.feeding import Feed
from bench.field.inputs import BLOCK_EVENTS, Batch, Input, subject_for
from bench.field.job import PARTITIONS, PROBE
from bench.field.judge import Verdict
from schemas.errors import BrokerError

RESTED_MOST_S = 60.0
KILL_AT = 1 / 3
BATCH_START_S = 2.0
"""Until a contestant that ends by itself has begun to read, about."""
CLEANED_S = 45.0
"""Faust looks for windows that have expired every 30 s (`table_cleanup_interval`)."""
_OPENING = 4
"""Blocks that are counted before the even flow begins."""
_IDLE = 0.05
_ENOUGH = 0.6
"""A stretch that takes less of the time that is wanted is warm-up: the next one is longer."""


@dataclass(frozen=True, slots=True)
class Speed:
    """events: how many were measured. wall_s, cpu_s, peak_mb: what they took; peak over the whole life."""

    events: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    verdict: Verdict | None

    @property
    def per_cpu_s(self) -> float:
        """Events per CPU-second of the contestant."""
        return self.events / self.cpu_s

    @property
    def per_s(self) -> float:
        """Events per second."""
        return self.events / self.wall_s


@dataclass(frozen=True, slots=True)
class Latency:
    """From the sending of an event to its total being visible, seconds. rate: events per second.

    unseen: probes that never were visible.
    """

    rate: float
    p50_s: float
    p99_s: float
    probes: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Crash:
    """killed_at: share that was counted then, as far as it tells. back_s: from the restart until everything was counted."""

    killed_at: float
    back_s: float
    events: int
    verdict: Verdict


async def speed(
    contestant: Contestant,
    where: Where,
    given: Input,
    feed: Feed,
    warm_s: float,
    run_s: float,
    *,
    about_per_s: float,
) -> Speed:
    """How fast, for about `run_s` seconds of CPU time or until the input is at its end.

    about_per_s: how many events it takes per CPU-second, about; so long are its first stretches.
    """
    if contestant.batch:
        return await _batch_speed(contestant, where, given, feed, run_s, about_per_s)
    running = contestant.on(where)
    course = Course(running, feed, given)
    try:
        await running.prepare(feed)
        await running.start()
        await course.take(course.next(warming(given, about_per_s * warm_s)))
        if given.opening:
            await rested(running)
        blocks, warmed_s = _blocks(about_per_s * run_s), running.cpu_s()
        while True:
            cpu_s, wall_s, events = await course.measured(course.next(blocks))
            if not course.left or (warmed_s >= warm_s and cpu_s >= _ENOUGH * run_s):
                break
            warmed_s += cpu_s
            blocks = min(8 * blocks, _blocks(run_s * events / max(cpu_s, SAMPLE_S)))
            if course.left < 1.5 * blocks:  # the rest would be too little for another one
                blocks = course.left
        peak_mb = running.peak_mb()
        closing = closed_in_the_end(contestant, given)
        verdict = await course.verdict(contestant, close=closing, soon=True) if contestant.adds_up else None
        return Speed(events, wall_s, cpu_s, peak_mb, verdict)
    finally:
        await running.stop()


def closed_in_the_end(contestant: Contestant, given: Input) -> bool:
    """Whether windows are closed before totals are looked at: where they are few, or nothing else is told of them."""
    return contestant.closes == "event time" and (given.closes or not contestant.tells_early)


async def _batch_speed(
    contestant: Contestant, where: Where, given: Input, feed: Feed, run_s: float, about_per_s: float
) -> Speed:
    opening = warming(given, 4 * BLOCK_EVENTS)
    few = await _batch(contestant, replace(where, name=f"{where.name}-start"), given, feed, opening)
    all_ = await _batch(contestant, where, given, feed, opening + _blocks(about_per_s * run_s))
    cpu_s, wall_s = all_.cpu_s - few.cpu_s, all_.wall_s - few.wall_s
    return Speed(all_.events - few.events, wall_s, cpu_s, all_.peak_mb, all_.verdict)


async def _batch(contestant: Contestant, where: Where, given: Input, feed: Feed, blocks: int) -> Speed:
    running = contestant.on(where)
    course = Course(running, feed, given)
    try:
        await running.prepare(feed)
        await course.write(course.next(blocks))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began_s, peak_mb = time.monotonic(), 0.0
        await running.start()
        while running.children():
            try:
                peak_mb = max(peak_mb, running.peak_mb())
            except (OSError, KeyError):  # it has ended since: nothing to read any more, or nothing of its memory
                pass
            await asyncio.sleep(SAMPLE_S)
        running.check()
        wall_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        verdict = await course.verdict(contestant, close=True, soon=True)
        return Speed(course.events, wall_s, cpu_s, peak_mb, verdict)
    finally:
        await running.stop()


async def latency(
    contestant: Contestant, where: Where, given: Input, feed: Feed, rate: float, warm_s: float
) -> Latency:
    """How soon, over the whole input at `rate` events per second; what was sent in the first `warm_s` does not count."""
    running = contestant.on(where)
    subjects = [subject_for(PROBE, partition) for partition in range(PARTITIONS)]
    sent_s: dict[tuple[int, int], float] = {}
    seen_s: dict[tuple[int, int], float] = {}
    try:
        await running.prepare(feed)
        await running.start()
        opening, rest = given.blocks[:_OPENING], given.blocks[_OPENING:]
        before = [batch for block in opening for batch in block.batches]
        await feed.append(where.usage, before)
        await until_all(running, feed, sum(b.records for b in opening), sum(b.events for b in opening))
        done = [max((b.probe for b in before if b.partition == p), default=0) for p in range(PARTITIONS)]
        batches = [batch for block in rest for batch in block.batches]
        expected = sum(batch.probe > 0 for batch in batches)

        async def watch() -> None:
            shown = dict(enumerate(done))
            async with aclosing(running.watch(subjects)) as totals:
                async for subject, count in totals:
                    now_s = time.monotonic()
                    partition = subjects.index(subject)
                    for number in range(shown[partition] + 1, count + 1):
                        seen_s[partition, number] = now_s
                    shown[partition] = max(shown[partition], count)
                    if len(seen_s) >= expected:
                        return

        watching = asyncio.create_task(watch())
        try:
            began_s = await _paced(feed, where.usage, batches, sum(block.events for block in rest) / rate, sent_s)
            await asyncio.wait({watching}, timeout=STALLED_S)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
        running.check()
        counted = {key: at for key, at in sent_s.items() if at - began_s >= warm_s}
        waits = sorted(seen_s[key] - at for key, at in counted.items() if key in seen_s)
        if not waits:
            raise BrokerError(f"{contestant.title} has shown nothing of {len(counted)} probes")
        unseen = len(counted) - len(waits)
        return Latency(rate, quantile(waits, 0.5), quantile(waits, 0.99), len(counted), unseen)
    finally:
        await running.stop()


async def crash(
    contestant: Contestant, where: Where, given: Input, feed: Feed, lasts_s: float, rate: float, seed: int
) -> Crash:
    """What is right after a `kill -9` in the middle of a backlog that lasts so long at this rate, events per second.

    It lasts longer than any contestant waits between two commits, so that it is killed between two.
    """
    running = contestant.on(where)
    course = Course(running, feed, given)
    try:
        await running.prepare(feed)
        taken = course.next(max(2, int(lasts_s * rate) // BLOCK_EVENTS))
        await course.write(taken)
        await running.start()
        closing_s = time.monotonic() + where.closes_in_s
        if contestant.batch:
            await asyncio.sleep(BATCH_START_S + KILL_AT * lasts_s)
            running.check()
            share = KILL_AT
        else:
            share = await until(running, feed, course, KILL_AT)
            await asyncio.sleep(random.Random(seed).random())  # commits come at intervals: not always right behind one
            share = max(share, await running.share(feed, course.records, course.events))
        await running.kill()
        began_s = time.monotonic()
        await running.start()
        await until_all(running, feed, course.records, course.events)
        back_s = time.monotonic() - began_s
        if contestant.closes == "wall clock":
            await asyncio.sleep(max(0.0, closing_s + CLEANED_S - time.monotonic()))
        return Crash(share, back_s, course.events, await course.verdict(contestant, close=bool(contestant.closes)))
    finally:
        await running.stop()


async def rested(running: Running) -> None:
    """Returns when it has hardly worked for longer than it waits between two commits, or after RESTED_MOST_S.

    What so many new keys ask for besides has been done then: a snapshot, a compaction. In a short stretch right behind them it
    would count many times over, since such a load comes once.
    """
    end_s, before_s = time.monotonic() + RESTED_MOST_S, running.cpu_s()
    while time.monotonic() < end_s:
        await asyncio.sleep(QUIET_S)
        running.check()
        spent_s = running.cpu_s()
        if spent_s - before_s < _IDLE * QUIET_S:
            return
        before_s = spent_s


def warming(given: Input, events: float) -> int:
    """Blocks for so many events and for every key that is to be live, but as much again is left to be measured, and more."""
    return max(given.opening, min(_blocks(events), len(given.blocks) // 3), 1)


def _blocks(events: float) -> int:
    return max(1, round(events / BLOCK_EVENTS))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` that at least so many are not above (nearest rank)."""
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


async def _paced(
    feed: Feed, topic: str, batches: Sequence[Batch], span_s: float, sent_s: dict[tuple[int, int], float]
) -> float:
    """Sends all batches evenly over `span_s`, several at a time but each partition in order; the time of the first."""
    began_s = time.monotonic()
    lanes: list[asyncio.Queue[Batch | None]] = [asyncio.Queue() for _ in range(PARTITIONS)]

    async def lane(queue: asyncio.Queue[Batch | None]) -> None:
        while (batch := await queue.get()) is not None:
            await feed.send(topic, batch)

    async with asyncio.TaskGroup() as all_:
        for queue in lanes:
            all_.create_task(lane(queue))
        for number, batch in enumerate(batches):
            await asyncio.sleep(max(0.0, began_s + number * span_s / len(batches) - time.monotonic()))
            if batch.probe:
                sent_s[batch.partition, batch.probe] = time.monotonic()
            lanes[batch.partition].put_nowait(batch)
        for queue in lanes:
            queue.put_nowait(None)
    return began_s
