"""A story: one seed's world, from its first record to the judgement.

Everything that production would meet around its own code is here: logs and the group (`cluster.py`), the network
(`broker.py`, `wire.py`), the sinks' services, clocks, chance, a supervisor. `tell` gives the story's end, or the promise that
was broken, and every line of what happened; the same seed and the same faults give the same lines, to the byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from schemas.errors import MeterlineError
from schemas.meters import parse
from schemas.records import Record
from simulation import plan as plans
from simulation.befalling import Weather, befall
from simulation.broker import WORLD, SimulatedBroker
from simulation.cluster import Cluster, Group, Place
from simulation.comparison import Broken
from simulation.cosmos import TwoRegions
from simulation.cosmos_client import CosmosClient
from simulation.evidence import Evidence
from simulation.judge import Judge
from simulation.loop import Stuck, VirtualLoop
from simulation.oracle import Window
from simulation.plan import Fault, Plan
from simulation.process import Process
from simulation.scale import START_MS, Scale, draw_scale
from simulation.servicebus import Consumer, ServiceBus
from simulation.usage import document, usage
from simulation.watched import WatchedWorker
from simulation.wire import Wire
from sinks.contract import Sink
from sinks.cosmos import CosmosSink
from sinks.servicebus import ServiceBusSink
from streams.worker import Worker
from tables.effects import Effect, Produce

DETECTION_S = 60.0
"""Service Bus's duplicate detection here; outages last longer."""
LATEST_S = 95.0
"""By when the last request that was under way has arrived."""
AFTER_A_STOP_S = 60.0
"""How long a story goes on in calm where a partition stopped."""
DEFECT = re.compile(r"(?:^|: )[A-Z]\w*: ")
"""Why a worker starts over, where the reason is no failure of the broker but an exception that has only a class's name."""


@dataclass(slots=True)
class Ending:
    """How a story ended. promise: the one that was broken, or None. effects: how many it had.

    script: its effects in order, by name, each with the records of its flush. lines: everything that happened.
    """

    seed: int
    promise: str | None
    what: str
    faults: Plan
    effects: int
    virtual_s: float
    digest: str
    stops: dict[str, str]
    checks: int
    recoveries: int
    script: list[tuple[str, int]] = field(repr=False)
    lines: list[str] = field(repr=False)


def tell(
    seed: int, only: Iterable[int] | None = None, *, scale: Scale | None = None, plan: Plan | None = None
) -> Ending:
    """Tells the story of a seed, with all its faults or with those of the given numbers alone."""
    return World(seed, only, scale, plan).tell()


