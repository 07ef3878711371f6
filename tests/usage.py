"""Usage and meters for tests, written down in one line each; and a sink that is a list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.definitions import Definitions
from schemas.meters import parse
from schemas.times import format_rfc3339
from schemas.windows import Revision
from sinks.contract import DELIVERED, Outcome

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z, a multiple of every window size used here."""
SECOND, MINUTE = 1000, 60_000


def definitions(document: dict[str, Any]) -> Definitions:
    """Of a meters file, as a plain document."""
    return parse(json.dumps(document))


def usage(
    id: str, time_ms: int | str = NOON, subject: str | None = "acme", type: str = "use", **more: Any
) -> dict[str, Any]:
    """One event; `more` is its data, and `source`."""
    time = time_ms if isinstance(time_ms, str) else format_rfc3339(time_ms)
    source = more.pop("source", "app")
    head = {"specversion": "1.0", "id": id, "source": source, "type": type, "subject": subject, "time": time}
    return head | ({"data": more} if more else {})


def meter(slug: str, aggregation: str = "sum", **more: Any) -> dict[str, Any]:
    """A meter of a meters file: minutes, read from events of type `use`."""
    value = {} if aggregation == "count" else {"value": "/n"}
    return {"slug": slug, "event_type": "use", "aggregation": aggregation, **value, "windows": ["PT1M"], **more}


@dataclass
class ListSink:
    """A sink that takes everything and keeps it."""

    name: str = "cosmos"
    batch_max: int = 100
    received: list[Revision] = field(default_factory=list)

    async def open(self) -> None:
        """Nothing to connect."""

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        self.received += revisions
        return [DELIVERED] * len(revisions)

    async def close(self) -> None:
        """Nothing to let go."""
