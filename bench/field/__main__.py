"""`make bench`: the whole field in one run; `make bench QUICK=1`: some of it in two minutes. Writes `bench/RESULTS.md`.

`--directory` keeps the runs, and goes on where a run that was cut has ended: only what is missing is measured.
`--only` and the sizes try things out, and write nothing. `--report FILE` writes the section from kept runs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from bench.field.contestants import Contestant
from bench.field.install import installed
from bench.field.meterline import MEMBERS, TWO_WORKERS
from bench.field.peers import FLOORS, PEERS
from bench.field.plan import FULL, LEFT_OUT, QUICK, Plan, Step, Taking, missing, parts, steps
from bench.field.records import Runs
from bench.field.report import Occasion, section, write_plots
from bench.field.sitting import Cores, Sitting
from bench.field.titles import TRACE
from bench.results import busy, machine, today, write_section
from schemas.errors import MeterlineError

TITLE = "Field"
_QUICK_ONES = ("floor-decode", "meterline", "meterline-envelopes", "kafka-streams", "faust")
ALL: tuple[Contestant, ...] = (*MEMBERS, TWO_WORKERS, *PEERS, *FLOORS)


def versions() -> list[str]:
    """Of what the field's members are made of, as far as it is installed."""
    found = [f"meterline {version('meterline')} at {_commit()}", "Apache Kafka 4.1.1"]
    found += [f"{name} {number}" for name, number in installed().items()]
    java = shutil.which("java")
    if java is not None:
        told = subprocess.run([java, "-version"], capture_output=True, text=True).stderr.splitlines()
        found.append(told[0] if told else "Java")
    return [*found, f"kernel {platform.release()}"]


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "an unknown commit"
    told = subprocess.run([git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return told.stdout.strip() or "an unknown commit"


def chosen(only: Sequence[str] | None, *, quick: bool) -> tuple[list[Contestant], list[str]]:
    """Who takes part, and who does not and why."""
    members, others = [], []
    for member in ALL:
        lacks = member.lacks()
        if only and member.name not in only:
            continue
        if quick and not only and member.name not in _QUICK_ONES:
            others.append(f"{member.title}: only in a full run")
        elif lacks:
            others.append(f"{member.title}: not on this machine, which lacks {lacks}")
        else:
            members.append(member)
    return members, others


def planned(plan: Plan, members: Sequence[Contestant], trace: Path | None) -> list[Step]:
    """Every step for those who take part."""
    taking = [Taking(m.name, m.envelopes, m.adds_up, bool(m.shows)) for m in members]
    return steps(plan, taking, trace=trace is not None)


def left_out(plan: Plan, trace: Path | None, members: Sequence[Contestant], runs: Runs) -> list[str]:
    """What a full run has and this one has not, and why."""
    found = []
    if not plan.others:
        found.append("100,000 and 1,000,000 keys, uniform and new ones, and the trace: only in a full run")
    else:
        found += LEFT_OUT
        if trace is None:
            found.append(f"{TRACE}: `make bench TRACE=` names no directory that holds it")
    if not plan.latency_s:
        found.append("the time from event to visible total: only in a full run")
    if not plan.crashes:
        found.append("`kill -9` and restart: only in a full run")
    tried = runs.done() | {run.step for run in runs.failures()}
    titles = {member.name: member.title for member in members}
    cut: dict[str, list[str]] = {}
    for step in missing(planned(plan, members, trace), tried):
        if step.kind == "speed" or runs.speeds(step.contestant, step.given):
            what = f"{step.kind}, {step.given}, round {step.number + 1}"
            cut.setdefault(what, []).append(titles[step.contestant])
    return found + [f"{what}: the run was cut before it came to {', '.join(some)}" for what, some in cut.items()]


def main() -> None:
    """Measure, print, write the section and its plots."""
    parser = argparse.ArgumentParser(prog="python -m bench.field", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--trace", type=Path, help="directory of the Azure LLM inference trace 2023, as CSV")
    parser.add_argument("--directory", type=Path, help="keep runs and logs here, and go on with those that are here")
    parser.add_argument("--report", type=Path, help="write the section from this runs.jsonl, and measure nothing")
    parser.add_argument("--only", nargs="+", choices=[m.name for m in ALL], help="only these; printed, not written")
    for name, kind in (
        ("rounds", int),
        ("warm-s", float),
        ("run-s", float),
        ("events", int),
        ("latency-s", float),
        ("crashes", int),
    ):
        parser.add_argument(f"--{name}", type=kind, help="another one than planned; printed, not written")
    parser.add_argument("--others", action=argparse.BooleanOptionalAction, help="the further inputs")
    options = parser.parse_args()
    given = {n: getattr(options, n) for n in Plan.__dataclass_fields__ if getattr(options, n) is not None}
    plan = replace(QUICK if options.quick else FULL, **given)
    command = "make bench" + (" QUICK=1" if options.quick else "")
    try:
        members, others = chosen(options.only, quick=options.quick)
        load = busy()
        kept = options.report
        runs = Runs.load(kept) if kept else _measured(plan, members, options.directory, options.trace)
    except MeterlineError as error:
        raise SystemExit(f"make bench: {error}") from None
    others += left_out(plan, options.trace, members, runs)
    text = section(runs, members, Occasion(command, today(), machine(), load, versions(), others))
    print(text)
    if options.report or not (options.only or given):
        write_section(TITLE, text)
        write_plots(runs, members)


def _measured(plan: Plan, members: Sequence[Contestant], kept: Path | None, trace: Path | None) -> Runs:
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.shared})  # everything that we start inherits it, but the contestants
    directory = (kept or Path(tempfile.mkdtemp(prefix="meterline-bench-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        path = directory / "runs.jsonl"
        runs = Runs.load(path) if path.exists() else Runs(path)
        left = missing(planned(plan, members, trace), runs.done())
        title = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC at {_commit()}, {busy()}"
        for some in parts(left):
            sitting = Sitting(plan, members, runs, directory, cores, trace=trace, title=title)
            asyncio.run(sitting.measure(some))
        return runs
    finally:
        if kept is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
