"""A worker that owns everything of a world of lists, from its assignment to its last checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from schemas.definitions import Definitions
from schemas.errors import MeterlineError
from schemas.records import Batch
from schemas.windows import Revision
from settings import Settings
from sinks.contract import DELIVERED, Outcome
from streams.worker import Worker
from tables.effects import Effect
from tests.usage import MINUTE, NOON, ListSink, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World
from transport.membership import Membership
from transport.throttling import Throttling

METERS = definitions({"stream": {"max_delay": "none"}, "meters": [meter("total")]})
SETTINGS = Settings(
    usage_topic=USAGE,
    partials_topic=PARTIALS,
    metering_state_topic="metering-state",
    closing_state_topic="closing-state",
    dead_letters_topic="dead-letters",
    emit_ms=10,
    checkpoint_ms=20,
)


class WorldBroker:
    """A connection to a world of lists. counts: partitions of topics that have not one."""

    def __init__(self, world: World, **counts: int) -> None:
        self.world = world
        self.counts = counts
        self.throttling = Throttling()

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to let go."""

    async def partitions(self, topic: str) -> int:
        return self.counts.get(topic.replace("-", "_"), 1)

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int]:
        raise AssertionError("nobody publishes here")

    def performer(self, topic: str, partition: int, membership: Membership) -> WorldPerformer:
        self.world.generations[topic, partition] += 1
        return WorldPerformer(self.world, topic, partition)


class WorldPerformer:
    """One partition's effects, in its world."""

    def __init__(self, world: World, topic: str, partition: int) -> None:
        self.world, self.place = world, (topic, partition)
        place = SimpleNamespace(source_topic=topic, partition=partition)
        self.owner: Any = SimpleNamespace(durable=place, generation=world.generations[topic, partition])

    async def perform(self, effect: Effect) -> Any:
        return self.world.perform(self.owner, effect)

    def log_end(self) -> int | None:
        return self.world.logs[self.place].end

    async def close(self) -> None:
        """Nothing to let go."""


@dataclass
class AnsweringSink(ListSink):
    """Answers as it is told, or fails."""

    answer: Callable[[Revision], Outcome] = field(default=lambda revision: DELIVERED)

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        self.received += revisions
        return [self.answer(revision) for revision in revisions]


class Running:
    """A worker that owns everything of a world, and what it asked for. over: why it starts over; refused: why never again."""

    def __init__(
        self, world: World, sink: ListSink, meters: Definitions = METERS, settings: Settings = SETTINGS
    ) -> None:
        self.world = world
        self.over: list[str] = []
        self.refused: list[MeterlineError] = []
        self.worker = Worker(settings, meters, [sink], WorldBroker(world), self.over.append, self.refused.append)

    async def __aenter__(self) -> Running:
        await self.worker.start()
        self.worker.assigned([(USAGE, 0), (PARTIALS, 0)], Membership(1, 1, "me"))
        for topic in (USAGE, PARTIALS):
            await self.read(topic)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()

    async def read(self, topic: str) -> None:
        """Everything that is in the log and was not read yet; what is folded already does no harm."""
        log = self.world.logs[topic, 0]
        await self.worker.offer(topic, 0, Batch(0, log.end, list(log.records)))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def two_closed_windows() -> World:
    """Usage of three minutes; two of them are in closed windows of an accepted checkpoint."""
    world = World(METERS)
    for number in range(3):
        world.use(usage(f"e{number}", NOON + number * MINUTE, n=number + 1), at_ms=NOON + number * MINUTE)
    world.tick(NOON + 2 * MINUTE + 30_000)
    owner = MeteringProcess(world)
    owner.read()
    owner.checkpoint()
    closing = ClosingProcess(world)
    closing.read()
    closing.checkpoint()
    assert len(closing.table.outbox.waiting("cosmos", 9)) == 2
    return world
