"""Cases for the oracle, worked out by hand: meters, events and ticks in one line each, and the logs that they stand in."""

from __future__ import annotations

import json
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from schemas.times import format_rfc3339
from simulation import oracle
from simulation.oracle import Oracle

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z, where a window of every size begins."""
SECOND, MINUTE = 1_000, 60_000
STREAM = {"max_delay": "PT30S", "future_tolerance": "PT1M", "correct_for": "PT5M", "revise_every": "PT10S"}
BUCKET_MS = 5 * MINUTE // 96
"""Ids are known by buckets of time, so many in `correct_for`."""


class Logs:
    """An oracle and the ends of its logs, so that a case is a line per record."""

    def __init__(self, *meters: dict[str, Any], sources: int = 1, **stream: str) -> None:
        self.oracle = Oracle({"stream": STREAM | stream, "meters": list(meters or [meter()])}, sources)
        self.ends = [0] * sources

    def read(self, *events: Any, source: int = 0, at_ms: int = NOON, key: bytes | None = b"acme") -> list[str]:
        """One record: one event as it is, several as an envelope, bytes or None as they are."""
        raw = len(events) == 1 and (events[0] is None or isinstance(events[0], bytes))
        value = events[0] if raw else json.dumps(events[0] if len(events) == 1 else events).encode()
        self.ends[source] += 1
        return self.oracle.read(source, self.ends[source] - 1, at_ms, key, value)

    def window(self, start_ms: int = NOON, slug: str = "m", group: Any = (), size: str = "PT1M") -> oracle.Window:
        return ("acme", slug, group, start_ms, size)

    def value(self) -> Decimal:
        [expected] = self.oracle.windows().values()
        return expected.value


def meter(aggregation: str = "sum", **more: Any) -> dict[str, Any]:
    value = {} if aggregation == "count" else {"value": "/n"}
    plain = {"slug": "m", "event_type": "use", "aggregation": aggregation, "windows": ["PT1M"], "grace": "PT0S"}
    return plain | value | more


def use(id: str, time_ms: int | str = NOON, n: Any = 1, **more: Any) -> dict[str, Any]:
    time = time_ms if isinstance(time_ms, str) else format_rfc3339(time_ms)
    head = {"specversion": "1.0", "id": id, "source": "app", "type": "use", "subject": "acme", "time": time}
    return head | {"data": {"n": n}} | more


def tick(time_ms: int | str) -> dict[str, Any]:
    return use("tick", time_ms, type="meterline.tick")


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def digest(*pairs: tuple[str, str]) -> int:
    texts = (b"%d:%b%b" % (len(source), source.encode(), id.encode()) for source, id in pairs)
    return sum(int.from_bytes(blake2b(text, digest_size=16).digest(), "big") for text in texts) % 2**128
