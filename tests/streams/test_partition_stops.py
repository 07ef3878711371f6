"""What ends a partition's task: it stops and says why, or its membership is over, or it is handed over; nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import DiskFailed, MeterlineError
from schemas.records import Batch
from streams.tasks import Pace, PartitionTask
from tables.dedupe import KnownIds
from tables.effects import Commit, Effect, Produce
from tests.streams.owner import QUICK, Owner, five_events
from tests.streams.running import until
from tests.usage import definitions, meter
from tests.world import USAGE, Crash, MeteringProcess, World


@pytest.fixture
def world() -> World:
    return five_events()


async def test_a_batch_that_leaves_a_gap_ends_the_membership_and_is_not_folded(world: World) -> None:
    owner = Owner(world)
    owner.task.start()
    await owner.task.offer(owner.batch(2, 5))
    await until(lambda: bool(owner.gone))
    assert "a batch begins at 2, but the state ends at 0" in str(owner.gone[0])
    assert owner.process.table.ledger.read == 0
    assert world.committed[USAGE, 0] == 0
    await owner.task.close()


@pytest.mark.parametrize("kind", [Produce, Commit])
async def test_a_failed_send_and_a_refused_commit_end_the_membership(world: World, kind: type[Effect]) -> None:
    owner = Owner(world)
    owner.task.start()
    await until(lambda: owner.task.state == "running")

    def fail(effect: Effect) -> None:
        if isinstance(effect, kind):
            raise Crash("the broker is away")

    world.fault = fail
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


async def test_a_defect_stops_its_partition_and_not_in_silence(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A step is pure: starting over would meet the same record again, on one worker after the other."""
    owner = Owner(world)
    broken: PartitionTask = owner.task

    def stepping(batch: Batch) -> Iterator[None]:
        raise ZeroDivisionError("a defect")

    broken.stepping = stepping  # type: ignore[method-assign]
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
