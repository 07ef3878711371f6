"""Many stories, on all cores: how many were told, which broke a promise, and what they met on the way."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from simulation.plan import CUTS
from simulation.world import Ending, tell

CHUNK = 20


@dataclass(slots=True)
class Tally:
    """What stories came to. kinds: how many stories each kind of fault befell. quiet: stories without a fault.

    stopped: stories in which retention took something that was needed, and a partition stopped.
    """

    stories: int = 0
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    checks: int = 0
    recoveries: int = 0
    virtual_s: float = 0.0
    quiet: int = 0
    cut: int = 0
    stopped: int = 0
    seconds: float = 0.0

    def add(self, ending: Ending) -> None:
        """One story more."""
        self.stories += 1
        self.effects += ending.effects
        self.checks += ending.checks
        self.recoveries += ending.recoveries
        self.virtual_s += ending.virtual_s
        kinds = ending.faults.kinds
        self.kinds.update(kinds)
        self.quiet += not kinds
        self.cut += bool(kinds & CUTS)
        self.stopped += bool(ending.stops)
        if ending.promise is not None:
            self.broken.append((ending.seed, ending.promise, ending.what))

    def join(self, other: Tally) -> None:
        """Those of another process."""
        for name in ("stories", "effects", "checks", "recoveries", "virtual_s", "quiet", "cut", "stopped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.broken += other.broken
        self.kinds.update(other.kinds)

    def describe(self) -> str:
        """A few lines of figures."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.stories} stories in {self.seconds:.0f} s, {len(self.broken)} broke a promise\n"
            f"  {self.effects} effects, {self.recoveries} recoveries compared with the log's own state, "
            f"{self.checks} steps compared with the oracle, {self.virtual_s / 86_400:.1f} days of virtual time\n"
            f"  {self.quiet} without a fault; with {kinds}\n"
            f"  {self.cut} lost something of their logs; in {self.stopped} a partition stopped for it, and said so"
        )


def many(seeds: Iterable[int], told: Callable[[Tally], None] = lambda tally: None, processes: int = 0) -> Tally:
    """Tells the stories of seeds. told: after every few, with what there is so far. processes: 0 for all cores."""
    began_s = time.monotonic()
    whole = Tally()
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count() or 1, quiet) as pool:
        for part in pool.imap_unordered(_some, _chunks(seeds)):
            whole.join(part)
            whole.seconds = time.monotonic() - began_s
            told(whole)
    whole.broken.sort()
    return whole


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    for seed in seeds:
        chunk.append(seed)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def quiet() -> None:
    """A process that tells stories says nothing else, and clears up between them, not in their midst."""
    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.disable()


def _some(seeds: list[int]) -> Tally:
    tally = Tally()
    for seed in seeds:
        tally.add(tell(seed))
        gc.collect()
    return tally
