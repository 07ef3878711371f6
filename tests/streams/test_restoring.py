"""Restoring: in turns with everything else, a few partitions at a time, and told while it lasts."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

import streams.closing
from schemas.errors import PartitionStopped
from streams.driver import drive
from streams.restoring import YOUNG, Restoring, RestoringUncollected
from streams.tasks import TELL_S
from tables.effects import Effect, ReadLog
from tables.portions import WAITING
from tests import pictures
from tests.streams.owner import METERS, Owner
from tests.streams.running import until
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import USAGE, ClosingProcess, MeteringProcess, World, finish

WINDOWS = 400


@pytest.fixture
def world() -> World:
    """One usage partition whose state is in many small chunks."""
    world = World(METERS)
    for number in range(WINDOWS):
        world.use(usage(f"e{number}", NOON, subject=f"tenant-{number}", n=1))
    process = MeteringProcess(world)
    for _ in range(20):
        process.read(WINDOWS // 20)
        process.checkpoint()
    return world


def test_a_partition_that_was_counted_for_another_number_of_targets_stops() -> None:
    world = World(METERS, targets=2)
    world.use(usage("e", NOON, n=1))
    process = MeteringProcess(world)
    process.read()
    process.checkpoint()
    world.targets = 3
    again = MeteringProcess(world, recovers=False)
    with pytest.raises(PartitionStopped, match="its state sent to 2 partitions of partials, which has 3 now"):
        again.join(again.stage.recover())


def test_windows_are_scheduled_in_turns_with_everything_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.closing, "_SCHEDULED", WINDOWS // 4)
    closing = ClosingProcess(world)
    closing.read()
    closing.checkpoint()
    again = ClosingProcess(world, recovers=False)
    turns = 0

    async def perform(effect: Effect) -> Any:
        return world.perform(again, effect)

    async def turn() -> None:
        nonlocal turns
        turns += len(again.table.windows) == WINDOWS

    finish(drive(again.stage.recover(), perform, turn=turn))
    assert turns >= 4
    assert len(again.table.windows) == WINDOWS


class Watch(logging.Handler):
    """What the log says of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Any:
    watch, log = Watch(), logging.getLogger("meterline.tasks")
    before = log.level
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    yield watch.lines
    log.removeHandler(watch)
    log.setLevel(before)


async def test_the_log_says_that_it_begins_how_far_it_is_and_what_it_was(world: World, said: list[str]) -> None:
    """The clock moves on with every read, by half the time after which it is told again."""
    owner = Owner(world)
    now_s = 0.0
    owner.clock.monotonic_s = lambda: now_s  # type: ignore[method-assign]

    def later(effect: Effect) -> None:
        nonlocal now_s
        now_s += TELL_S / 2 if isinstance(effect, ReadLog) else 0

    world.fault = later
    owner.task.start()
    await until(lambda: owner.task.state == "running")
    await owner.task.close()
    assert said[0] == "metering usage[0] is restoring"
    told = [line for line in said if line.endswith("%")]
    reads = now_s / (TELL_S / 2)
    assert 0 < len(told) <= reads / 2, "at most every TELL_S"
    shares = [int(line.removeprefix("metering usage[0] restoring ").removesuffix(" %")) for line in told]
    assert shares == sorted(shares) and all(0 < share < 100 for share in shares)
    size_mb = owner.process.durable.restored_bytes / 1e6
    assert said[-1] == (
        f"metering usage[0] restored {WINDOWS + 1} keys, {size_mb:.1f} MB, at offset {WINDOWS} in {now_s:.1f} s"
    )


async def test_progress_counts_reading_and_building_and_only_grows(world: World) -> None:
    owner = Owner(world)
    shares: list[float] = []
    tell = owner.task._on_restored

    def told(share: float) -> None:
        shares.append(share)
        tell(share)

    owner.task._on_restored = told  # type: ignore[method-assign]
    owner.task.start()
    await until(lambda: owner.task.state == "running")
    await owner.task.close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len({share for share in shares if 0.1 < share < 1}) > 10, "building is told chunk by chunk"


