"""The section Field of `bench/RESULTS.md` and its plots, from the runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.field import plot
from bench.field.bars import Bar, bars
from bench.field.contestants import Contestant
from bench.field.records import Runs, Spread
from bench.field.titles import (
    ENVELOPES,
    HUNDRED_K,
    MILLION,
    MILLION_ENVELOPES,
    NEW_KEYS,
    ONE_K,
    TRACE,
    TRACE_ENVELOPES,
    UNIFORM,
)
from bench.results import RESULTS, table

PLOTS = RESULTS.parent / "plots"


@dataclass(frozen=True, slots=True)
class Occasion:
    """What the section says about its run. command, machine, load: one line together. versions: of what took part.

    left_out: what a full run has and this one has not, and why.
    """

    command: str
    date: str
    machine: str
    load: str
    versions: Sequence[str]
    left_out: Sequence[str]


def section(runs: Runs, members: Sequence[Contestant], occasion: Occasion) -> str:
    """The body of the section."""
    titles = {member.name: member.title for member in members}
    parts = [
        f"`{occasion.command}`, {occasion.date}: {occasion.machine}; {occasion.load}. {'; '.join(occasion.versions)}.",
        _sittings(runs),
        _HOW,
        _left_out(occasion.left_out, runs, titles),
        "### Bars\n\n" + _bars(bars(runs)),
        "### Speed\n\n" + _speeds(runs, members) + "\n\n![Events per CPU-second](plots/field-speed.svg)",
    ]
    if any(runs.latency(member.name) for member in members):
        plotted = "\n\n![From event to visible total](plots/field-latency.svg)"
        parts.append("### From event to visible total\n\n" + _latencies(runs, members) + plotted)
    if any(runs.crashes(member.name) for member in members):
        parts.append("### After `kill -9` in the middle, and a restart\n\n" + _KILLED + _crashes(runs, members))
    costs = _costs(runs)
    if costs:
        parts.append("### Cost over keys\n\n" + _COST + costs + "\n\n![CPU time of an event](plots/field-cost.svg)")
    others = _others(runs, members)
    if others:
        plotted = "\n\n![Events per CPU-second, other inputs](plots/field-inputs.svg)"
        parts.append("### Other inputs\n\n" + _LIVE + others + plotted)
    parts.append("### How each was set up\n\n" + "\n".join(_setups(members)))
    return "\n\n".join(part for part in parts if part)


def write_plots(runs: Runs, members: Sequence[Contestant], directory: Path = PLOTS) -> None:
    """`field-speed.svg` and, of what else was measured, `field-latency.svg`, `field-cost.svg` and `field-inputs.svg`."""
    directory.mkdir(exist_ok=True)
    rows = []
    for member in members:
        found = _spread(runs, member)
        if found is not None:
            rows.append(plot.Bar(member.title, *found, _ours(member), _thousands(found.median)))
    rows.sort(key=lambda row: -row.value)
    text = plot.bars("Events per CPU-second, 1,000 keys: median, least and most", rows)
    (directory / "field-speed.svg").write_text(text)
    waits = []
    for member in members:
        seen = runs.latency(member.name)
        if seen is not None:
            waits.append(
                plot.Bar(member.title, seen.p99_s, seen.p50_s, seen.p99_s, _ours(member), f"{seen.p99_s:.2f} s")
            )
    waits.sort(key=lambda row: row.value)
    if waits:
        text = plot.bars("From event to visible total at half of its own speed: p99, line from p50, s", waits)
        (directory / "field-latency.svg").write_text(text)
    costs = [plot.Bar(cost.what, *cost.us, True, f"{cost.us.median:.2f} µs") for cost in _found_costs(runs)]
    if len(costs) > 1:
        text = plot.bars("CPU time of an event of meterline, µs: median, least and most", costs, from_zero=True)
        (directory / "field-cost.svg").write_text(text)
    rows = []
    for given, member, spread in _found_others(runs, members):
        rows.append(plot.Bar(f"{given}: {member.title}", *spread, _ours(member), _thousands(spread.median)))
    if rows:
        text = plot.bars("Events per CPU-second, other inputs: median, least and most", rows)
        (directory / "field-inputs.svg").write_text(text)


_HOW = """\
One contestant at a time on one core, broker and generator on another. Events per CPU-second count the contestant's own
processes; the rest of `bench/field/measure.py` says how. Figures are medians over the rounds with (least..most); ratios are
taken within a round. Warm-up is not measured. Totals of every run are compared with the generator's ledger; the input has
one record in a thousand twice (one envelope in 250): a contestant with deduplication has to find them, one without is expected
to count them twice.

