"""Small worlds, explored without chance: every effect of a run of at most 200 meets everything that can befall it.

A crash before it and after it, at every effect, calls of the sinks included; at those that change anything, a rebalance while
they are awaited and a freeze past the session before and after them. Every subset of the records of every flush lost, the flush
in flight for a while, or written twice; a commit lost, late, or applied without an answer; a call of a sink lost, late,
unanswered, twice, throttled. Each is a story of its own, told to its end and judged whole.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import orjson

from schemas.times import format_rfc3339
from settings import Settings
from simulation.crowd import quiet
from simulation.plan import Fault, Plan
from simulation.scale import SECRETS, START_MS, Scale
from simulation.usage import Sent
from simulation.world import Ending, tell
from streams.tasks import Pace
from tables.durable import Limits

EFFECTS_MAX = 200
TORN_FULLY = 7
"""Up to so many records, every subset of a flush is lost; of a larger one, which these worlds do not have, none would be."""

DOCUMENT = {
    "stream": {"max_delay": "PT20S", "future_tolerance": "PT30S", "correct_for": "PT2M", "revise_every": "PT10S"},
    "meters": [
        {
            "slug": "total",
            "event_type": "use",
            "aggregation": "sum",
            "value": "/n",
            "windows": ["PT1M"],
            "grace": "PT5S",
        },
        {
            "slug": "users",
            "event_type": "use",
            "aggregation": "unique_count",
            "value": "/u",
            "windows": ["PT1M"],
            "grace": "PT0S",
        },
    ],
}


def _event(name: str, time_s: float, n: object, user: str) -> dict[str, object]:
    time = format_rfc3339(START_MS + int(time_s * 1000))
    head = {"specversion": "1.0", "id": name, "source": "app", "type": "use", "subject": "acme", "time": time}
    return head | {"data": {"n": n, "u": user}}


def _sent(at_s: float, source: int, *events: object) -> Sent:
    value = orjson.dumps(events[0] if len(events) == 1 else events)
    return Sent(START_MS + int(at_s * 1000), source, b"acme", value)


ONE = (
    _sent(2, 0, _event("a", 2, 1, "ann")),
    _sent(8, 0, _event("b", 7, "2.5", "bob"), _event("a", 2, 1, "ann"), {"id": "no event"}),
    _sent(21, 0, _event("c", 20, "not a number", "cy")),
    _sent(75, 0, _event("d", 74, 4, "ann")),
    _sent(82, 0, _event("e", 30, 8, "eve"), _event("b", 7, "2.5", "bob")),
    _sent(93, 0, _event("f", 92, 16, "bob")),
)
"""Counted, twice, no event, not valid; a window that closes, is late and revised, and one that follows it."""
TWO = (
    _sent(1, 0, _event("a", 1, 1, "ann")),
    _sent(3, 1, _event("a", 2, 2, "ann"), _event("b", 3, 4, "bob")),
    _sent(70, 0, _event("c", 69, 8, "cy")),
    _sent(76, 1, _event("d", 75, 16, "ann"), _event("a", 2, 2, "ann")),
)
"""Two partitions of one subject, and two workers that share them."""
SMALL = Scale(
    sources=1,
    targets=1,
    workers=1,
    records=0,
    span_s=95.0,
    settings=Settings(**SECRETS, session_timeout_s=10.0, rebalance_timeout_s=12.0),  # type: ignore[arg-type]
    limits=Limits(record=1200, slice=300, snapshot_min=500),
    pace=Pace(emit_s=8.0, everywhere_s=8.0, checkpoint_s=16.0, prompt_s=5.0, snapshot_s=86_400.0, tick_s=15.0),
    sealed=False,
    to_the_end=True,
    document=DOCUMENT,
    sent=ONE,
)
WORLDS = (SMALL, replace(SMALL, sources=2, workers=2, sent=TWO))
KILLED = Fault("kill", 50.0, 0, 1.0)
"""Befalls every small world anyway, so that the effects of a recovery are interrupted, too."""


@dataclass(slots=True)
class Explored:
    """What was tried. effects: of each world undisturbed. broken: (world, fault, what)."""

    effects: list[int] = field(default_factory=list)
    interruptions: int = 0
    broken: list[tuple[int, str, str]] = field(default_factory=list)

    def describe(self) -> str:
        """A line of figures, and every broken promise."""
        worlds = " and ".join(map(str, self.effects))
        lines = [
            f"{self.interruptions} interruptions of worlds of {worlds} effects, {len(self.broken)} broke a promise"
        ]
        return "\n".join(lines + [f"  world {world}, {fault}: {what}" for world, fault, what in self.broken[:10]])


def explore(told: Callable[[int, int, int], None] = lambda done, total, broken: None, processes: int = 0) -> Explored:
    """Tells them all. told: how many of how many are done, and how many broke a promise. processes: 0 for all cores."""
    found = Explored()
    jobs: list[tuple[int, Fault]] = []
    for world in range(len(WORLDS)):
        ending = undisturbed(world)
        assert ending.promise is None, ending.what
        assert ending.effects <= EFFECTS_MAX, f"world {world} has {ending.effects} effects"
        found.effects.append(ending.effects)
        jobs += [(world, fault) for fault in misfortunes(ending)]
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count() or 1, quiet) as pool:
        for world, fault, promise, what in pool.imap_unordered(_interrupted, jobs, chunksize=10):
            found.interruptions += 1
            if promise is not None:
                found.broken.append((world, str(fault), what))
            told(found.interruptions, len(jobs), len(found.broken))
    found.broken.sort()
    return found


def undisturbed(world: int) -> Ending:
    """A small world's story without another fault than the one that befalls it anyway."""
    return tell(0, scale=WORLDS[world], plan=Plan((KILLED,)))


def misfortunes(ending: Ending) -> Iterator[Fault]:
    """Everything that can befall each effect of a story."""
    for number, (name, records) in enumerate(ending.script, start=1):
        yield Fault("crash_before", number, 0, 1.0)
        yield Fault("crash_after", number, 0, 1.0)
        if not name.startswith("Read"):
            yield Fault("rebalance", number)
            yield Fault("frozen_before", number, 0, 30.0)
            yield Fault("frozen_after", number, 0, 30.0)
        if name == "Produce":
            assert records <= TORN_FULLY, f"a flush of {records} records"
            for fates in product(("kept", "lost"), repeat=records):
                if "lost" in fates:
                    yield Fault("torn", number, 0, 0.0, fates)
            for fate in ("late", "unanswered", "twice"):
                yield Fault("torn", number, 0, 0.0, (fate,) * records)
        elif name == "Commit":
            for fate in ("lost", "late", "unanswered"):
                yield Fault("torn", number, 0, 0.0, (fate,))
        elif not name.startswith("Read"):
            yield Fault("throttled", number, 0, 2.0)
            for fate in ("lost", "late", "unanswered", "twice"):
                yield Fault("torn", number, 0, 0.0, (fate,))


def _interrupted(job: tuple[int, Fault]) -> tuple[int, Fault, str | None, str]:
    world, fault = job
    ending = tell(0, scale=WORLDS[world], plan=Plan((KILLED, fault)))
    gc.collect()
    return world, fault, ending.promise, ending.what
