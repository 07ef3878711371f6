"""What befalls a story: a list of faults, drawn from the seed before the story begins, so that any part of it can be told alone.

Two sorts. *Timed* faults befall a process, the broker, a service or a log at a virtual time. *Placed* faults befall the n-th
effect of the story, whoever has it: a request of a partition to the broker, or a call of a sink. Each kind is on or off per
seed, and may be frequent or rare.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

TIMED = (
    "kill",  # SIGKILL; a supervisor starts it again after a while
    "freeze",  # SIGSTOP for a while, often past the session: a zombie that wakes up and writes everywhere
    "terminate",  # SIGTERM: a last checkpoint, then it leaves; started again
    "rejoin",  # the group rebalances though nobody died
    "broker_down",
    "servicebus_down",
    "cosmos_down",
    "region_down",
    "clock_jump",  # of one worker's wall clock
    "broker_clock_jump",  # of the append time
    "pause",  # one partition's fetches bring nothing for a while
    "drop",  # one fetched batch is lost on its way to the worker
    "cut_source",  # retention takes usage that was not counted yet
    "cut_partials",
    "cut_changelog",
    "forget_offset",  # the group's committed offset of one partition expires
)
PLACED = (
    "crash_before",
    "crash_after",
    "torn",  # any subset of a flush is lost, late, unanswered or written twice; a commit is lost, late or unanswered
    "rebalance",  # the group rebalances while the effect is awaited
    "frozen_before",  # SIGSTOP just before it: who wakes up, perhaps a zombie by then, goes on with this very effect
    "frozen_after",  # SIGSTOP while its answer is under way
    "throttled",  # sinks only
)
CUTS = frozenset({"cut_source", "cut_partials", "cut_changelog", "forget_offset"})
"""Faults after which a partition may, and must rather than give a wrong number, stop."""
FATES = ("kept", "lost", "late", "unanswered", "twice")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. at: virtual seconds since the story began, or the number of the effect for PLACED kinds.

    who: which worker, partition or region, modulo how many there are. for_s: how long it lasts. fates: for `torn`, of the
    records of the flush, in turn.
    """

    kind: str
    at: float
    who: int = 0
    for_s: float = 0.0
    fates: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"effect {self.at:.0f}" if self.kind in PLACED else f"{self.at:.1f} s"
        more = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{where}: {self.kind} ({self.who}){more}{' ' + '/'.join(self.fates) if self.fates else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of a story, numbered by their place in the list."""

    faults: tuple[Fault, ...]

    @property
    def kinds(self) -> set[str]:
        """Which kinds occur."""
        return {fault.kind for fault in self.faults}

    def only(self, numbers: Iterable[int]) -> Plan:
        """The same story with these faults alone."""
        wanted = set(numbers)
        return Plan(tuple(fault for number, fault in enumerate(self.faults) if number in wanted))


def draw(rng: random.Random, span_s: float, effects: int) -> Plan:
    """A plan for a story whose faults end after `span_s`; some `effects` are to be expected in it.

    One seed in eight has no fault at all; cuts are in one of eight, since they end a partition's life.
    """
    if rng.random() < 0.12:
        return Plan(())
    faults: list[Fault] = []
    for kind in TIMED:
        if kind in CUTS:
            if rng.random() < 0.03:
                faults.append(Fault(kind, round(rng.uniform(0.2, 1.0) * span_s, 1), rng.randrange(16)))
            continue
        if rng.random() < 0.35:
            for _ in range(rng.choice([1, 1, 2, 4])):
                at = round(rng.uniform(0.0, span_s), 1)
                faults.append(Fault(kind, at, rng.randrange(16), _lasts(rng, kind)))
    for kind in PLACED:
        if rng.random() < 0.45:
            gap = rng.choice([10, 40, 40, 150])
            at = 0.0
            while (at := at + 1 + rng.expovariate(1 / gap)) < effects:
                fates = _fates(rng) if kind == "torn" else ()
                for_s = _lasts(rng, "freeze") if kind.startswith("frozen") else round(rng.uniform(0.5, 20.0), 1)
                faults.append(Fault(kind, int(at), rng.randrange(16), for_s, fates))
    return Plan(tuple(sorted(faults, key=lambda fault: (fault.kind in PLACED, fault.at))))


def _lasts(rng: random.Random, kind: str) -> float:
    """Seconds: of the process gone, the silence, the jump."""
    if kind == "freeze":
        return round(rng.choice([rng.uniform(1, 10), rng.uniform(15, 60), rng.uniform(60, 200)]), 1)
    if kind in ("clock_jump", "broker_clock_jump"):
        return round(rng.choice([rng.uniform(-20, 20), rng.uniform(-200, 200)]), 1)
    if kind in ("servicebus_down", "cosmos_down", "region_down"):
        return round(rng.choice([rng.uniform(2, 30), rng.uniform(60, 250)]), 1)
    return round(rng.uniform(0.5, 25), 1)


def _fates(rng: random.Random) -> tuple[str, ...]:
    """Of up to six records, in turn; at least one is not simply kept."""
    fates = [rng.choice(FATES) if rng.random() < 0.6 else "kept" for _ in range(rng.randint(1, 6))]
    if all(fate == "kept" for fate in fates):
        fates[rng.randrange(len(fates))] = rng.choice(FATES[1:])
    return tuple(fates)
