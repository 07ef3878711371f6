"""The pictures of `simulation/pictures.py` in a world of lists, and those of folding the log once, without a crash."""

from __future__ import annotations

from schemas.ids import Ids
from simulation import pictures
from simulation.pictures import Picture, of_closing
from tables.metering import MeteringTable
from tests.world import USAGE, ClosingProcess, MeteringProcess, World

__all__ = ["Picture", "closing_fold", "known_ids", "metering_fold", "missing_revisions", "of_closing", "of_metering"]


def of_metering(world: World, table: MeteringTable) -> Picture:
    """All of METERING's state."""
    return pictures.of_metering(table, ids_in(world))


def known_ids(world: World, table: MeteringTable) -> dict[bytes, int]:
    """Every id that is a duplicate if it comes again: its digest, and its bucket of event time."""
    return pictures.known_ids(table, ids_in(world))


def ids_in(world: World) -> Ids:
    """Of every event of all partitions."""
    return pictures.ids_in(record for number in range(world.sources) for record in world.logs[USAGE, number].records)


def plain_metering(world: World, partition: int, upto: int) -> Picture:
    """The state at an offset: the log folded in one go."""
    return of_metering(world, metering_fold(world, partition, upto).table)


def plain_closing(world: World, partition: int, upto: int) -> Picture:
    """The state at an offset: the log folded in one go."""
    return of_closing(closing_fold(world, partition, upto).table)


def metering_fold(world: World, partition: int, upto: int) -> MeteringProcess:
    """A stage that has never seen a changelog, with the log folded up to an offset."""
    process = MeteringProcess(world, partition, recovers=False)
    process.read(upto)
    return process


def closing_fold(world: World, partition: int, upto: int) -> ClosingProcess:
    """A stage that has never seen a changelog, with the log folded up to an offset."""
    process = ClosingProcess(world, partition, recovers=False)
    process.read(upto)
    return process


def missing_revisions(world: World, process: ClosingProcess) -> list[str]:
    """Revisions decided up to the state's position that a sink has not and the outbox does not hold, or holds otherwise."""
    decided = closing_fold(world, process.durable.partition, process.table.position).table.outbox.items
    held = process.table.outbox.items
    return [
        name
        for name, item in decided.items()
        for sink, received in world.received.items()
        if not (name in held and held[name].revision == item.revision)
        and not any(revision == item.revision for revision in received)
    ]
