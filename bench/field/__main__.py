"""`make bench`: the whole field in one run; `make bench QUICK=1`: some of it in two minutes. Writes `bench/RESULTS.md`.

`--only` and the sizes try things out, and write nothing. `--report FILE` writes the section from the runs of an earlier
run that was kept with `--directory`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from bench.field import inputs
from bench.field.bars import ENVELOPES, HUNDRED_K, MILLION, ONE_K
from bench.field.contestants import Contestant, Where
from bench.field.feeding import Feed
from bench.field.inputs import Input
from bench.field.install import installed
from bench.field.job import PARTITIONS
from bench.field.measure import Crash, Latency, Speed, crash, latency, speed
from bench.field.meterline import MEMBERS, TWO_WORKERS
from bench.field.peers import FLOORS, PEERS
from bench.field.records import Run, Runs, Spread
from bench.field.report import Occasion, section, write_plots
from bench.results import busy, machine, today, write_section
from local.kafka import KafkaCluster
from schemas.errors import BrokerError, ConfigurationError, MeterlineError

TITLE = "Field"
TRACE = "Azure LLM inference trace 2023"
_SEED = 20_231_116
_KEYS = {ONE_K: 1_000, HUNDRED_K: 100_000, MILLION: 1_000_000}
_TRACE_TIMES = 20
_CLOSES_AFTER_S = 180.0
"""How long after its first start a contestant closes windows that does so by the machine's clock, besides three times what it
is measured for: a group waits a minute for a member that was killed, and a window that closes before it is read is lost."""
_BATCH_S = 0.02
"""How much of an even flow one batch holds, for the time from event to total."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. rounds: of speed. warm_s, run_s: CPU time that is not measured, and that is. events: of the
    input of 1,000 keys.

    others: the further inputs and two workers. latency_s: 0: none. crashes: how often each is killed.
    """

    rounds: int
    warm_s: float
    run_s: float
    events: int
    others: bool
    latency_s: float
    crashes: int


FULL = Plan(rounds=3, warm_s=8.0, run_s=10.0, events=3_200_000, others=True, latency_s=30.0, crashes=1)
QUICK = Plan(rounds=1, warm_s=1.0, run_s=2.0, events=800_000, others=False, latency_s=0.0, crashes=0)
_QUICK_ONES = ("floor-decode", "meterline", "meterline-envelopes", "kafka-streams", "faust")
_OTHERS = ("meterline", "kafka-streams", "kafka-streams-dedupe")
ALL: tuple[Contestant, ...] = (*MEMBERS, TWO_WORKERS, *PEERS, *FLOORS)


class Field:
    """One run of the field on one broker."""

    def __init__(self, plan: Plan, members: Sequence[Contestant], runs: Runs, directory: Path, cores: Cores) -> None:
        self._plan = plan
        self._members = members
        self._runs = runs
        self._directory = directory
        self._cores = cores
        self._begin_ms = inputs.hour_before(int(time.time() * 1000))
        self._number = 0

    async def run(self, trace: Path | None) -> None:
        """Everything, on a broker of its own."""
        kafka = KafkaCluster(self._directory / "kafka")
        try:
            await kafka.start()
            async with Feed(kafka.bootstrap) as self._feed:
                self._bootstrap = kafka.bootstrap
                await self._all(trace)
        finally:
            await kafka.stop()

    async def _all(self, trace: Path | None) -> None:
        plan = self._plan
        main = [m for m in self._members if not m.envelopes and m is not TWO_WORKERS]
        packed = [m for m in self._members if m.envelopes]
        cases = self._cases(ONE_K, plan.events, main + [m for m in self._members if m is TWO_WORKERS])
        cases += self._cases(ENVELOPES, plan.events, packed, envelopes=True)
        chance = random.Random(_SEED)
        for number in range(plan.rounds):
            chance.shuffle(cases)
            for member, given in cases:
                await self._try(member, given, number, "speed", self._speed(member, given, close=True))

        def known(some: list[tuple[Contestant, Input]]) -> list[tuple[Contestant, Input]]:
            """Whose speed was measured, since the rest goes by it."""
            return [(m, i) for m, i in some if m is not TWO_WORKERS and self._runs.speeds(m.name, i.title)]

        if plan.crashes:
            for number in range(plan.crashes):
                for member, given in [c for c in known(cases) if c[0].adds_up]:
                    await self._try(member, given, number, "crash", self._crash(member, given, number))
        if plan.latency_s:
            for member, given in [c for c in known(cases) if c[0].shows]:
                await self._try(member, given, 0, "latency", self._latency(member, given))
        if plan.others:
            chosen = [m for m in main if m.name in _OTHERS]
            for title in (HUNDRED_K, MILLION):
                await self._rounds(self._cases(title, plan.events // 2, chosen), chance, close=False)
            if trace is not None:
                await self._rounds([(m, self._trace(trace)) for m in chosen], chance, close=True)

    async def _rounds(self, cases: list[tuple[Contestant, Input]], chance: random.Random, *, close: bool) -> None:
        for number in range(self._plan.rounds):
            chance.shuffle(cases)
            for member, given in cases:
                await self._try(member, given, number, "speed", self._speed(member, given, close=close))

    def _cases(
        self, title: str, events: int, members: Sequence[Contestant], *, envelopes: bool = False
    ) -> list[tuple[Contestant, Input]]:
        if not members:
            return []
        print(f"making the input: {title}", flush=True)
        keys = _KEYS.get(title, _KEYS[ONE_K])
        live = keys > _KEYS[ONE_K]
        draws = inputs.zipf(keys, events, self._begin_ms, _SEED, live=live)
        given = inputs.make(title, inputs.tenants(keys), draws, _SEED, envelopes=envelopes)
        given.opening = -(-keys // inputs.BLOCK_EVENTS) if live else 1
        return [(member, given) for member in members]

    def _trace(self, directory: Path) -> Input:
        names, draws, _ = inputs.trace(directory, _TRACE_TIMES, self._begin_ms)
        return inputs.make(f"{TRACE}, x{_TRACE_TIMES}", names, draws, _SEED)

    async def _speed(self, member: Contestant, given: Input, *, close: bool) -> Speed:
        return await speed(
            member,
            self._where(member, given),
            given,
            self._feed,
            max(self._plan.warm_s, member.warms_up_s),
            self._plan.run_s,
            close=close,
        )

    async def _crash(self, member: Contestant, given: Input, number: int) -> Crash:
        rate = self._rate(member, given)
        where = replace(self._where(member, given), closes_in_s=_CLOSES_AFTER_S + 3 * self._plan.run_s)
        return await crash(member, where, given, self._feed, self._plan.run_s, rate, number)

    async def _latency(self, member: Contestant, given: Input) -> Latency:
        rate = self._rate(member, given) / 2
        per_batch = max(1, int(rate * _BATCH_S / PARTITIONS / (inputs.ENVELOPE_EVENTS if member.envelopes else 1)))
        events = int(rate * self._plan.latency_s)
        draws = inputs.zipf(_KEYS[ONE_K], events + 4 * inputs.BLOCK_EVENTS, self._begin_ms, _SEED)
        flow = inputs.make(
            given.title,
            inputs.tenants(_KEYS[ONE_K]),
            draws,
            _SEED,
            envelopes=member.envelopes,
            batch_records=per_batch,
            probes=True,
        )
        warm_s = self._plan.latency_s / 3
        where = replace(self._where(member, flow), running_totals=True)
        return await latency(member, where, flow, self._feed, rate, warm_s)

    def _rate(self, member: Contestant, given: Input) -> float:
        found = Spread.of(s.per_s for s in self._runs.speeds(member.name, given.title).values())
        if found is None:
            raise BrokerError("its speed is not known")
        return found.median

    def _where(self, member: Contestant, given: Input) -> Where:
        self._number += 1
        name = f"{member.name}-{self._number}"
        return Where(self._bootstrap, self._directory, name, self._cores.measured, given.end_ms)

    async def _try(
        self,
        member: Contestant,
        given: Input,
        number: int,
        kind: str,
        measuring: Awaitable[Speed | Latency | Crash],
    ) -> None:
        """One run; a contestant that fails is told in the results, and the others go on."""
        figures, failure = None, ""
        try:
            figures = await measuring
        except (MeterlineError, OSError, TimeoutError) as error:
            failure = str(error) or type(error).__name__
        self._runs.add(Run(member.name, given.title, number, kind, figures, failure.partition("\n")[0]))
        print(f"{kind}, {given.title}, round {number + 1}: {member.title}: {figures or failure}", flush=True)
        where = f"{member.name}-{self._number}"
        await self._feed.delete(*await self._feed.topics_of(where))
        if not failure:
            shutil.rmtree(self._directory / where, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Cores:
    """shared: the broker's, the generator's and ours; measured: the contestant's."""

    shared: int
    measured: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first and the last core that we may use. Raises ConfigurationError where there is one only."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < 2 or shutil.which("taskset") is None:
            raise ConfigurationError(
                f"the field needs Linux, taskset and two cores, one of them for the contestant alone; here: {cores}",
                where="make bench",
                hint="run it on a machine that has them",
            )
        return cls(cores[0], cores[-1])


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
    members, left_out = [], []
    for member in ALL:
        lacks = member.lacks()
        if only and member.name not in only:
            continue
        if quick and not only and member.name not in _QUICK_ONES:
            left_out.append(f"{member.title}: only in a full run")
        elif lacks:
            left_out.append(f"{member.title}: not on this machine, which lacks {lacks}")
        else:
            members.append(member)
    return members, left_out


