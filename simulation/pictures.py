"""What a stage remembers, as plain values to compare.

Left out is what may differ between two right owners: ids that are known no longer and only not swept yet, how far deliveries
are, and the outbox.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from tables.closing import ClosingTable
from tables.metering import MeteringTable

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


def of_metering(table: MeteringTable, correct_for_ms: int) -> Picture:
    """All of METERING's state."""
    return {
        "position": table.position,
        "watermark": table.watermark_ms,
        "ledger": table.ledger.describe(),
        "folds": list(table.folds),
        "ids": known_ids(table, correct_for_ms),
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


def difference(one: Picture, other: Picture) -> str:
    """Where two pictures differ, in a few words; empty where they do not."""
    found = []
    for name in one:
        mine, theirs = one[name], other[name]
        if mine == theirs:
            continue
        if isinstance(mine, dict) and isinstance(theirs, dict):
            keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
            key = keys[0]
            found.append(f"{name}: {len(keys)} differ, as {key!r}: {mine.get(key)!r} is not {theirs.get(key)!r}")
        else:
            found.append(f"{name}: {mine!r} is not {theirs!r}")
    return "; ".join(found)


def quantity(text: str) -> Decimal:
    """A quantity as documents carry it."""
    return Decimal(text)
