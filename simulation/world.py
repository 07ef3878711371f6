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
from decimal import Decimal
from functools import partial
from typing import Any

from schemas.errors import MeterlineError
from schemas.meters import parse
from schemas.records import Batch, Record
from schemas.times import parse_rfc3339
from schemas.windows import WindowKey
from settings import Settings
from simulation import plan as plans
from simulation.broker import WORLD, SimulatedBroker
from simulation.cluster import Cluster, Group, Log, Place
from simulation.cosmos import TwoRegions, Write
from simulation.cosmos_client import CosmosClient
from simulation.judge import Broken, Judge
from simulation.loop import Stuck, VirtualLoop
from simulation.oracle import Window
from simulation.plan import Fault, Plan
from simulation.process import Process
from simulation.servicebus import Consumer, ServiceBus
from simulation.usage import Sent, document, usage
from simulation.watched import WatchedWorker
from simulation.wire import Kind, Misfortune, Wire
from sinks.contract import Sink
from sinks.cosmos import CosmosSink
from sinks.servicebus import ServiceBusSink
from streams.closing import Closing
from streams.metering import Metering, Topics
from streams.tasks import Pace
from streams.worker import Worker
from tables.closing import ClosingTable
from tables.durable import Durable, Limits, Table
from tables.effects import Effect, Produce, ReadBounds, ReadCommitted, ReadLog
from tables.metering import MeteringTable

START_MS = 1_767_268_800_000
"""When every story begins: 2026-01-01T12:00:00Z."""
SECRETS = {
    "servicebus_connection_string": "Endpoint=sb://simulated/;SharedAccessKeyName=k;SharedAccessKey=c2ltdWxhdGVk",
    "cosmos_endpoint": "https://simulated.example/",
    "cosmos_key": "c2ltdWxhdGVk",
}
"""Well-formed, and of nothing that exists."""
DETECTION_S = 60.0
"""Service Bus's duplicate detection here; outages last longer."""
AFTER_A_STOP_S = 60.0
"""How long a story goes on in calm where a partition stopped."""
DEFECT = re.compile(r"(?:^|: )[A-Z]\w*: ")
"""Why a worker starts over, where the reason is no failure of the broker but an exception that has only a class's name."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a world is. span_s: how long usage flows and faults happen, virtual seconds."""

    sources: int
    targets: int
    workers: int
    records: int
    span_s: float
    settings: Settings
    limits: Limits
    pace: Pace
    sealed: bool
    """Whether the story goes on until every window is sealed and forgotten."""
    to_the_end: bool = False
    """Whether placed faults befall effects after the calm, too."""
    document: dict[str, Any] | None = None
    """The meters, where they are not drawn."""
    sent: tuple[Sent, ...] = ()
    """Usage that is given, besides the `records` that are drawn."""


def draw_scale(rng: random.Random) -> Scale:
    """Mostly small worlds: they break as well, and more of them can be told."""
    return Scale(
        sources=rng.choices([1, 2, 3, 5, 8], [30, 40, 20, 7, 3])[0],
        targets=rng.choices([1, 2, 3], [60, 30, 10])[0],
        workers=rng.choices([1, 2, 3, 5], [30, 45, 20, 5])[0],
        records=rng.choices([6, 12, 25, 60], [25, 40, 25, 10])[0],
        span_s=rng.choices([60.0, 120.0, 240.0, 400.0], [30, 40, 20, 10])[0],
        settings=Settings(
            **SECRETS,  # type: ignore[arg-type]
            session_timeout_s=10.0,
            rebalance_timeout_s=12.0,
        ),
        limits=Limits(
            record=rng.choices([64, 600, 1200, 64_000], [15, 30, 30, 25])[0],
            slice=rng.choice([1, 400, 4_000_000]),
            snapshot_min=rng.choice([0, 3000, 1_000_000]),
        ),
        pace=Pace(
            emit_s=rng.choice([3.0, 6.0, 10.0]),
            everywhere_s=rng.choice([2.0, 10.0]),
            checkpoint_s=rng.choice([5.0, 12.0, 25.0]),
            prompt_s=rng.choice([0.4, 3.0]),
            snapshot_s=rng.choice([24 * 30.0, 24 * 120.0, 86_400.0]),
            tick_s=rng.choice([2.0, 5.0, 10.0]),
        ),
        sealed=rng.random() < 0.1,
    )


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


