"""A world of lists in which the real stages run: logs, committed offsets, memberships, sinks, and every way to fail.

Effects are performed on lists, one after the other, by the driver that production uses. `World.fault` says what befalls
an effect: the process ends before or after it, or a Produce is torn into records that are kept, lost, or arrive late.
A membership that is over (a zombie's) may still append; only its commits are refused, as Kafka refuses them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import orjson

from schemas.definitions import Definitions
from schemas.errors import BrokerError, CommitRefused, SendFailed
from schemas.records import Batch, Headers, Out, Record
from schemas.windows import Revision
from sinks.contract import DELIVERED, Outcome
from streams.clock import SystemClock
from streams.closing import Closing
from streams.delivery import Courier
from streams.deployment import Deployment, StageName
from streams.driver import drive
from streams.mending import resend, unpark
from streams.metering import Metering, Topics
from tables.closing import ClosingTable
from tables.durable import Durable, Limits, Table
from tables.effects import At, Commit, Effect, Procedure, Produce, ReadBounds, ReadCommitted, ReadLog, ReadRecords
from tables.metering import MeteringTable
from tests.usage import NOON, ListSink, usage

T = TypeVar("T")
USAGE, PARTIALS, DEAD = "usage", "partials", "dead-letters"
SINKS = ("servicebus", "cosmos")


class Crash(BrokerError):
    """The process ended here."""


class Fault(NamedTuple):
    """What befalls one effect. at: `before` or `after` it the process ends; `torn`: each record of a Produce meets a fate
    of its own, `kept`, `lost` or `late`."""

    at: str
    fates: tuple[str, ...] = ()


BEFORE, AFTER = Fault("before"), Fault("after")


@dataclass
class Log:
    """One partition. begin: the first offset retention has left."""

    records: list[Record] = field(default_factory=list)
    begin: int = 0

    @property
    def end(self) -> int:
        return len(self.records)

    def append(self, value: bytes | None, key: bytes | None = None, at_ms: int = 0, headers: Headers = ()) -> int:
        self.records.append(Record(self.end, at_ms, key, value, headers))
        return self.end - 1


class World:
    """Everything that outlives a process. sources: partitions of usage; targets: of the partials topic."""

    def __init__(self, definitions: Definitions, sources: int = 1, targets: int = 1, **limits: int) -> None:
        self.definitions = definitions
        self.sources, self.targets = sources, targets
        self.limits = limits
        self.logs: dict[tuple[str, int], Log] = defaultdict(Log)
        self.committed: dict[tuple[str, int], int] = {}
        self.generations: Counter[tuple[str, int]] = Counter()
        self.late: list[Out] = []
        self.mendings = 0
        self.received: dict[str, list[Revision]] = {sink: [] for sink in SINKS}
        self.fault: Callable[[Effect], Fault | None] = lambda effect: None

    def deployment(self, **other: Any) -> Deployment:
        """This world's, as a mending sees it; with something else where that is given."""
        self.mendings += 1
        made = Deployment(
            self.definitions, Topics(USAGE, PARTIALS, DEAD), "metering-state", "closing-state", self.sources, self.targets,
            f"mending-{self.mendings}", Limits(**self.limits),
        )  # fmt: skip
        return replace(made, **other)

    def mend(
        self, procedure: Callable[..., Procedure[T]], stage: StageName, partition: int, *rest: Any, **more: Any
    ) -> T:
        """A mending of one partition, by somebody outside the group. Its arguments are those behind stage and partition."""
        outsider = Outsider(self, stage, partition)
        place = (partition,) if procedure in (resend, unpark) else (stage, partition)

        async def perform(effect: Effect) -> Any:
            return self.perform(outsider, effect)

        return finish(drive(procedure(self.deployment(), *place, *rest, **more), perform))

    def perform(self, process: Process | Outsider, effect: Effect) -> Any:
        """The result that tables/effects.py promises, or the end of the process."""
        fault = self.fault(effect)
        if fault == BEFORE:
            raise Crash("before an effect")
        result = self._do(process, effect, fault.fates if fault else ())
        if fault:
            raise SendFailed("torn") if fault.fates else Crash("after an effect")
        return result

    def _do(self, process: Process | Outsider, effect: Effect, fates: tuple[str, ...]) -> Any:
        name = (process.durable.source_topic, process.durable.partition)
        if isinstance(effect, At):
            name, effect = (effect.topic, effect.partition), effect.effect
        match effect:
            case Produce(records):
                return [
                    self._send(out, fate) for out, fate in zip(records, fates or ["kept"] * len(records), strict=True)
                ]
            case Commit(offset):
                if process.generation != self.generations[name]:
                    raise CommitRefused("another owner has joined")
                self.committed[name] = offset
            case ReadCommitted():
                return self.committed.get(name)
            case ReadBounds(topic):
                log = self.logs[topic, name[1]]
                return log.begin, log.end
            case ReadLog(topic, offset, end):
                found = self.logs[topic, name[1]].records[offset : min(end, offset + 7)]
                return [(record.offset, record.value) for record in found]
            case ReadRecords(topic, offset, end):
                return self.logs[topic, name[1]].records[offset : min(end, offset + 7)]
        return None

    def _send(self, out: Out, fate: str) -> int:
        if fate == "late":
            self.late.append(out)
        return self.logs[out.topic, out.partition].append(out.value, out.key) if fate == "kept" else -1

    def arrive(self, index: int = 0) -> None:
        """A record that was in flight when its producer gave up is in the log after all."""
        self._send(self.late.pop(index), "kept")

    def use(
        self, *events: dict[str, Any] | bytes, partition: int = 0, at_ms: int = NOON, key: bytes | None = b"k"
    ) -> int:
        """Appends usage: one event as it is, several as an envelope."""
        parts = [event if isinstance(event, bytes) else orjson.dumps(event) for event in events]
        value = parts[0] if len(parts) == 1 else b"[" + b",".join(parts) + b"]"
        return self.logs[USAGE, partition].append(value, key, at_ms)

    def tick(self, time_ms: int, partition: int = 0, at_ms: int | None = None) -> int:
        """Appends a tick."""
        value = usage(f"tick-{time_ms}", time_ms, type="meterline.tick")
        return self.use(value, partition=partition, at_ms=time_ms if at_ms is None else at_ms)

    def dead_letters(self) -> list[dict[str, Any]]:
        """The records of the dead-letter topic."""
        return [orjson.loads(record.value or b"") for record in self.logs[DEAD, 0].records]

    def documents(self, sink: str = "cosmos") -> list[dict[str, Any]]:
        """What a sink was given, in order, resends too."""
        return [orjson.loads(revision.body) for revision in self.received[sink]]


