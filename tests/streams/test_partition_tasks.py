"""The shell of a partition: it recovers first, folds what comes, stops where it must, and lets nobody wait for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import DiskFailed, MeterlineError
from schemas.records import Batch, Record
from streams import tasks
from streams.clock import SystemClock
from streams.restoring import Restoring
from streams.tasks import ClosingTask, MeteringTask, Pace, PartitionTask
from tables.dedupe import KnownIds
from tables.effects import Commit, Effect, Produce
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, Crash, MeteringProcess, Process, World

QUICK = Pace(emit_s=0.01, everywhere_s=0.01, checkpoint_s=0.02, prompt_s=0.01, tick_s=0.0)
METERS = definitions({"meters": [meter("sum")]})


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


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def world() -> World:
    world = World(METERS)
    for number in range(5):
        world.use(usage(f"e{number}", NOON + number, n=number))
    return world


async def test_it_recovers_before_it_folds_and_lets_its_reader_go(world: World) -> None:
    owner = Owner(world)
    hold = asyncio.Event()
    owner.performer.gate = lambda effect: hold if isinstance(effect, Produce) else None
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    await asyncio.sleep(0.02)
    assert owner.task.state == "restoring"
    assert owner.process.table.ledger.read == 0
    hold.set()
    await until(lambda: owner.process.table.ledger.read == 5)
    assert owner.task.state == "running"
    assert owner.performer.closed
    await owner.task.close()


async def test_a_batch_that_leaves_a_gap_ends_the_membership_and_is_not_folded(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    await owner.task.offer(owner.batch(2, 5))
    await until(lambda: bool(owner.gone))
    assert "a batch begins at 2, but the state ends at 0" in str(owner.gone[0])
    assert owner.process.table.ledger.read == 0
    assert world.committed[USAGE, 0] == 0
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


@pytest.mark.parametrize("kind", [Produce, Commit])
async def test_a_failed_send_and_a_refused_commit_end_the_membership(world: World, kind: type[Effect]) -> None:
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "running")

    def fail(effect: Effect) -> None:
        if isinstance(effect, kind):
            raise Crash("the broker is away")

    world.fault = fail  # type: ignore[assignment]
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: bool(owner.gone))
    assert "the broker is away" in str(owner.gone[0])
    await owner.task.close()


async def test_a_partition_that_must_stop_says_why_and_takes_batches_to_nowhere(world: World) -> None:
    world.committed[USAGE, 0] = 3
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "stopped")
    assert "changelog metering-state is empty" in str(owner.task.stopped)
    for _ in range(20):
        await asyncio.wait_for(owner.task.offer(owner.batch(3, 5)), 5)
    assert owner.gone == [], "the other partitions of this worker go on"
    await owner.task.close()


async def test_other_definitions_end_the_worker(world: World) -> None:
    MeteringProcess(world).checkpoint()
    world.definitions = definitions({"meters": [meter("other")]})
    owner = Owner(world)
    owner.task.start()
    await until(lambda: bool(owner.gone))
    assert isinstance(owner.gone[0], MeterlineError)
    assert "counted with other meters" in str(owner.gone[0])
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


async def test_handing_over_leaves_the_next_owner_nothing_to_do_again(world: World) -> None:
    owner = Owner(world, pace=Pace(emit_s=0.01, checkpoint_s=3600))
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: owner.task.position == 5)
    assert world.committed[USAGE, 0] == 0
    await owner.task.hand_over()
    await owner.task.close()
    assert world.committed[USAGE, 0] == 5
    assert MeteringProcess(world).table.ledger.counted == 5


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


async def test_a_defect_stops_its_partition_and_not_in_silence(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A step is pure: starting over would meet the same record again, on one worker after the other."""
    owner = Owner(world)
    broken: PartitionTask = owner.task

    def step(batch: Batch) -> None:
        raise ZeroDivisionError("a defect")

    broken.step = step  # type: ignore[method-assign]
    broken.start()
    await broken.offer(owner.batch(0, 5))
    await until(lambda: broken.state == "stopped")
    assert "at or behind offset 0 cannot be folded (ZeroDivisionError: a defect)" in str(broken.stopped)
    assert "cannot fold" in caplog.text
    assert owner.gone == [], "the other partitions go on"
    await broken.hand_over()
    assert world.committed[USAGE, 0] == 0, "a state that a step has left half done is never checkpointed"
    await broken.close()