async def test_others_have_their_turn_while_a_state_is_built(world: World) -> None:
    owner = Owner(world)
    turns: list[int] = []

    async def another() -> None:
        while owner.task.state == "restoring":
            turns.append(len(owner.process.table.partials))
            await asyncio.sleep(0)

    owner.task.start()
    await another()
    await owner.task.close()
    assert len(set(turns)) > 10, "it saw the state grow"


async def test_two_restore_at_a_time_and_the_others_wait_for_their_turn() -> None:
    restoring = Restoring()
    hold = asyncio.Event()
    inside: list[int] = []

    async def restore(number: int) -> None:
        async with restoring:
            inside.append(number)
            await hold.wait()

    tasks = [asyncio.create_task(restore(number)) for number in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert inside == [0, 1]
    tasks[2].cancel()
    hold.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == [0, 1, 3, 4]


async def test_the_collector_waits_while_any_restores_and_not_longer() -> None:
    before = gc.get_threshold()
    restoring = RestoringUncollected()
    assert gc.get_threshold() == (YOUNG, *before[1:])
    hold = asyncio.Event()

    async def restore() -> None:
        async with restoring:
            await hold.wait()

    tasks = [asyncio.create_task(restore()) for _ in range(3)]
    try:
        await asyncio.sleep(0)
        assert not gc.isenabled()
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
        assert not gc.isenabled(), "one restores still"
        hold.set()
        await tasks[1]
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*before)


def test_a_state_of_many_keys_that_fit_no_column_is_restored_as_it_was() -> None:
    """The latest values, whose places no row has: entries of a key each, more than are put in at once."""
    world = World(definitions({"meters": [meter("newest", "latest")]}))
    for number in range(WAITING + 100):
        world.use(usage(f"e{number}", NOON, subject=f"tenant-{number}", n=number))
    process, closing = MeteringProcess(world), ClosingProcess(world)
    process.read()
    process.checkpoint()
    closing.read()
    closing.checkpoint()
    assert pictures.of_metering(world, MeteringProcess(world).table) == pictures.of_metering(world, process.table)
    assert pictures.of_closing(ClosingProcess(world).table) == pictures.of_closing(closing.table)
    assert len(process.table.partials) == WAITING + 100


def test_partials_of_every_kind_are_restored_as_they_were_and_slots_of_the_sealed_are_taken_by_others() -> None:
    """Numbers of events alone, amounts within and beyond a machine word, the latest, members: what fits travels as rows."""
    kinds = ("count", "sum", "max", "latest", "unique_count")
    stream = {"max_delay": "none", "correct_for": "PT1H"}
    world = World(definitions({"stream": stream, "meters": [meter(kind, kind) for kind in kinds]}))
    process = MeteringProcess(world)
    taken: list[set[int]] = []
    for day, large in enumerate((True, False, True)):
        for number in range(40):
            at = NOON + day * 24 * 60 * MINUTE
            amount = 9 * 10**18 if large and number % 2 else number + 0.5
            world.use(usage(f"{day}-{number}", at, subject=f"tenant-{number // 4}", n=amount), at_ms=at)
        process.read()
        process.emit()
        process.checkpoint()
        before = pictures.of_metering(world, process.table)
        process = MeteringProcess(world)
        assert pictures.of_metering(world, process.table) == before
        assert before == pictures.plain_metering(world, 0, world.logs[USAGE, 0].end)
        keys = process.table.keys
        taken.append(set(keys.slots().tolist()))
        rows = process.table.rows(keys.slots()[process.table.fit_rows(keys.slots())])
        assert int(rows.words[:, -1].min()) >= -1 and len(rows.words) == 10 * (2 if large else 3)
    assert taken[2] <= taken[0] | taken[1], "what is sealed makes room"