def _left_out(plan: Plan, trace: Path | None) -> list[str]:
    found = []
    if not plan.others:
        found.append("100,000 and 1,000,000 keys and the trace: only in a full run")
    elif trace is None:
        found.append(f"{TRACE}: `make bench TRACE=` names no directory that holds it")
    if not plan.latency_s:
        found.append("the time from event to visible total: only in a full run")
    if not plan.crashes:
        found.append("`kill -9` and restart: only in a full run")
    return found


def main() -> None:
    """Measure, print, write the section and its plots."""
    parser = argparse.ArgumentParser(prog="python -m bench.field", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--trace", type=Path, help=f"directory of the {TRACE}, as CSV")
    parser.add_argument("--directory", type=Path, help="keep runs, logs and topics here")
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
        members, left_out = chosen(options.only, quick=options.quick)
        left_out += _left_out(plan, options.trace)
        occasion = Occasion(command, today(), machine(), busy(), versions(), left_out)
        runs = (
            Runs.load(options.report) if options.report else _measured(plan, members, options.directory, options.trace)
        )
    except MeterlineError as error:
        raise SystemExit(f"make bench: {error}") from None
    text = section(runs, members, occasion)
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
        runs = Runs(directory / "runs.jsonl")
        asyncio.run(Field(plan, members, runs, directory, cores).run(trace))
        return runs
    finally:
        if kept is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
