"""What a stage remembers, as plain values to compare; and the same from folding the log once, without a crash.

Left out is what may differ between two right owners: ids that are known no longer and only not swept yet, how far
deliveries are, and the outbox, which `missing_revisions` judges.
"""

from __future__ import annotations

import msgspec

from tables.closing import ClosingTable
from tables.metering import MeteringTable
from tests.world import ClosingProcess, MeteringProcess, World

Picture = dict[str, object]


def known_ids(table: MeteringTable, correct_for_ms: int) -> dict[bytes, int]:
    """Digest and time of every id that is a duplicate if it comes again."""
    known = {}
    for bucket in table.ids.units():
        for entry in table.ids.slice(bucket):
            piece = entry.value or b""
            for at in range(0, len(piece), 24):
                known[piece[at : at + 16]] = int.from_bytes(piece[at + 16 : at + 24], "big", signed=True)
    return {digest: at_ms for digest, at_ms in known.items() if at_ms >= table.watermark_ms - correct_for_ms}


def of_metering(world: World, table: MeteringTable) -> Picture:
    """All of METERING's state."""
    return {
        "position": table.position,
        "watermark": table.watermark_ms,
        "ledger": table.ledger.describe(),
        "folds": list(table.folds),
        "ids": known_ids(table, world.definitions.stream.correct_for_ms),
        "partials": {
            key: (msgspec.to_builtins(held.share.contribution()), held.seal_ms, held.version, frozenset(held.members))
            for key, held in table.partials.items()
        },
    }


def of_closing(table: ClosingTable) -> Picture:
    """CLOSING's state but for the outbox."""
    counters = table.counters
    return {
        "position": table.position,
        "sources": msgspec.to_builtins(table.sources),
        "windows": {key: msgspec.to_builtins(window) for key, window in table.windows.items()},
        "members": {key: frozenset(members) for key, members in table.members.items()},
        "counters": (counters.windows_opened, counters.windows_closed, counters.windows_sealed, counters.revisions),
        "alarms": dict(counters.alarms),
    }


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
