"""What can befall a deployment, and a plan of it drawn from a seed. Pure: `local/chaos.py` carries it out.

A moment is a share of the usage that has been sent, not a time: on a slow machine everything happens later, but in the
middle of as much work. How long something stays down is a time, as it would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

What = Literal[
    "kill worker",
    "freeze worker",
    "kill Service Bus",
    "kill Cosmos DB",
    "kill broker",
    "rolling restart",
    "scale",
]

FIRST_WORKERS, MOST_WORKERS, LAST_WORKERS = 1, 3, 2


@dataclass(frozen=True, slots=True)
class Misfortune:
    """One thing that goes wrong, or is done on purpose while things go wrong.

    at: after what share of the usage, 0 to 1. number: which of the workers that are up then, counted round and round; for
    `scale`, how many there are to be. lasts_s: how long the victim stays down; for `freeze worker`, how long it stays
    frozen once the group has given its partitions to others.
    """

    at: float
    what: What
    number: int = 0
    lasts_s: float = 0.0


def plan(seed: int, seconds: float, *, broker: bool) -> list[Misfortune]:
    """One worker becomes three; all sorts of things happen; they are restarted one by one; two remain; more happens.

    seconds: of usage, for which there are more or fewer misfortunes, at least one of each kind. broker: whether it can be
    killed (one that keeps its log in memory cannot).
    """
    random = Random(seed)

    def some(what: What, every_s: float, first: float, last: float, most_s: float) -> list[Misfortune]:
        count = max(1, round(seconds / every_s))
        return [
            Misfortune(random.uniform(first, last), what, random.randrange(100), random.uniform(0.1, most_s))
            for _ in range(count)
        ]

    found: list[Misfortune] = [
        Misfortune(random.uniform(0.02, 0.06), "scale", MOST_WORKERS),
        Misfortune(random.uniform(0.45, 0.6), "rolling restart"),
        Misfortune(random.uniform(0.75, 0.85), "scale", LAST_WORKERS),
    ]
    found += some("kill worker", 5, 0.1, 0.97, 2.0)
    found += some("freeze worker", 25, 0.12, 0.6, 2.0)
    found += some("kill Service Bus", 15, 0.05, 0.95, 5.0)
    found += some("kill Cosmos DB", 15, 0.05, 0.95, 5.0)
    if broker:
        found += some("kill broker", 25, 0.1, 0.95, 4.0)
    return sorted(found, key=lambda misfortune: misfortune.at)
