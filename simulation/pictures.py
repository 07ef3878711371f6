"""What a stage remembers, as plain values to compare.

Left out is what may differ between two right owners: ids that are known no longer and only not swept yet, how far deliveries
are, and the outbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec
import numpy as np

from schemas.events import RawEvent, decode
from schemas.ids import Ids, digests_of
from schemas.records import Record
from tables.closing import ClosingTable
from tables.metering import MeteringTable

Picture = dict[str, object]


def ids_in(records: Iterable[Record]) -> Ids:
    """The id of every event in records of usage, whatever becomes of it."""
    events = (event for record in records for event in decode(record.value, record.headers))
    return Ids.of([(event.source, event.id) for event in events if isinstance(event, RawEvent)])


def known_ids(table: MeteringTable, ids: Ids) -> dict[bytes, int]:
    """Those of all ids of a log that are duplicates if they come again: digest and bucket of event time.

    How they are held may differ between two right owners, so each is asked for.
    """
    floor = int(table.ids.floors(np.array([table.watermark_ms]))[0])
    known = zip(digests_of(ids.words), table.ids.known(ids).tolist(), strict=True)
    return {digest: bucket for digest, bucket in known if bucket >= floor}


def of_metering(table: MeteringTable, ids: Ids) -> Picture:
    """All of METERING's state. ids: every one of its log."""
    return {
        "position": table.position,
        "watermark": table.watermark_ms,
        "ledger": table.ledger.describe(),
        "folds": list(table.folds),
        "ids": known_ids(table, ids),
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
