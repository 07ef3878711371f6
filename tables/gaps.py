"""Gaps: offsets of a source log that were never counted, because somebody decided to go on without them.

The decision is part of the state (METERING's meta entry, CLOSING's counters), so it survives like any other count, and the
state stays a function of the log and of what was decided about it. `docs/mending.md` says when a gap may be accepted.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.times import format_rfc3339


class Gap(msgspec.Struct, array_like=True, frozen=True):
    """Source offsets `start` to `end` (exclusive) that were passed over. accepted_ms: when that was decided, and why."""

    start: int
    end: int
    accepted_ms: int
    reason: str


def describe(gaps: Iterable[Gap]) -> list[dict[str, object]]:
    """The gaps as `/v1/audit` shows them; `to` is the first offset that was counted again."""
    return [
        {"from": gap.start, "to": gap.end, "accepted_at": format_rfc3339(gap.accepted_ms), "reason": gap.reason}
        for gap in gaps
    ]
