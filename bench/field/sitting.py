"""One sitting: a broker of its own, and every step that is still missing, one after the other."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.field import inputs
from bench.field.catalogue import Catalogue
from bench.field.contestants import Contestant, Where
from bench.field.feeding import Feed
from bench.field.inputs import Input
from bench.field.job import PARTITIONS
from bench.field.measure import Crash, Latency, Speed, crash, latency, speed
from bench.field.plan import Plan, Step
from bench.field.records import Run, Runs, Spread
from local.kafka import KafkaCluster
from schemas.errors import BrokerError, ConfigurationError, MeterlineError

_CLOSES_AFTER_S = 100.0
"""How long after its first start a contestant closes windows that does so by the machine's clock, besides what it takes to
read them: a group waits a minute for a member that was killed, and a window that closes before it is read is lost."""
_KILLED_AT_ONCE = 3
_KILLED_TIMES = 2.0
"""What is read when it is killed lasts so many times as long as what is measured."""
_BATCH_S = 0.02
"""How much of an even flow one batch holds, for the time from event to total."""
_OPENING = 4 * inputs.BLOCK_EVENTS


@dataclass(frozen=True, slots=True)
class Cores:
    """shared: the broker's, the generator's and ours; measured: the contestant's."""

    shared: int
    measured: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first and the last core that we may use. Raises ConfigurationError where there is one only."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < 2 or shutil.which("taskset") is None:
            raise ConfigurationError(
                f"the field needs Linux, taskset and two cores, one of them for the contestant alone; here: {cores}",
                where="make bench",
                hint="run it on a machine that has them",
            )
        return cls(cores[0], cores[-1])


class Sitting:
    """`await Sitting(…).measure(steps)`. title: when it is, and with what program; it stands with every run."""

    def __init__(
        self,
        plan: Plan,
        members: Sequence[Contestant],
        runs: Runs,
        directory: Path,
        cores: Cores,
        *,
        trace: Path | None,
        title: str,
    ) -> None:
        self._plan = plan
        self._members = {member.name: member for member in members}
        self._runs = runs
        self._directory = directory
        self._cores = cores
        self._title = title
        begin_ms = inputs.hour_before(int(time.time() * 1000))
        self._inputs = Catalogue(plan.events, begin_ms, trace)
        self._name = f"{time.time_ns() // 1_000_000_000:x}"
        self._number = 0

    async def measure(self, steps: Sequence[Step]) -> None:
        """Each of them, in this order; its figures are kept before the next one begins. What is right after a kill is looked
        at of several at once, after all else: no speed is measured there, and they wait for their groups most of the time."""
        kafka = KafkaCluster(self._directory / f"kafka-{self._name}")
        try:
            await kafka.start()
            self._bootstrap = kafka.bootstrap
            alone = [step for step in steps if step.kind != "crash"]
            crashes = [step for step in steps if step.kind == "crash"]
            crashes.sort(key=lambda step: self._members[step.contestant].closes != "wall clock")  # the longest first
            for number, step in enumerate(alone):
                left = [*alone[number:], *crashes]
                self._inputs.keep(later.given for later in left if later.kind != "latency")
                await self._try(step, f"{number + 1} of {len(steps)}")
            turns = asyncio.Semaphore(_KILLED_AT_ONCE)

            async def in_turn(number: int, step: Step) -> None:
                async with turns:
                    await self._try(step, f"{number} of {len(steps)}")

            await asyncio.gather(*(in_turn(number, step) for number, step in enumerate(crashes, start=len(alone) + 1)))
        finally:
            await kafka.stop()
            shutil.rmtree(kafka.directory / "data", ignore_errors=True)

    async def _try(self, step: Step, place: str) -> None:
        """One step; a contestant that fails is told in the results, and the others go on."""
        member = self._members[step.contestant]
        if step.kind != "speed" and not self._runs.speeds(step.contestant, step.given):
            return  # the rest goes by its speed, and that it has none is told already
        figures, failure = None, ""
        self._number += 1
        name = f"{member.name}-{self._name}-{self._number}"
        began_s = time.monotonic()
        async with Feed(self._bootstrap) as feed:
            try:
                figures = await self._figures(step, member, name, feed)
            except (MeterlineError, OSError, TimeoutError) as error:
                failure = str(error) or type(error).__name__
            await feed.delete(*await feed.topics_of(name))
        run = Run(step.contestant, step.given, step.number, step.kind, figures, failure.partition("\n")[0], self._title)
        self._runs.add(run)
        took = f"{time.monotonic() - began_s:.0f} s"
        what = f"{step.kind}, {step.given}, round {step.number + 1}: {member.title}"
        print(f"{place} ({took}): {what}: {figures or failure}", flush=True)
        if not failure:
            shutil.rmtree(self._directory / name, ignore_errors=True)

    async def _figures(self, step: Step, member: Contestant, name: str, feed: Feed) -> Speed | Latency | Crash:
        if step.kind == "latency":
            return await self._latency(step, member, name, feed)
        given = self._inputs.given(step.given)
        where = self._where(given, name)
        if step.kind == "speed":
            warm_s = max(self._plan.warm_s, member.warms_up_s)
            earlier = Spread.of(s.per_cpu_s for s in self._runs.speeds(step.contestant, step.given).values())
            about_per_s = earlier.median if earlier else member.about_per_s
            return await speed(member, where, given, feed, warm_s, self._plan.run_s, about_per_s=about_per_s)
        lasts_s = _KILLED_TIMES * self._plan.run_s
        where = replace(where, closes_in_s=_CLOSES_AFTER_S + _KILLED_AT_ONCE * lasts_s)
        return await crash(member, where, given, feed, lasts_s, self._median(step, lambda s: s.per_s), step.number)

    async def _latency(self, step: Step, member: Contestant, name: str, feed: Feed) -> Latency:
        # What its one core can take: by the clock a fast one waits for its last checkpoint, mostly.
        rate = self._median(step, lambda speed: speed.per_cpu_s) / 2
        per_batch = max(1, round(rate * _BATCH_S / PARTITIONS / (inputs.ENVELOPE_EVENTS if member.envelopes else 1)))
        warm_s = max(self._plan.latency_s / 3, member.warms_up_s)
        events = int(rate * (warm_s + self._plan.latency_s)) + _OPENING
        flow = self._inputs.flow(step.given, events, per_batch, envelopes=member.envelopes)
        where = replace(self._where(flow, name), running_totals=True)
        return await latency(member, where, flow, feed, rate, warm_s)

    def _median(self, step: Step, figure: Callable[[Speed], float]) -> float:
        found = Spread.of(map(figure, self._runs.speeds(step.contestant, step.given).values()))
        if found is None:
            raise BrokerError("its speed is not known")
        return found.median

    def _where(self, given: Input, name: str) -> Where:
        return Where(self._bootstrap, self._directory, name, self._cores.measured, given.end_ms)