class Process:
    """One owner of one partition."""

    def __init__(
        self, world: World, table: Table, source: str, changelog: str, partition: int, partitions: int
    ) -> None:
        self.world = world
        self.part = partition
        self.generation = world.generations[source, partition]
        self.durable = Durable(
            table, source, changelog, partition, partitions, world.definitions.digest,
            f"{source}-{partition}-{self.generation + 1}", Limits(**world.limits),
        )  # fmt: skip

    def join(self, recovery: Procedure[None]) -> None:
        """A membership of its own, which ends the one before; then recovery."""
        name = (self.durable.source_topic, self.durable.partition)
        self.world.generations[name] += 1
        self.generation = self.world.generations[name]
        self.run(recovery)

    def run(self, procedure: Procedure[T]) -> T:
        """Performs a procedure in this world."""

        async def perform(effect: Effect) -> Any:
            return self.world.perform(self, effect)

        return finish(drive(procedure, perform))

    def ahead(self, most: int) -> Batch:
        """The next records after the state, at most so many."""
        position = self.durable.table.position
        records = self.world.logs[self.durable.source_topic, self.durable.partition].records[position : position + most]
        return Batch(position, position + len(records), records)


class MeteringProcess(Process):
    """METERING of one usage partition."""

    def __init__(self, world: World, partition: int = 0, *, recovers: bool = True) -> None:
        self.table = MeteringTable(world.targets, world.definitions.stream.correct_for_ms)
        super().__init__(world, self.table, USAGE, "metering-state", partition, world.sources)
        topics = Topics(USAGE, PARTIALS, DEAD)
        self.stage = Metering(world.definitions, topics, partition, world.targets, self.durable, self.table)
        if recovers:
            self.join(self.durable.recover())

    def read(self, most: int = 1 << 30) -> None:
        self.stage.step(self.ahead(most))

    def emit(self, *, everywhere: bool = True) -> None:
        self.run(self.stage.emit(everywhere=everywhere))

    def checkpoint(self, *, snapshot_due: bool = False) -> bool:
        return self.run(self.stage.checkpoint(snapshot_due=snapshot_due))


class Outsider:
    """Somebody who mends a partition while the group has no members."""

    def __init__(self, world: World, stage: StageName, partition: int) -> None:
        self.durable = world.deployment().stage(stage, partition).durable
        self.generation = world.generations[self.durable.source_topic, partition]


class ClosingProcess(Process):
    """CLOSING of one partials partition, and DELIVERY of its revisions to sinks that are lists."""

    def __init__(self, world: World, partition: int = 0, *, recovers: bool = True) -> None:
        self.table = ClosingTable(world.sources, world.definitions.stream.correct_for_ms, SINKS)
        super().__init__(world, self.table, PARTIALS, "closing-state", partition, world.targets)
        self.stage = Closing(world.definitions, PARTIALS, partition, self.durable, self.table)
        self.couriers = {name: self._courier(name) for name in SINKS}
        if recovers:
            self.join(self.stage.recover())

    def read(self, most: int = 1 << 30) -> None:
        self.stage.step(self.ahead(most))

    def checkpoint(self, *, snapshot_due: bool = False) -> bool:
        return self.run(self.stage.checkpoint(snapshot_due=snapshot_due))

    def deliver(
        self, *sinks: str, most: int = 1 << 30, outcome: Callable[[Revision], Outcome] = lambda revision: DELIVERED
    ) -> None:
        """Hands over what is accepted. Every sink has received it, whatever it answers."""
        for sink in sinks or SINKS:
            revisions = self.table.outbox.waiting(sink, most)
            self.world.received[sink] += revisions
            self.couriers[sink].apply(revisions, [outcome(revision) for revision in revisions])

    def _courier(self, name: str) -> Courier:
        return Courier(ListSink(name), self.table, SystemClock(), random.Random(0), lambda revision, reason: None)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait: nothing in a world of lists does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("something waited")


def to_the_end(world: World, rounds: int = 2) -> tuple[list[MeteringProcess], list[ClosingProcess]]:
    """New owners of every partition read everything, and everything is delivered."""
    for _ in range(rounds):
        metering = [MeteringProcess(world, partition) for partition in range(world.sources)]
        for process in metering:
            process.read()
            process.checkpoint()
        while world.late:
            world.arrive()
        closing = [ClosingProcess(world, partition) for partition in range(world.targets)]
        for joining in closing:
            joining.read()
            joining.checkpoint()
            joining.deliver()
            joining.checkpoint()
    return metering, closing
