"""Worlds in which what is rare is not: some mutants are met by few stories of the crowd (`simulation/mutants.py`)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

from simulation import plan as plans
from simulation.plan import Fault, Plan
from simulation.scale import Scale, draw_scale
from tables.durable import Limits


class Bent(TypedDict, total=False):
    """What `tell` is given besides the seed."""

    scale: Scale
    plan: Plan


def _any(seed: int) -> Bent:
    """As the crowd's."""
    return {}


def _long(seed: int) -> Bent:
    """Busy for longer than an id is known; with revisions of windows that have closed."""
    scale = replace(draw_scale(random.Random(f"{seed}/world")), span_s=400.0, records=60)
    return {"scale": scale, "plan": _faults(seed, scale)}


def _snapshots(seed: int) -> Bent:
    """A checkpoint every few seconds, and a snapshot as soon as the chunks outweigh what is live."""
    scale = draw_scale(random.Random(f"{seed}/world"))
    pace = replace(scale.pace, checkpoint_s=3.0, snapshot_s=24 * 30.0)
    scale = replace(scale, span_s=400.0, records=20, sealed=True, limits=Limits(64_000, 4_000_000, 0), pace=pace)
    return {"scale": scale, "plan": _faults(seed, scale)}


def _outages(seed: int) -> Bent:
    """The sinks are away again and again, and whoever waits for them is frozen past its session meanwhile."""
    scale = replace(draw_scale(random.Random(f"{seed}/world")), span_s=400.0, records=60, workers=2)
    rng = random.Random(f"{seed}/outages")
    faults = list(_faults(seed, scale).faults)
    for at in range(60, 400, 60):
        for kind in ("servicebus_down", "cosmos_down"):
            faults.append(Fault(kind, float(at), rng.randrange(16), round(rng.uniform(10, 50), 1)))
        faults.append(
            Fault("freeze", at + round(rng.uniform(5, 40), 1), rng.randrange(16), round(rng.uniform(15, 90), 1))
        )
    return {"scale": scale, "plan": Plan(tuple(faults))}


def _faults(seed: int, scale: Scale) -> Plan:
    return plans.draw(random.Random(f"{seed}/faults"), scale.span_s, 3000)


BENT: dict[str, Callable[[int], Bent]] = {
    "any": _any,
    "long": _long,
    "snapshots": _snapshots,
    "outages": _outages,
}
