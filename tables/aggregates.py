"""The seven aggregations: what a share carries (`tables/shares.py` folds it), and what the shares of all sources join into.

======== ===================== =============================== =======================================
          carried (`amount`)    fold                            join
sum       Decimal               +                               sum
count     nothing               (events)                        events
min, max  Decimal               min, max                        min, max
avg       Decimal (the sum)     +                               sum / events, rounded once, 34 digits
latest    Decimal and its place later (time, offset, index)     latest (time, source, offset, index)
unique_count  members, apart    union                           number of members
======== ===================== =============================== =======================================

Exact: 60 digits with Inexact trapped (design §5). `avg` rounds half-even, once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from schemas.numbers import AVG, SUM
from schemas.partials import DIGEST_MOD, Contribution

Place = tuple[int, int, int]
"""(event time ms, offset, index in the envelope): of two events the one with the greater is the later."""


class Share(msgspec.Struct, gc=False):
    """One source partition's cumulative share of one window, as METERING has it. Fields as in `Contribution`.

    through: -1 until something is folded in.
    """

    first: int
    events: int = 0
    digest: int = 0
    through: int = -1
    amount: Decimal | None = None
    at: Place | None = None

    def contribution(self) -> Contribution:
        """As it crosses a wire. Equal amounts have equal bytes there, however they were written and folded."""
        amount = None if self.amount is None else self.amount.normalize(SUM)
        return Contribution(self.events, self.digest.to_bytes(16, "big"), self.first, self.through, amount, self.at)

    @classmethod
    def of(cls, wire: Contribution) -> Share:
        """From a wire."""
        digest = int.from_bytes(wire.digest, "big")
        return cls(wire.first, wire.events, digest, wire.through, wire.amount, wire.at)


def value(aggregation: str, shares: Mapping[int, Contribution], members: int) -> Decimal:
    """The window's value: the join of what each source partition contributed. `members`: size of the united set."""
    events = sum(share.events for share in shares.values())
    if aggregation == "count":
        return Decimal(events)
    if aggregation == "unique_count":
        return Decimal(members)
    if events == 0:  # all of it was taken back (a gap in METERING): there is nothing, whatever the aggregation
        return Decimal(0)
    if aggregation == "latest":
        _, amount = max(
            ((share.at[0], source, share.at[1], share.at[2]), share.amount)
            for source, share in shares.items()
            if share.at is not None and share.amount is not None
        )
        return amount
    amounts = [share.amount for share in shares.values() if share.amount is not None]
    if aggregation == "min":
        return min(amounts)
    if aggregation == "max":
        return max(amounts)
    total = Decimal(0)
    for amount in amounts:
        total = SUM.add(total, amount)
    return AVG.divide(total, Decimal(events)) if aggregation == "avg" else total


def events_and_digest(shares: Mapping[int, Contribution]) -> tuple[int, bytes]:
    """Over all sources: how many events, and the sum of their ids modulo 2^128, big-endian."""
    total = sum(int.from_bytes(share.digest, "big") for share in shares.values()) % DIGEST_MOD
    return sum(share.events for share in shares.values()), total.to_bytes(16, "big")