Events per second are by the clock, until nine tenths of a stretch's CPU time were spent, and a ninth more. Checkpoints are part
of that, and come at intervals: in the two or three seconds that an input lasts a fast contestant, the clock runs on while it
waits for one. Back-pressure, above, has what a worker of ours reads by the clock when five million events wait."""


_KILLED = """\
Several at once on the one core, since most of the time goes by until a group gives the dead member up: no measure of speed.

"""


_COST = """\
meterline alone. Keys come as Zipf(1.1) has them where nothing else is said; every key is live before anything is measured, but
where each event brings its own. The last column compares within a round.

"""


_LIVE = """\
Of 100,000 and 1,000,000 keys every one is live: each has had an event before anything is measured, and what that asks for (a
snapshot, a compaction) is done by then. Their windows stay open, and all running totals are compared;
Quix Streams has none with `final()`, so there they are closed in the end.

"""


def _sittings(runs: Runs) -> str:
    sittings = runs.sittings()
    if not sittings:
        return ""
    if len(sittings) == 1:
        return f"Measured in one sitting, begun {sittings[0]}."
    torn = ", ".join(str(number + 1) for number in runs.torn())
    said = "\n".join(f"- begun {sitting}" for sitting in sittings)
    mixed = f" Round {torn} lies in more than one, so its ratios may compare different times." if torn else ""
    return f"Measured in {len(sittings)} sittings, since the first was cut.{mixed}\n\n{said}"


def _left_out(left_out: Sequence[str], runs: Runs, titles: Mapping[str, str]) -> str:
    lines = [f"- {text}" for text in left_out]
    for run in runs.failures():
        lines.append(f"- {titles.get(run.contestant, run.contestant)}, {run.kind}, {run.given}: failed: {run.failure}")
    return "Left out of this run:\n\n" + "\n".join(lines) if lines else ""


def _bars(found: Sequence[Bar]) -> str:
    rows = []
    for bar in found:
        verdict = {True: "met", False: "**not met**", None: "not measured"}[bar.met]
        measured = "" if bar.found is None else _ranged(bar.found, f".2f{bar.unit}")
        rows.append([bar.what, f"{'≤' if bar.at_most else '≥'} {bar.bar:g}{bar.unit}", measured, verdict])
    return table(["meterline against", "bar", "measured", ""], rows)


def _speeds(runs: Runs, members: Sequence[Contestant]) -> str:
    rows = []
    for member in members:
        found = runs.speeds(member.name, _given(member))
        spread = _spread(runs, member)
        if spread is None:
            continue
        wall = Spread.of(speed.per_s for speed in found.values())
        peak = Spread.of(speed.peak_mb for speed in found.values())
        assert wall is not None and peak is not None
        rows.append(
            [
                member.title,
                _ranged(spread, ",.0f"),
                f"{wall.median:,.0f}",
                f"{peak.median:,.0f}",
                str(len(found)),
                _right(runs, member, _given(member)),
            ]
        )
    return table(["", "events per CPU-second", "events/s", "peak MB", "rounds", "totals"], rows)


def _right(runs: Runs, member: Contestant, given: str) -> str:
    verdicts = [speed.verdict for speed in runs.speeds(member.name, given).values() if speed.verdict is not None]
    if not verdicts:
        return "none"
    wrong = [v for v in verdicts if not v.right]
    if not wrong:
        return "right"
    worst = max(wrong, key=lambda v: v.lost + v.doubled + (v.unclosed or 0) + v.false_sums)
    return (
        f"{worst.lost:,} lost, {worst.doubled:,} doubled, {worst.false_sums:,} false sums, "
        f"{worst.unclosed or 0:,} of {worst.windows:,} unclosed"
    )


def _latencies(runs: Runs, members: Sequence[Contestant]) -> str:
    rows = []
    for member in members:
        seen = runs.latency(member.name)
        if seen is not None:
            figures = [f"{seen.rate:,.0f}", f"{seen.p50_s:.2f}", f"{seen.p99_s:.2f}", f"{seen.unseen} of {seen.probes}"]
            rows.append([member.title, member.shows, *figures])
    return table(["", "seen in", "events/s", "p50 s", "p99 s", "never seen"], rows)


def _crashes(runs: Runs, members: Sequence[Contestant]) -> str:
    rows = []
    for member in members:
        for found in runs.crashes(member.name):
            verdict = found.verdict
            unclosed = "never says" if verdict.unclosed is None else f"{verdict.unclosed:,} of {verdict.windows:,}"
            counts = [f"{verdict.lost:,}", f"{verdict.doubled:,}", f"{verdict.false_sums:,}", unclosed]
            place = [f"{found.events:,}", f"{found.killed_at:.0%}"]
            rows.append([member.title, *counts, *place, f"{found.back_s:.1f}"])
    head = ["", "lost", "doubled", "false sums", "unclosed windows", "events", "killed at", "all counted after s"]
    return table(head, rows)


@dataclass(frozen=True, slots=True)
class _Cost:
    """us: CPU time of an event. times: that of one with 1,000 keys of the same kind of record."""

    what: str
    us: Spread
    times: Spread | None
    peak_mb: float


def _found_costs(runs: Runs) -> list[_Cost]:
    costs = []
    for name, base, others in (
        ("meterline", ONE_K, (ONE_K, HUNDRED_K, MILLION, UNIFORM, NEW_KEYS)),
        ("meterline-envelopes", ENVELOPES, (ENVELOPES, MILLION_ENVELOPES)),
    ):
        for given in others:
            found = runs.speeds(name, given).values()
            us = Spread.of(1e6 / speed.per_cpu_s for speed in found)
            if us is not None:
                peak_mb = max(speed.peak_mb for speed in found)
                times = runs.ratio((name, base), (name, given)) if given != base else None
                costs.append(_Cost(given, us, times, peak_mb))
    return costs


def _costs(runs: Runs) -> str:
    found = _found_costs(runs)
    rows = [
        [cost.what, _ranged(cost.us, ".2f"), f"{cost.peak_mb:,.0f}", _ranged(cost.times, ".2fx") if cost.times else ""]
        for cost in found
    ]
    return table(["", "CPU µs an event", "peak MB", "times that of 1,000 keys"], rows) if len(rows) > 1 else ""


def _found_others(runs: Runs, members: Sequence[Contestant]) -> list[tuple[str, Contestant, Spread]]:
    found = []
    for given in (HUNDRED_K, MILLION, MILLION_ENVELOPES, TRACE, TRACE_ENVELOPES):
        for member in members:
            spread = Spread.of(speed.per_cpu_s for speed in runs.speeds(member.name, given).values())
            if spread is not None:
                found.append((given, member, spread))
    return found


def _others(runs: Runs, members: Sequence[Contestant]) -> str:
    rows = []
    for given, member, spread in _found_others(runs, members):
        speeds = runs.speeds(member.name, given).values()
        wall, peak = Spread.of(s.per_s for s in speeds), Spread.of(s.peak_mb for s in speeds)
        assert wall is not None and peak is not None
        figures = [_ranged(spread, ",.0f"), f"{wall.median:,.0f}", f"{peak.median:,.0f}", str(len(speeds))]
        rows.append([f"{given}: {member.title}", *figures, _right(runs, member, given)])
    return table(["", "events per CPU-second", "events/s", "peak MB", "rounds", "totals"], rows) if rows else ""


def _setups(members: Sequence[Contestant]) -> list[str]:
    return [
        f"- {member.title}: {member.settings}.{f' {member.remarks}' if member.remarks else ''}" for member in members
    ]


def _spread(runs: Runs, member: Contestant) -> Spread | None:
    return Spread.of(speed.per_cpu_s for speed in runs.speeds(member.name, _given(member)).values())


def _given(member: Contestant) -> str:
    return ENVELOPES if member.envelopes else ONE_K


def _ours(member: Contestant) -> bool:
    return member.name.startswith("meterline")


def _ranged(found: Spread, shape: str) -> str:
    """`.2fx`: what follows the format's letter is the unit."""
    code, unit = (shape[: shape.index("f") + 1], shape[shape.index("f") + 1 :])
    text = f"{found.median:{code}}{unit}"
    if found.least == found.most:
        return text
    return f"{text} ({found.least:{code}}..{found.most:{code}})"


def _thousands(value: float) -> str:
    return f"{value / 1000:,.1f} k"
