"""The shell of a partition: it recovers first, folds what comes, sends in time, and wants no more than it can hold."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from schemas.errors import MeterlineError
from schemas.records import Batch, Record
from streams import tasks
from streams.clock import SystemClock
from streams.restoring import Restoring
from streams.tasks import ClosingTask, Pace
from tables.effects import Commit, Effect, Produce
from tests.streams.owner import METERS, QUICK, Owner, WorldPerformer, five_events
from tests.streams.running import until
from tests.usage import MINUTE, NOON, usage
from tests.world import DEAD, PARTIALS, USAGE, ClosingProcess, MeteringProcess, World


@pytest.fixture
def world() -> World:
    return five_events()


async def test_it_recovers_before_it_folds_and_lets_its_reader_go(world: World) -> None:
    owner = Owner(world)
    hold = asyncio.Event()
    owner.performer.gate = lambda effect: hold if isinstance(effect, Produce) else None
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    await asyncio.sleep(0.02)
    restoring = owner.task.state
    assert owner.process.table.ledger.read == 0
    hold.set()
    await until(lambda: owner.process.table.ledger.read == 5)
    assert (restoring, owner.task.state) == ("restoring", "running")
    assert owner.performer.closed
    await owner.task.close()


async def test_a_large_batch_is_folded_in_slices_and_lets_others_work_in_between(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SLICE_RECORDS", 2)
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "running")
    seen: list[int] = []

    async def look() -> None:
        while owner.task.position < 5:
            seen.append(owner.task.position)
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await owner.task.offer(owner.batch(0, 5))
    await looking
    assert {2, 4} <= set(seen)
    assert owner.process.table.ledger.read == 5
    await owner.task.close()


async def test_what_was_folded_already_is_not_folded_again(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    await owner.task.offer(owner.batch(0, 3))
    await owner.task.offer(owner.batch(1, 5))
    await until(lambda: owner.task.position == 5)
    assert owner.process.table.ledger.read == 5
    await owner.task.close()


async def test_offsets_without_a_record_are_no_gap(world: World) -> None:
    owner = Owner(world)
    owner.performer.log_end = lambda: 8  # type: ignore[method-assign]
    owner.task.start()
    first, second = world.logs[USAGE, 0].records[:2]
    await owner.task.offer(Batch(0, 3, [first]))
    await owner.task.offer(Batch(3, 8, [Record(7, *second[1:])]))
    await until(lambda: owner.task.position == 8)
    assert owner.gone == []
    assert owner.task.state == "running"
    await owner.task.close()


async def test_a_full_inbox_holds_the_fetch_back_and_closing_lets_it_go(world: World) -> None:
    owner = Owner(world)
    stuck = asyncio.Event()
    owner.performer.gate = lambda effect: stuck
    owner.task.start()
    offered = 0

    async def offer() -> None:
        nonlocal offered
        for _ in range(50):
            await owner.task.offer(owner.batch(0, 5))
            offered += 1

    fetch = asyncio.create_task(offer())
    await asyncio.sleep(0.05)
    assert 0 < offered <= tasks.AHEAD + tasks.ON_THEIR_WAY + 1, "memory is bounded whatever the backlog"
    await owner.task.close()
    await asyncio.wait_for(fetch, 5)


async def test_nothing_more_is_wanted_while_enough_waits_so_that_nobody_has_to_wait_to_offer(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    assert not owner.task.takes, "it restores"
    await until(lambda: owner.task.state == "running")
    stuck = asyncio.Event()
    owner.performer.gate = lambda effect: stuck
    for _ in range(tasks.AHEAD):
        assert owner.task.takes
        await owner.task.offer(owner.batch(0, 5))
    assert not owner.task.takes
    for _ in range(tasks.ON_THEIR_WAY):
        await asyncio.wait_for(owner.task.offer(owner.batch(0, 5)), 5)
    stuck.set()
    await until(lambda: owner.task.takes)
    await owner.task.close()


async def test_an_idle_partition_is_told_the_time_once(world: World) -> None:
    owner = Owner(world, now_ms=NOON + 10 * MINUTE)
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    log = world.logs[USAGE, 0]
    await until(lambda: log.end == 6)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert log.end == 6, "one tick is outstanding at most"
    await owner.task.offer(owner.batch(5, 6))
    await until(lambda: owner.process.table.ledger.ticks == 1 or owner.process.table.ledger.ticks_refused == 1)
    await owner.task.close()


async def test_a_partition_with_a_backlog_is_told_no_time(world: World) -> None:
    owner = Owner(world, now_ms=NOON + 10 * MINUTE)
    owner.task.start()
    await owner.task.offer(owner.batch(0, 4))
    await until(lambda: owner.task.position == 4)
    await asyncio.sleep(0.05)
    assert world.logs[USAGE, 0].end == 5
    await owner.task.close()


async def test_a_revision_does_not_wait_for_the_next_regular_checkpoint(world: World) -> None:
    world.tick(NOON + 2 * MINUTE)
    metering = MeteringProcess(world)
    metering.read()
    metering.checkpoint()
    closing = ClosingProcess(world, recovers=False)
    world.generations[PARTIALS, 0] += 1
    closing.generation = 1
    accepted: list[bool] = []
    gone: list[str | MeterlineError] = []
    task = ClosingTask(
        closing.stage,
        PARTIALS,
        0,
        WorldPerformer(world, closing),
        SystemClock(),
        Pace(emit_s=0.01, checkpoint_s=3600, prompt_s=0.0),
        gone.append,
        Restoring(),
        lambda _task, was_accepted: accepted.append(was_accepted),
    )
    task.start()
    log = world.logs[PARTIALS, 0]
    await task.offer(Batch(0, log.end, log.records))
    await until(lambda: True in accepted)
    assert [r.revision for r in closing.table.outbox.waiting("cosmos", 9)] == [1]
    assert gone == []
    await task.close()


async def test_what_an_earlier_owner_left_in_the_outbox_leaves_without_waiting_for_news(world: World) -> None:
    world.tick(NOON + 2 * MINUTE)
    metering = MeteringProcess(world)
    metering.read()
    metering.checkpoint()
    earlier = ClosingProcess(world)
    earlier.read()
    earlier.checkpoint()
    world.generations[PARTIALS, 0] += 1
    closing = ClosingProcess(world, recovers=False)
    told: list[tuple[bool, int]] = []

    def tell(task: ClosingTask, accepted: bool) -> None:
        told.append((accepted, len(task.closing.table.outbox.waiting("cosmos", 9))))

    performer = WorldPerformer(world, closing)
    task = ClosingTask(closing.stage, PARTIALS, 0, performer, SystemClock(), QUICK, lambda why: None, Restoring(), tell)
    task.start()
    await until(lambda: bool(told))
    assert told[0] == (True, 1)
    await task.close()


async def test_a_log_that_has_nothing_more_starves_nobody(world: World) -> None:
    owner = Owner(world, pace=replace(QUICK, starved_s=0.01))
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: len([e for e in owner.performer.performed if isinstance(e, Commit)]) > 1)
    at_s = owner.clock.monotonic_s()
    await until(lambda: owner.clock.monotonic_s() > at_s + 0.05)
    assert owner.gone == []
    await owner.task.close()


async def test_partials_leave_later_while_more_usage_has_come_already(world: World) -> None:
    """Behind, it folds first; once it has caught up, what changed leaves at once."""
    owner = Owner(world, pace=replace(QUICK, emit_s=0.0, behind_s=math.inf, checkpoint_s=math.inf))
    positions: list[int] = []
    owner.performer.gate = lambda effect: positions.append(owner.task.position)
    await owner.task.offer(owner.batch(0, 2))
    await owner.task.offer(owner.batch(2, 5))
    owner.task.start()
    await until(lambda: owner.task.position == 5 and owner.process.world.logs[PARTIALS, 0].end > 0)
    assert 2 not in positions and 5 in positions
    await owner.task.close()


async def test_many_dead_letters_do_not_wait_for_the_end_of_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SLICE_RECORDS", 1)
    monkeypatch.setattr(tasks, "LETTERS_AT_ONCE", 3)
    world = World(METERS)
    for _ in range(3):
        world.use(b"[1,2,3,4,5]", at_ms=NOON)
    owner = Owner(world, pace=replace(QUICK, emit_s=math.inf, behind_s=math.inf, checkpoint_s=math.inf))
    left: list[tuple[int, int]] = []

    def watched(effect: Effect) -> None:
        if isinstance(effect, Produce) and effect.records[0].topic == DEAD:
            left.append((owner.task.position, len(effect.records)))

    owner.performer.gate = watched
    await owner.task.offer(owner.batch(0, 3))
    owner.task.start()
    await until(lambda: len(left) == 3)
    assert left == [(1, 5), (2, 5), (3, 5)]
    await owner.task.close()


@pytest.mark.parametrize("ends", ["by itself", "in the middle"])
async def test_many_windows_close_in_portions_and_no_checkpoint_begins_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """A million windows may end with one hour: a worker must answer meanwhile. What is half done is the state of no offset."""
    monkeypatch.setattr("streams.closing._REVISED", 1)
    world = World(METERS)
    for number in range(8):
        world.use(usage(f"e{number}", NOON, subject=f"tenant-{number}", n=1))
    world.tick(NOON + 2 * MINUTE)
    metering = MeteringProcess(world)
    metering.read()
    metering.checkpoint()
    process = ClosingProcess(world, recovers=False)
    world.generations[PARTIALS, 0] += 1
    process.generation = 1
    performer = WorldPerformer(world, process)
    pace = Pace(emit_s=0.01, checkpoint_s=3600, prompt_s=0.0)
    task = ClosingTask(
        process.stage, PARTIALS, 0, performer, SystemClock(), pace, lambda why: None, Restoring(), lambda _, __: None
    )
    task.start()
    log, outbox = world.logs[PARTIALS, 0], process.table.outbox
    await until(lambda: task.whole)
    await task.offer(Batch(0, log.end, log.records))
    seen: list[int] = []
    while len(outbox.items) < (3 if ends == "in the middle" else 8):
        await asyncio.sleep(0)
        seen.append(len(outbox.items))
    assert {1, 2, 3} <= {*seen}, "others have their turn between two of them"
    assert performer.performed[-1] != Commit(log.end)
    if ends == "in the middle":
        handing_over = asyncio.create_task(task.hand_over())
        await asyncio.sleep(0)
        assert task._running is not None
        task._running.cancel()
        assert not await handing_over
        assert world.committed[PARTIALS, 0] == 0
    else:
        await until(lambda: world.committed[PARTIALS, 0] == log.end)
    await task.close()
