"""How large a world is, and how it is set: drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from settings import Settings
from simulation.usage import Sent
from streams.tasks import Pace
from tables.durable import Limits

START_MS = 1_767_268_800_000
"""When every story begins: 2026-01-01T12:00:00Z."""
SECRETS = {
    "servicebus_connection_string": "Endpoint=sb://simulated/;SharedAccessKeyName=k;SharedAccessKey=c2ltdWxhdGVk",
    "cosmos_endpoint": "https://simulated.example/",
    "cosmos_key": "c2ltdWxhdGVk",
}
"""Well-formed, and of nothing that exists."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a world is. span_s: how long usage flows and faults happen, virtual seconds."""

    sources: int
    targets: int
    workers: int
    records: int
    span_s: float
    settings: Settings
    limits: Limits
    pace: Pace
    sealed: bool
    """Whether the story goes on until every window is sealed and forgotten."""
    to_the_end: bool = False
    """Whether placed faults befall effects after the calm, too."""
    document: dict[str, Any] | None = None
    """The meters, where they are not drawn."""
    sent: tuple[Sent, ...] = ()
    """Usage that is given, besides the `records` that are drawn."""


def draw_scale(rng: random.Random) -> Scale:
    """Mostly small worlds: they break as well, and more of them can be told."""
    return Scale(
        sources=rng.choices([1, 2, 3, 5, 8], [42, 40, 13, 3, 2])[0],
        targets=rng.choices([1, 2, 3], [70, 24, 6])[0],
        workers=rng.choices([1, 2, 3, 5], [33, 47, 16, 4])[0],
        records=rng.choices([4, 9, 20, 60], [45, 41, 12, 2])[0],
        span_s=rng.choices([40.0, 80.0, 160.0, 400.0], [43, 43, 11, 3])[0],
        settings=Settings(
            **SECRETS,  # type: ignore[arg-type]
            session_timeout_s=10.0,
            rebalance_timeout_s=12.0,
        ),
        limits=Limits(
            record=rng.choices([64, 600, 1200, 64_000], [15, 30, 30, 25])[0],
            slice=rng.choice([1, 400, 4_000_000]),
            snapshot_min=rng.choice([0, 3000, 1_000_000]),
        ),
        pace=Pace(
            emit_s=rng.choice([6.0, 11.0, 16.0]),
            everywhere_s=rng.choice([6.0, 16.0]),
            checkpoint_s=rng.choice([7.0, 14.0, 28.0]),
            prompt_s=rng.choice([0.4, 3.0]),
            snapshot_s=rng.choice([24 * 30.0, 24 * 120.0, 86_400.0]),
            tick_s=rng.choice([4.0, 9.0, 14.0]),
        ),
        sealed=rng.random() < 0.1,
    )
