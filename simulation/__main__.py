"""`python -m simulation`: a story told, many, every crash point of a small one, the prover proven, or what it leaves out."""

from __future__ import annotations

import argparse
import logging
import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from simulation import crowd, exhaustive, lines
from simulation.mutants import MUTANTS, hunt, table
from simulation.shrink import report, shrink
from simulation.world import tell


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 where every promise held, 1 where one broke or a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="tell the story of this seed")
    parser.add_argument("--faults", help="only these of its faults: numbers, comma-separated, or `none`")
    parser.add_argument("--tell", action="store_true", help="print every line of it")
    parser.add_argument("--seeds", type=int, help="tell the stories of so many seeds, on all cores")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--exhaustive", action="store_true", help="every crash point and torn flush of small worlds")
    parser.add_argument(
        "--mutants", action="store_true", help="break production's rules one by one: each must be noticed"
    )
    parser.add_argument("--lines", action="store_true", help="which lines of production no story runs")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if given.seed is not None:
        return _one(given.seed, given.faults, given.tell)
    if given.lines:
        return _lines()
    if given.seeds is None and not given.exhaustive and not given.mutants:
        parser.error("give a seed, --seeds N, --exhaustive, --mutants or --lines")
    good = True
    if given.seeds is not None:
        good &= _many(given.first, given.seeds)
    if given.exhaustive:
        good &= _exhaustive()
    if given.mutants:
        good &= _mutants()
    return 0 if good else 1


def _one(seed: int, faults: str | None, aloud: bool) -> int:
    only = None if faults is None else [] if faults == "none" else [int(number) for number in faults.split(",")]
    ending = tell(seed, only)
    if aloud:
        print("\n".join(ending.lines))
    print(f"seed {seed}: {ending.what}")
    print(f"  {ending.effects} effects, {ending.virtual_s:.0f} virtual seconds, story {ending.digest[:16]}")
    for where, why in sorted(ending.stops.items()):
        print(f"  {where} stopped: {why}")
    if ending.promise is not None and only is None:
        print(report(ending, *shrink(ending)))
    return 0 if ending.promise is None else 1


def _many(first: int, count: int) -> bool:
    with _progress("stories") as progress:
        task = progress.add_task("", total=count, broken=0)
        tally = crowd.many(
            range(first, first + count),
            lambda so_far: progress.update(task, completed=so_far.stories, broken=len(so_far.broken)),
        )
    print(tally.describe())
    for seed, _, _ in tally.broken[:5]:
        whole = tell(seed)
        print(report(whole, *shrink(whole)))
    return not tally.broken


def _exhaustive() -> bool:
    with _progress("interruptions") as progress:
        task = progress.add_task("", total=None, broken=0)
        found = exhaustive.explore(
            lambda done, total, broken: progress.update(task, completed=done, total=total, broken=broken)
        )
    print(found.describe())
    return not found.broken


def _mutants() -> bool:
    with _progress("mutants") as progress:
        task = progress.add_task("", total=len(MUTANTS), broken=0)
        verdicts = hunt(lambda done, alive: progress.update(task, completed=done, broken=alive), sys.executable)
    print(table(verdicts))
    return all(verdict.killed for verdict in verdicts)


def _lines() -> int:
    with _progress("stories") as progress:
        task = progress.add_task("", total=lines.STORIES + len(exhaustive.WORLDS), broken=0)
        measured = lines.measure(told=lambda stories: progress.update(task, completed=stories))
    print(lines.table(measured))
    return 1 if measured.broken else 0


def _progress(what: str) -> Progress:
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[broken]} broken"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns)


if __name__ == "__main__":
    sys.exit(main())