class World:
    """Everything that outlives a process."""

    def __init__(self, seed: int, only: Iterable[int] | None, scale: Scale | None, plan: Plan | None) -> None:
        self.seed = seed
        rng = random.Random(f"{seed}/world")
        self.scale = scale or draw_scale(rng)
        self.sources, self.targets = self.scale.sources, self.scale.targets
        self.settings = self.scale.settings
        self.document = self.scale.document or document(rng)
        self.definitions = parse(json.dumps(self.document))
        span_ms, records = int(self.scale.span_s * 1000), self.scale.records
        drawn_usage = usage(rng, self.document, self.sources, START_MS, span_ms, records) if records else []
        self._sent = [*self.scale.sent, *drawn_usage]
        drawn = plan if plan is not None else plans.draw(random.Random(f"{seed}/faults"), self.scale.span_s, 900)
        self.plan = drawn if only is None else drawn.only(only)
        self.taken_from: set[str] = set()
        self.loop = VirtualLoop()
        self._network = random.Random(f"{seed}/network")
        topics = {
            self.settings.usage_topic: self.sources,
            self.settings.partials_topic: self.targets,
            self.settings.metering_state_topic: self.sources,
            self.settings.closing_state_topic: self.targets,
            self.settings.dead_letters_topic: 1,
        }
        shared = {name: topics[name] for name in (self.settings.usage_topic, self.settings.partials_topic)}
        group = Group(shared, self.settings.session_timeout_s, self.settings.rebalance_timeout_s, self._network)
        self.cluster = Cluster(topics, group, self.broker_now_ms, self._appended)
        self.servicebus = ServiceBus(self.settings.servicebus_queue, detection_window_s=DETECTION_S)
        self.cosmos = TwoRegions(self._network)
        self.consumer = Consumer(self.servicebus, self._network)
        self._ledger: set[str] = set()
        self._shown: dict[str, int] = {}
        self._ledger_read = 0
        self._messages: set[str] = set()
        self._messages_read = 0
        self.judge = Judge(self)
        self.processes: list[Process] = []
        self.broker_is_down = False
        self.calm = False
        self.settled = False
        self._broker_skew_ms = 0
        self._paused: set[Place] = set()
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
                self._at(fault.at, self._befall, fault)
        self.loop.create_task(self.consumer.run(), context=Context())
        for number in range(self.scale.workers):
            # Some come late: the group grows while it works.
            joins_s = 0.0 if number == 0 else self._network.choice([0.0, 0.0, self._network.uniform(0, 60)])
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
            await self._until(self.loop.time() + 4.0)
        complete = not self.judge.stops
        if complete:
            await self._settle(deadline_s)
        self.judge.at_the_end(complete)

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
            if self.loop.time() > deadline_s + 120:
                raise Broken("L1", f"dead letters that were never written: {lacking}")
            await self._until(self.loop.time() + 2.0)
        while not (self.cosmos.converged() and self.servicebus.is_empty):
            if self.loop.time() > deadline_s + 120:
                raise Broken("L8", "the regions do not converge, or the consumer does not get what is there")
            await self._until(self.loop.time() + 1.0)
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
        self._broker_skew_ms = 0
        self._paused.clear()
        self.servicebus.set_down(False)
        for name in self.cosmos.regions:
            self.cosmos.bring_up(name)
        for process in self.processes:
            process.thaw()
            process.clock.skew_ms = 0

    def _befall(self, fault: Fault) -> None:
        if self.calm:
            return
        self.note(f"fault {fault}")
        process = self.processes[fault.who % len(self.processes)] if self.processes else None
        kind = fault.kind
        if process is not None and kind == "kill":
            process.kill(fault.for_s)
        elif process is not None and kind == "freeze":
            process.freeze(fault.for_s)
        elif process is not None and kind == "terminate":
            process.terminate(fault.for_s)
        elif process is not None and kind == "rejoin":
            process.rejoin()
        elif process is not None and kind == "clock_jump":
            process.clock.skew_ms += int(fault.for_s * 1000)
        elif kind == "broker_clock_jump":
            self._broker_skew_ms += int(fault.for_s * 1000)
        elif kind == "pause":
            place = self._place(fault.who)
            self._paused.add(place)
            self.later(fault.for_s, self._paused.discard, place)
        elif process is not None and kind == "drop":
            process.drop_next_batch(self._place(fault.who))
        elif kind in plans.CUTS:
            self._cut(fault)
        else:
            self._service_down(kind, fault)

    def _service_down(self, kind: str, fault: Fault) -> None:
        if kind == "broker_down":
            self.broker_is_down = True
            self.later(fault.for_s, setattr, self, "broker_is_down", False)
        elif kind == "servicebus_down":
            self.servicebus.set_down(True)
            self.later(fault.for_s, self.servicebus.set_down, False)
        else:
            names = list(self.cosmos.regions)
            for name in names if kind == "cosmos_down" else [names[fault.who % len(names)]]:
                self.cosmos.take_down(name, "unavailable" if fault.who % 3 == 0 else "refused")
                self.later(fault.for_s, self.cosmos.bring_up, name)

    def _cut(self, fault: Fault) -> None:
        """Retention, or a hand, takes something that is still needed, or is not."""
        s, who = self.settings, fault.who
        committed = self.cluster.group.committed
        if fault.kind == "cut_changelog":
            topic, count = (s.metering_state_topic, self.sources) if who % 2 else (s.closing_state_topic, self.targets)
            log = self.cluster.logs[topic, who // 2 % count]
            begin = log.begin
            self.cluster.cut(topic, who // 2 % count, self._network.randint(0, log.end))
            if log.begin > begin:
                source = s.usage_topic if who % 2 else s.partials_topic
                self.taken_from.add(f"{source}[{who // 2 % count}]")
            return
        topic, count = (
            (s.partials_topic, self.targets) if fault.kind == "cut_partials" else (s.usage_topic, self.sources)
        )
        place = (topic, who % count)
        if fault.kind == "forget_offset":
            if committed.pop(place, None) is not None:
                self.taken_from.add(f"{topic}[{place[1]}]")
            self.judge.offset_forgotten(place)
            return
        if place in committed:  # what was gone before a partition's first act was never this deployment's
            log = self.cluster.logs[place]
            self.cluster.cut(*place, self._network.randint(committed[place], log.end))
            if log.begin > committed[place]:
                self.taken_from.add(f"{topic}[{place[1]}]")

    # -- what the rest of the simulation asks

    def now_ms(self) -> int:
        """The world's true time, ms UTC."""
        return START_MS + int(self.loop.time() * 1000)

    def broker_now_ms(self) -> int:
        """The broker's clock: it gives records their append time."""
        return self.now_ms() + self._broker_skew_ms

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
        return place in self._paused

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
        wire = Wire(process.rng, _Weather(self, process))
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

    # -- what the judge asks

    def plain_metering(self, source: int) -> Metering:
        """A stage that has never seen a changelog."""
        s = self.settings
        table = MeteringTable(self.targets, self.definitions.stream.correct_for_ms)
        durable = self._durable(table, s.usage_topic, s.metering_state_topic, source, self.sources)
        topics = Topics(s.usage_topic, s.partials_topic, s.dead_letters_topic)
        return Metering(self.definitions, topics, source, self.targets, durable, table)

    def plain_closing(self, partition: int) -> Closing:
        """A stage that has never seen a changelog."""
        s = self.settings
        table = ClosingTable(self.sources, self.definitions.stream.correct_for_ms, ("servicebus", "cosmos"))
        durable = self._durable(table, s.partials_topic, s.closing_state_topic, partition, self.targets)
        return Closing(self.definitions, s.partials_topic, partition, durable, table)

    def recovered_closing(self, partition: int, committed: int, changelog_end: int) -> Closing:
        """CLOSING recovered as an owner would have been when the changelog ended there and the offset was that."""
        stage, changelog = self.plain_closing(partition), self.closing_changelog(partition)
        source = self.partials_log(partition)
        recovery = stage.recover()
        answer: object = None
        while True:
            try:
                effect = recovery.send(answer)
            except StopIteration:
                return stage
            match effect:
                case ReadCommitted():
                    answer = committed
                case ReadBounds(topic):
                    answer = (0, source.end if topic == self.settings.partials_topic else changelog_end)
                case ReadLog(_, offset, end):
                    answer = [(record.offset, record.value or b"") for record in changelog.records[offset:end]]
                case _:
                    answer = None

    def metering_changelog(self, source: int) -> Log:
        """One partition of METERING's changelog."""
        return self.cluster.logs[self.settings.metering_state_topic, source]

    def closing_changelog(self, partition: int) -> Log:
        """One partition of CLOSING's changelog."""
        return self.cluster.logs[self.settings.closing_state_topic, partition]

    def replay_usage(self) -> dict[WindowKey, tuple[Decimal, int, int]]:
        """Final value, events and digest of every window, from the usage log and nothing else, through both stages."""
        closing = [self.plain_closing(partition) for partition in range(self.targets)]
        offsets = [0] * self.targets
        for source in range(self.sources):
            stage = self.plain_metering(source)
            for record in self.usage_log(source).records:
                stage.step(Batch(record.offset, record.offset + 1, [record]))
                emission = stage.emit()
                try:
                    effect = next(emission)
                    while True:
                        for out in effect.records:  # type: ignore[union-attr]
                            if out.topic == self.settings.partials_topic:
                                at = offsets[out.partition]
                                offsets[out.partition] += 1
                                closing[out.partition].step(Batch(at, at + 1, [Record(at, 0, out.key, out.value)]))
                        effect = emission.send([0] * len(effect.records))  # type: ignore[union-attr]
                except StopIteration:
                    pass
        found = {}
        for joining in closing:
            for body in joining.revised:
                key = WindowKey(
                    str(body["subject"]), str(body["meter"]), tuple(sorted(body["group"].items())),  # type: ignore[attr-defined]
                    parse_rfc3339(str(body["window_start"])), str(body["window_size"]),
                )  # fmt: skip
                found[key] = _said(body)
            for key in joining.table.windows:
                shown = joining.describe(key)
                assert shown is not None
                found[key] = _said(shown)
        return found

    def usage_log(self, source: int) -> Log:
        """One partition of usage."""
        return self.cluster.logs[self.settings.usage_topic, source]

    def partials_log(self, partition: int) -> Log:
        """One partition of the partials."""
        return self.cluster.logs[self.settings.partials_topic, partition]

    def dead_letters(self) -> list[Record]:
        """What was written to the dead-letter topic."""
        return self.cluster.logs[self.settings.dead_letters_topic, 0].records

    def messages(self, after: int = 0) -> list[tuple[float, bytes]]:
        """What Service Bus took, but for the first `after`: when, and the body; in the order of arrival."""
        return [(message.at_s, message.body) for message in self.servicebus.messages[after:]]

    def sink_has(self, sink: str, message_id: str) -> bool:
        """Whether a revision is really in a sink."""
        if sink == "servicebus":
            return message_id in self._sent_to_servicebus()
        self._read_history()
        return message_id in self._ledger

    def shows(self, window_id: str) -> int:
        """The highest revision of a window that some region of Cosmos DB has shown as its document; 0 for none."""
        self._read_history()
        return self._shown.get(window_id, 0)

    def _read_history(self) -> None:
        for write in self.cosmos.history[self._ledger_read :]:
            if write.container == self.settings.cosmos_revisions_container:
                self._ledger.add(write.id)
            else:
                self._shown[write.id] = max(self._shown.get(write.id, 0), write.revision)
        self._ledger_read = len(self.cosmos.history)

    def _sent_to_servicebus(self) -> set[str]:
        for message in self.servicebus.messages[self._messages_read :]:
            self._messages.add(message.message_id)
        self._messages_read = len(self.servicebus.messages)
        return self._messages

    def cosmos_documents(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Region -> id -> document."""
        return {name: region.container(self.settings.cosmos_container) for name, region in self.cosmos.regions.items()}

    def document_writes(self) -> list[Write]:
        """Every change of a document that a region has shown, in order."""
        return [write for write in self.cosmos.history if write.container == self.settings.cosmos_container]

    def cosmos_ledger(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Region -> id -> ledger item."""
        ledger = self.settings.cosmos_revisions_container
        return {name: region.container(ledger) for name, region in self.cosmos.regions.items()}

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

    def _place(self, number: int) -> Place:
        places = [place for place in self.cluster.logs if place[0] in self.cluster.group.topics]
        return places[number % len(places)]

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

    def _durable(self, table: Table, source: str, changelog: str, partition: int, partitions: int) -> Durable:
        return Durable(table, source, changelog, partition, partitions, self.definitions.digest, "replay")


class _Weather:
    """What befalls the calls of one process's sinks: the plan's placed faults."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._rng = random.Random(f"{world.seed}/weather/{process.name}")

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        """The misfortune of the call that is made now, or None."""
        _, fault = self._world.next_effect(self._process.name, service, operation)
        if fault is None:
            return None
        wait_s = self._rng.choice([None, self._rng.uniform(0.1, 6.0)])
        if fault.kind == "crash_before":
            self._process.kill(fault.for_s)
            return Misfortune(Kind.LOST_REQUEST)
        if fault.kind == "crash_after":
            self._world.later(0.2, self._process.kill, fault.for_s)
            return Misfortune(Kind.LOST_ANSWER)
        if fault.kind == "throttled":
            return Misfortune(Kind.THROTTLED, retry_after_s=min(fault.for_s, 10.0))
        kind = {
            "lost": Kind.LOST_REQUEST,
            "late": Kind.LATE_REQUEST,
            "unanswered": self._rng.choice([Kind.LOST_ANSWER, Kind.LOST_ANSWER, Kind.UNSURE]),
            "twice": Kind.TWICE,
        }.get(next((fate for fate in fault.fates if fate != "kept"), "unanswered"), Kind.UNAVAILABLE)
        return Misfortune(kind, wait_s, self._rng.uniform(1, 90))


def _said(body: dict[str, Any]) -> tuple[Decimal, int, int]:
    return Decimal(str(body["value"])), int(body["events"]), int(body["receipt"]["digest"], 16)