async def test_a_disk_that_fails_stops_its_partition_and_nothing_is_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "running")

    def full(*_: object) -> None:
        raise DiskFailed("cannot write known ids at 12.run: No space left on device", hint="make room")

    monkeypatch.setattr(KnownIds, "count", full)
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: owner.task.state == "stopped")
    assert "No space left on device -> make room" in str(owner.task.stopped) and not owner.gone
    await owner.task.hand_over()
    await owner.task.close()
    assert world.committed[USAGE, 0] == 0


async def test_after_a_failed_send_nothing_is_accepted_any_more(world: World) -> None:
    """What an emit takes out of the state and fails to send must not be covered by a later checkpoint."""
    owner = Owner(world, pace=Pace(emit_s=0.01, checkpoint_s=3600))
    owner.task.start()
    await until(lambda: owner.task.state == "running")
    sending, fail = asyncio.Event(), asyncio.Event()

    def hold(effect: Effect) -> asyncio.Event | None:
        if isinstance(effect, Produce):
            sending.set()
            return fail
        return None

    owner.performer.gate = hold
    await owner.task.offer(owner.batch(0, 5))
    await sending.wait()
    handing_over = asyncio.create_task(owner.task.hand_over())
    await asyncio.sleep(0.01)

    def torn_once(effect: Effect) -> Any:
        world.fault = lambda effect: None
        raise Crash("not acknowledged")

    world.fault = torn_once
    fail.set()
    await handing_over
    await owner.task.close()
    assert world.committed[USAGE, 0] == 0
    assert MeteringProcess(world).table.position == 0, "the next owner folds it all again"


async def test_a_log_that_ends_before_the_state_stops_the_partition(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: owner.task.position == 5)
    del world.logs[USAGE, 0].records[2:]
    await until(lambda: owner.task.state == "stopped")
    assert "the log ends at 2, but was folded up to 5" in str(owner.task.stopped)
    await owner.task.close()


async def test_a_cancellation_from_below_ends_the_membership(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "running")

    def cancel(effect: Effect) -> Any:
        raise asyncio.CancelledError

    world.fault = cancel
    await owner.task.offer(owner.batch(0, 5))
    await until(lambda: bool(owner.gone))
    assert "cancelled" in str(owner.gone[0])
    await owner.task.close()


async def test_closing_ends_whatever_comes_at_that_moment(world: World) -> None:
    for turns in range(8):
        owner = Owner(world, pace=Pace(emit_s=0.5, checkpoint_s=3600))
        owner.task.start()
        await until(lambda owner=owner: owner.task.state == "running")  # type: ignore[misc]
        await owner.task.offer(owner.batch(0, 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(owner.task.close(), 10)
        world.committed.clear()
        world.logs["metering-state", 0].records.clear()


async def test_a_lost_batch_with_nothing_behind_it_ends_the_membership(world: World) -> None:
    """A gap shows with the next batch; where none comes, the log's end tells."""
    owner = Owner(world, pace=replace(QUICK, starved_s=0.05))
    owner.task.start()
    await owner.task.offer(owner.batch(0, 4))
    await until(lambda: bool(owner.gone))
    assert "nothing came for 0 s, though the log goes on to 5" in str(owner.gone[0])


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
    owner.performer.gate = lambda effect: positions.append(owner.task.position)  # type: ignore[func-returns-value]
    await owner.task.offer(owner.batch(0, 2))
    await owner.task.offer(owner.batch(2, 5))
    owner.task.start()
    await until(lambda: owner.task.position == 5 and owner.process.world.logs[PARTIALS, 0].end > 0)
    assert 2 not in positions and 5 in positions
    await owner.task.close()