class World(Evidence):
    """Everything that outlives a process."""

    def __init__(self, seed: int, only: Iterable[int] | None, scale: Scale | None, plan: Plan | None) -> None:
        self.seed = seed
        rng = random.Random(f"{seed}/world")
        self.scale = scale or draw_scale(rng)
        sources, settings = self.scale.sources, self.scale.settings
        self.document = self.scale.document or document(rng)
        span_ms, records = int(self.scale.span_s * 1000), self.scale.records
        drawn_usage = usage(rng, self.document, sources, START_MS, span_ms, records) if records else []
        self._sent = [*self.scale.sent, *drawn_usage]
        drawn = plan if plan is not None else plans.draw(random.Random(f"{seed}/faults"), self.scale.span_s, 900)
        self.plan = drawn if only is None else drawn.only(only)
        self.taken_from: set[str] = set()
        self.loop = VirtualLoop()
        self.network = random.Random(f"{seed}/network")
        topics = {
            settings.usage_topic: sources,
            settings.partials_topic: self.scale.targets,
            settings.metering_state_topic: sources,
            settings.closing_state_topic: self.scale.targets,
            settings.dead_letters_topic: 1,
        }
        shared = {name: topics[name] for name in (settings.usage_topic, settings.partials_topic)}
        group = Group(shared, settings.session_timeout_s, settings.rebalance_timeout_s, self.network)
        super().__init__(
            settings,
            parse(json.dumps(self.document)),
            sources,
            self.scale.targets,
            Cluster(topics, group, self.broker_now_ms, self._appended),
            ServiceBus(settings.servicebus_queue, detection_window_s=DETECTION_S),
            TwoRegions(self.network),
        )
        self.consumer = Consumer(self.servicebus, self.network)
        self.judge = Judge(self)
        self.processes: list[Process] = []
        self.broker_is_down = False
        self.calm = False
        self.settled = False
        self.broker_skew_ms = 0
        self.paused: set[Place] = set()
        self._placed = {int(fault.at): fault for fault in self.plan.faults if fault.kind in plans.PLACED}
        self._down: dict[str, int] = {}
        self._effects = 0
        self.script: list[tuple[str, int]] = []
        self._lines: list[str] = []
        self._broken: Broken | None = None
        self._over: asyncio.Event

    def tell(self) -> Ending:
        """From the first record to the judgement."""
        promise, what = None, "every promise holds"
        try:
            self.loop.run(self._live())
        except Broken as broken:
            promise, what = broken.promise, str(broken)
        except Stuck as stuck:
            promise, what = "L7", str(stuck)
        self.note(what)
        digest = hashlib.sha256("\n".join(self._lines).encode()).hexdigest()
        return Ending(
            self.seed, promise, what, self.plan, self._effects, self.loop.time(), digest, self.judge.stops,
            self.judge.checks, self.judge.recoveries, self.script, self._lines,
        )  # fmt: skip

    # -- what happens

    async def _live(self) -> None:
        self._over = asyncio.Event()
        for sent in self._sent:
            self._at((sent.at_ms - START_MS) / 1000, self._send, sent.source, sent.key, sent.value)
        for fault in self.plan.faults:
            if fault.kind not in plans.PLACED:
                self._at(fault.at, befall, self, fault)
        self.loop.create_task(self.consumer.run(), context=Context())
        for number in range(self.scale.workers):
            # Some come late: the group grows while it works.
            joins_s = 0.0 if number == 0 else self.network.choice([0.0, 0.0, self.network.uniform(0, 60)])
            self.processes.append(Process(self, number, 0))
            self._at(joins_s, self.processes[number].start)
        await self._until(self.scale.span_s)
        self._calm_down()
        deadline_s = self._deadline_s()
        while not self.judge.all_delivered():
            if self.judge.stops:  # what else was cut may still be counted wrongly by whoever takes it over
                await self._until(self.loop.time() + AFTER_A_STOP_S)
                break
            if self.loop.time() > deadline_s:
                raise Broken("L7", f"after {deadline_s:.0f} s {self.judge.what_lacks()}")
            await self._until(self.loop.time() + 5.0)
        if not self.judge.stops:
            await self._settle(deadline_s)
        self.judge.at_the_end(complete=not self.judge.stops)

    async def _until(self, time_s: float) -> None:
        """Lets the story go on; raises the promise that was broken meanwhile."""
        try:
            await asyncio.wait_for(self._over.wait(), time_s - self.loop.time())
        except TimeoutError:
            pass
        if self._broken is not None:
            raise self._broken

    async def _settle(self, deadline_s: float) -> None:
        """Dead letters are written, the regions agree, the consumer has seen everything; in some stories, every window is
        sealed and forgotten."""
        while lacking := self.judge.dead_letters_lacking():
            if self.judge.stops:  # where there is no window, it may come as late as this
                return
            if self.loop.time() > deadline_s + 120:
                raise Broken("L1", f"dead letters that were never written: {lacking}")
            await self._until(self.loop.time() + 2.0)
        while not (self.cosmos.converged() and self.servicebus.is_empty):
            if self.loop.time() > deadline_s + 120:
                raise Broken("L8", "the regions do not converge, or the consumer does not get what is there")
            await self._until(self.loop.time() + 1.0)
        if any("late" in fault.fates and fault.at <= self._effects for fault in self.plan.faults):
            await self._until(self.loop.time() + LATEST_S)
        self.settled = True
        if self.scale.sealed:
            sealed_s = deadline_s + self.definitions.stream.correct_for_ms / 1000 + 60
            while left := self._left():
                if self.loop.time() > sealed_s:
                    raise Broken("L10", f"still remembered long after every seal: {left}")
                await self._until(self.loop.time() + 5.0)

    def _deadline_s(self) -> float:
        """When everything must be delivered, at the latest: the last window's end, the watermark's delay, some patience."""
        stream = self.definitions.stream
        ends = [key[3] + self._size_ms(key) for key in self.judge.oracle.windows()]
        last_s = (max(ends, default=START_MS) - START_MS) / 1000
        slack_s = (max(m.grace_ms for m in self.definitions.meters) + stream.revise_every_ms) / 1000
        delay_s = (stream.max_delay_ms or 0) / 1000
        return max(self.loop.time(), last_s) + slack_s + delay_s + 240.0

    def _size_ms(self, key: Window) -> int:
        return self.definitions_sizes[key[1], key[4]]

    @property
    def definitions_sizes(self) -> dict[tuple[str, str], int]:
        """(meter, size) -> ms."""
        return {(m.slug, w.size): w.size_ms for m in self.definitions.meters for w in m.windows}

    def _calm_down(self) -> None:
        """The faults stop: everything that is down comes back; a supervisor has every worker running again."""
        self.note("calm")
        self.calm = True
        self.broker_is_down = False
        self.broker_skew_ms = 0
        self.paused.clear()
        self.servicebus.set_down(False)
        for name in self.cosmos.regions:
            self.cosmos.bring_up(name)
        for process in self.processes:
            process.thaw()
            process.clock.skew_ms = 0

    # -- what the rest of the simulation asks

    def now_ms(self) -> int:
        """The world's true time, ms UTC."""
        return START_MS + int(self.loop.time() * 1000)

    def broker_now_ms(self) -> int:
        """The broker's clock: it gives records their append time."""
        return self.now_ms() + self.broker_skew_ms

    def note(self, line: str) -> None:
        """One line of the story."""
        self._lines.append(f"{self.loop.time():9.3f} {line}")

    def later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        """Something of the world happens later."""
        self.loop.call_later(delay_s, callback, *args, context=WORLD)

    def next_effect(self, who: str, effect: Effect | str, place: object) -> tuple[int, Fault | None]:
        """The number of the effect that begins now, and the fault that befalls it."""
        self._effects += 1
        number = self._effects
        fault = self._placed.get(number) if not self.calm or self.scale.to_the_end else None
        named = effect if isinstance(effect, str) else type(effect).__name__
        self.script.append((named, len(effect.records) if isinstance(effect, Produce) else 0))
        self.note(f"{who} {number} {named} {place}{' ! ' + str(fault) if fault else ''}")
        return number, fault

    def committed(self, place: Place, offset: int, who: str) -> None:
        """The coordinator took a commit."""
        self.note(f"{who} committed {place} {offset}")
        self._judged(self.judge.committed, place, offset)

    def refused(self, who: str, error: MeterlineError) -> None:
        """A worker ends for good: no world here gives it a reason to."""
        self._break(Broken("L7", f"{who} refuses to go on: {error}"))

    def started_over(self, who: str, why: str) -> None:
        """A worker starts over: right where the broker failed it, never for an exception that nobody foresaw."""
        self.note(f"{who} starts over: {why}")
        if DEFECT.search(why):
            self._break(Broken("L7", f"{who} starts over for a defect: {why}"))

    def failed(self, who: str, error: BaseException) -> None:
        """Something of a process's shell raised: the simulation is wrong, or production raised where none may."""
        self._break(Broken("L7", f"{who} failed: {type(error).__name__}: {error}"))

    def is_paused(self, place: Place) -> bool:
        """Whether fetches of a partition bring nothing now."""
        return place in self.paused

    def start_again(self, process: Process, down_s: float) -> None:
        """The supervisor: the next incarnation, after a while."""
        following = Process(self, process.number, process.incarnation + 1)
        following.clock.skew_ms = process.clock.skew_ms
        self.processes[process.number] = following
        self.later(min(down_s, 30.0) if not self.calm else min(down_s, 2.0), following.start)

    def observed_worker(
        self,
        process: Process,
        broker: SimulatedBroker,
        start_over: Callable[[str], None],
        refuse: Callable[[MeterlineError], None],
    ) -> Worker:
        """Production's worker with production's sinks, watched."""
        wire = Wire(process.rng, Weather(self, process))
        sinks: list[Sink] = [
            ServiceBusSink(self.settings, client=self.servicebus.client(wire)),
            CosmosSink(self.settings, client=partial(CosmosClient, self.cosmos, wire)),
        ]
        worker = WatchedWorker(
            self.settings,
            self.definitions,
            sinks,
            broker,
            start_over,
            refuse,
            process.clock,
            process.rng,
            self.scale.limits,
        )
        worker.watch(self)
        return worker

    def judged(self, check: Callable[..., None], *args: Any) -> None:
        """A check by the judge; what it finds ends the story, and is not thrown into the code that is judged."""
        self._judged(check, *args)

    def describe(self) -> str:
        """Who does what now."""
        parts = []
        for process in self.processes:
            worker = process.worker
            tasks = [*worker.metering.values(), *(owned.task for owned in worker.closing.values())]
            states = [f"{task.stage}{task.partition}:{task.state}@{task.position}" for task in tasks]
            parts.append(f"{process.name}({process.host.state}) {' '.join(states)}")
        return "; ".join(parts)

    # -- below

    def _at(self, time_s: float, callback: Callable[..., Any], *args: Any) -> None:
        self.loop.call_at(time_s, callback, *args, context=WORLD)

    def _send(self, source: int, key: bytes | None, value: bytes | None) -> None:
        offset = self.cluster.append(self.settings.usage_topic, source, key, value)
        self.note(f"usage[{source}] {offset}")

    def _appended(self, topic: str, partition: int, record: Record) -> None:
        if topic == self.settings.usage_topic:
            self._judged(self.judge.appended, partition, record)

    def _judged(self, check: Callable[..., None], *args: Any) -> None:
        try:
            check(*args)
        except Broken as broken:
            self._break(broken)
        except (
            Exception
        ) as error:  # thrown on, it would be taken for an error of the code that is judged, and restarted away
            self._break(Broken("the judge", f"cannot judge: {type(error).__name__}: {error}"))

    def _break(self, broken: Broken) -> None:
        if self._broken is None:
            self._broken = broken
            self._over.set()

    def _left(self) -> dict[str, int]:
        """What live workers still remember of windows."""
        left: dict[str, int] = {}
        for process in self.processes:
            for source, metering in process.worker.metering.items():
                left[f"usage[{source}]"] = len(metering.metering.table.partials)
            for partition, owned in process.worker.closing.items():
                table = owned.task.closing.table
                left[f"partials[{partition}]"] = len(table.windows) + len(table.outbox.items)
        return {name: count for name, count in left.items() if count}
