"""What a lived deployment loses, what was said of it before, and the same life without it, to compare with."""

from __future__ import annotations

from typing import Any

from streams.deployment import StageName
from tables.gaps import describe
from tests.world import USAGE, ClosingProcess, MeteringProcess, World


def gone(world: World, partition: int, until: int) -> None:
    """Retention has removed usage before that offset."""
    world.logs[USAGE, partition].begin = until


def without(world: World, partition: int, first: int, last: int) -> World:
    """The same life, but that these usage records never had anything to count in them."""
    records = world.logs[USAGE, partition].records
    for offset in range(first, last):
        records[offset] = records[offset]._replace(value=None)
    return world


def gaps(world: World, stage: StageName, partition: int) -> list[dict[str, object]]:
    """As the audit shows them, of a new owner."""
    process = MeteringProcess(world, partition) if stage == "metering" else ClosingProcess(world, partition)
    return describe(process.table.gaps)


def spoken(world: World, records: int, partition: int = 0, emits: int = 1) -> MeteringProcess:
    """METERING reads on and emits, and is killed before it has checkpointed."""
    process = MeteringProcess(world, partition)
    for _ in range(emits):
        process.read(records)
        process.emit()
    return process


def told(world: World) -> None:
    """CLOSING hears of it."""
    for partition in range(world.targets):
        joiner = ClosingProcess(world, partition)
        joiner.read()
        joiner.checkpoint()
        joiner.deliver()
        joiner.checkpoint()


def values(windows: dict[Any, Any], but: str = "users") -> dict[Any, Any]:
    """Without the meter that tells things apart: members cannot be taken back."""
    return {key: value for key, value in windows.items() if key.meter != but}


def with_events(windows: dict[Any, Any]) -> dict[Any, Any]:
    """Windows of which all usage was taken back after they had closed say so: nothing, of no events."""
    return {key: (value, events) for key, (value, events) in windows.items() if events}
