"""A short run, interrupted at every place and in every way: the state restored is the log's, and the end is the same.

Every effect of the run meets every misfortune: the process ends before it, or after it without an answer; a Produce is
torn into any subset, the rest lost or on its way. What is on its way arrives at once, after the recovery, or at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from schemas.errors import BrokerError
from tables.effects import Effect, Produce
from tests import pictures
from tests.streams.road import assert_revisions, final_windows
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import AFTER, BEFORE, PARTIALS, ClosingProcess, Fault, MeteringProcess, World, to_the_end

DOCUMENT = {
    "stream": {"max_delay": "none", "correct_for": "PT2M", "revise_every": "PT10S"},
    "meters": [meter("total", grace="PT5S"), meter("users", "unique_count", value="/user", grace="PT5S")],
}
DEFINITIONS = definitions(DOCUMENT)
TORN_FULLY = 3
"""Up to so many records a Produce is torn in every way; a larger one loses each record and each pair."""

Process = MeteringProcess | ClosingProcess
Kind = type[MeteringProcess] | type[ClosingProcess]
Run = Callable[[Process], None]


def fresh() -> World:
    """Windows that are born, grow late, and are sealed, in two partitions; ids that are repeated and forgotten."""
    world = World(DEFINITIONS, sources=2, slice=160, snapshot_min=100_000)
    for partition in range(2):
        world.use(usage(f"a{partition}", NOON, n=1, user="u"), partition=partition)
        world.use(
            usage(f"b{partition}", NOON + 70 * SECOND, n=2, user="v"), partition=partition, at_ms=NOON + 70 * SECOND
        )
        world.use(usage(f"a{partition}", NOON, n=1, user="u"), b"bad", partition=partition, at_ms=NOON + 71 * SECOND)
        world.use(usage(f"c{partition}", NOON + SECOND, n=4, user="w"), partition=partition, at_ms=NOON + 72 * SECOND)
        world.tick(NOON + 3 * MINUTE + SECOND, partition)
        world.use(
            usage(f"d{partition}", NOON + 2 * MINUTE, n=8, user="u"), partition=partition, at_ms=NOON + 3 * MINUTE
        )
        world.tick(NOON + 9 * MINUTE, partition)
    return world


def meter_all(process: Process) -> None:
    """METERING: an emit after every record, a checkpoint after most, a snapshot that rolls on the way."""
    assert isinstance(process, MeteringProcess)
    for step in range(7):
        process.read(1)
        process.emit(everywhere=step % 2 == 0)
        if step not in (0, 2):
            process.checkpoint(snapshot_due=step == 1)


def close_all(process: Process) -> None:
    """CLOSING: a few records, a checkpoint, a delivery, and so on."""
    assert isinstance(process, ClosingProcess)
    for step in range(12):
        process.read(2)
        process.checkpoint(snapshot_due=step == 2)
        process.deliver()
    process.checkpoint()


def world_before_closing() -> World:
    world = fresh()
    for partition in range(2):
        meter_all(MeteringProcess(world, partition))
    return world


def effects(make: Callable[[], World], kind: Kind, run: Run) -> list[Effect]:
    """The effects of the run without misfortune."""
    seen: list[Effect] = []
    world = make()
    world.fault = seen.append
    run(kind(world))
    return seen


def misfortunes(effect: Effect) -> Iterator[Fault]:
    yield BEFORE
    yield AFTER
    if not isinstance(effect, Produce):
        return
    count = len(effect.records)
    if count <= TORN_FULLY:
        for fates in product(("kept", "lost", "late"), repeat=count):
            if set(fates) != {"kept"}:
                yield Fault("torn", fates)
        return
    for one in range(count):
        for other in range(one, count):
            for fate in ("lost", "late"):
                yield Fault("torn", tuple(fate if at in (one, other) else "kept" for at in range(count)))
    yield Fault("torn", ("late",) * count)


def interrupted(make: Callable[[], World], kind: Kind, run: Run, at: int, fault: Fault, late: str) -> World:
    """The run, its effect number `at` befallen; then a new owner, which does the run again."""
    world = make()
    count = iter(range(1 << 30))
    world.fault = lambda effect: fault if next(count) == at else None
    with pytest.raises(BrokerError):
        run(kind(world))
    world.fault = lambda effect: None
    if late == "at once":
        arrive(world)
    assert_restored(world, kind(world))
    if late == "after the recovery":
        arrive(world)
    run(kind(world))
    arrive(world)
    assert_restored(world, kind(world))
    return world


def arrive(world: World) -> None:
    while world.late:
        world.arrive()


def assert_restored(world: World, process: Process) -> None:
    """The state at exactly the committed offset, and no revision that is nowhere."""
    position = world.committed[process.durable.source_topic, 0]
    if isinstance(process, MeteringProcess):
        assert pictures.of_metering(world, process.table) == pictures.plain_metering(world, 0, position)
    else:
        assert pictures.of_closing(process.table) == pictures.plain_closing(world, 0, position)
        assert pictures.missing_revisions(world, process) == []


def finals(world: World) -> object:
    """What everybody has in the end, and what the counters say."""
    metering, closing = to_the_end(world)
    assert all(not process.stage.alarms and not process.table.counters.alarms for process in closing)
    windows = assert_revisions(world, "cosmos")
    assert windows == assert_revisions(world, "servicebus")
    return final_windows(windows), [process.table.ledger.describe() for process in metering]


CASES: dict[str, tuple[Callable[[], World], Kind, Run]] = {
    "metering": (fresh, MeteringProcess, meter_all),
    "closing": (world_before_closing, ClosingProcess, close_all),
}


@pytest.mark.parametrize("late", ["at once", "after the recovery", "at the end"])
@pytest.mark.parametrize("stage", CASES)
def test_every_interruption_restores_the_logs_state_and_ends_the_same(stage: str, late: str) -> None:
    make, kind, run = CASES[stage]
    undisturbed = make()
    run(kind(undisturbed))
    expected = finals(undisturbed)
    script = effects(make, kind, run)
    tried = 0
    for at, effect in enumerate(script):
        for fault in misfortunes(effect):
            if late != "at once" and "late" not in fault.fates:
                continue
            world = interrupted(make, kind, run, at, fault, late)
            assert finals(world) == expected, (at, effect, fault)
            tried += 1
    assert len(script) > 20 and tried > 20


def test_the_run_has_what_can_go_wrong() -> None:
    """Late usage, a duplicate, a dead letter, revisions after the first, sealed windows, a snapshot that rolls."""
    world = world_before_closing()
    close_all(ClosingProcess(world))
    metering, closing = to_the_end(world)
    counts = metering[0].table.ledger
    assert (counts.late, counts.duplicate, counts.dead_lettered, counts.counted) == (1, 1, 1, 4)
    assert closing[0].table.counters.windows_sealed == 6
    assert {document["reason"] for document in world.documents()} == {"closed", "late"}
    assert metering[0].durable.snapshot != (0, 0) != closing[0].durable.snapshot
    assert world.logs[PARTIALS, 0].end > 20
