"""A broken promise, with as few faults as it takes: the story is told again and again with parts of its list left out.

Faults keep their numbers, so `python -m simulation SEED --faults 3,7` tells the shrunk story anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulation.world import Ending, tell

TELLINGS_MAX = 400
"""How often a story is told again, at most."""


def shrink(ending: Ending, again: Callable[[int, Sequence[int]], Ending] | None = None) -> tuple[list[int], Ending]:
    """The numbers of the faults that are left, and the ending with them. The promise broken stays the same.

    again: tells the story of a seed with some of its faults; `tell` where it is not given.
    """
    retell = again or (lambda seed, numbers: tell(seed, numbers))
    kept = list(range(len(ending.faults.faults)))
    best, tellings = ending, 0
    size = max(1, len(kept) // 2)
    while kept and size:
        at = 0
        while at < len(kept) and tellings < TELLINGS_MAX:
            without = kept[:at] + kept[at + size :]
            tellings += 1
            found = retell(ending.seed, without)
            if found.promise == ending.promise:
                kept, best = without, found
            else:
                at += size
        size = size // 2 if size > 1 else 0
    return kept, best


def report(ending: Ending, kept: Sequence[int], shrunk: Ending) -> str:
    """What a person needs: the promise, the faults it takes, the ledger's difference, and one command."""
    lines = [
        f"seed {ending.seed}: {shrunk.what}",
        f"  faults left, {len(kept)} of {len(ending.faults.faults)}:",
        *(f"    {number}: {ending.faults.faults[number]}" for number in kept),
        f"  again: python -m simulation {ending.seed} --faults {','.join(map(str, kept)) or 'none'} --tell",
    ]
    return "\n".join(lines)
