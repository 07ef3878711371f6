"""One worker's METERING task, which owns a usage partition in a world of lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from schemas.errors import MeterlineError
from schemas.records import Batch
from streams.clock import SystemClock
from streams.restoring import Restoring
from streams.tasks import MeteringTask, Pace
from tables.effects import Effect
from tests.usage import NOON, definitions, meter, usage
from tests.world import USAGE, MeteringProcess, Process, World

QUICK = Pace(emit_s=0.01, everywhere_s=0.01, checkpoint_s=0.02, prompt_s=0.01, tick_s=0.0)
METERS = definitions({"meters": [meter("sum")]})


class Owner:
    """One worker's METERING task in a world, and what it was told."""

    def __init__(self, world: World, *, now_ms: int = NOON, pace: Pace = QUICK) -> None:
        world.generations[USAGE, 0] += 1
        self.process = MeteringProcess(world, recovers=False)
        self.performer = WorldPerformer(world, self.process)
        self.gone: list[str | MeterlineError] = []
        self.clock = Clock(now_ms)
        self.task = MeteringTask(
            self.process.stage,
            USAGE,
            0,
            self.performer,
            self.clock,
            pace,
            self.gone.append,
            Restoring(),
            lambda stage: None,
        )

    def batch(self, start: int, end: int) -> Batch:
        return Batch(start, end, self.process.world.logs[USAGE, 0].records[start:end])


class Clock(SystemClock):
    """The wall clock stands where it is put."""

    def __init__(self, now_ms: int) -> None:
        self.wall_ms = now_ms

    def now_ms(self) -> int:
        return self.wall_ms


class WorldPerformer:
    """Performs in a world of lists. gate: where an effect has to wait first, if anything was put there."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.performed: list[Effect] = []
        self.gate: Callable[[Effect], asyncio.Event | None] = lambda effect: None
        self.closed = False

    async def perform(self, effect: Effect) -> Any:
        gate = self.gate(effect)
        if gate is not None:
            await gate.wait()
        self.performed.append(effect)
        return self.world.perform(self.process, effect)

    def log_end(self) -> int | None:
        durable = self.process.durable
        return self.world.logs[durable.source_topic, durable.partition].end

    async def close(self) -> None:
        self.closed = True


def five_events() -> World:
    """A world with five events in its one usage partition, of which none was folded yet."""
    world = World(METERS)
    for number in range(5):
        world.use(usage(f"e{number}", NOON + number, n=number))
    return world
