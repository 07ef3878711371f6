"""What a backlog costs in memory: `make bench-backlog`, section Back-pressure of `bench/RESULTS.md`.

For each kind of records, and for a small backlog and a large one, on one Apache Kafka:

1. the backlog is written, in parts that are made one after the other, while no worker runs;
2. a worker (`app.py worker`, everything on) is started, on a core of its own; its memory is looked at ten times a second until
   everything is counted, committed, and joined by CLOSING;
3. every total is compared with the generator's ledger.

The ids that a worker knows are state, not backlog: they get a budget here, as they may in any deployment, and go to disk
beyond it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bench.field import inputs
from bench.field.contestants import Where
from bench.field.feeding import Feed
from bench.field.inputs import Input, Place, Total
from bench.field.judge import Verdict, judge
from bench.field.meterline import MeterlineRunning
from bench.field.sitting import Cores
from bench.processes import cost
from bench.results import busy, machine, table, today, write_section
from local.kafka import KafkaCluster
from schemas.errors import BrokerError

TITLE = "Back-pressure"
SMALL, LARGE = 100_000, 5_000_000
IDS_MEMORY_MB = 64
_PART = 500_000
"""Events that are made at once, and forgotten when they are written."""
_KEYS = 1_000
_SEED = 5
_SAMPLE_S = 0.1
_PATIENCE_S = 900.0
_COLUMNS = [
    "backlog",
    "events",
    "MB of log",
    "read s",
    "events/s",
    "MB before",
    "first third",
    "last third",
    "peak MB",
    "totals",
]


@dataclass(frozen=True, slots=True)
class Figures:
    """One backlog. log_mb: its records. before_mb, first_mb, last_mb, peak_mb: resident memory of the worker, the most of it:
    before its first event, while the first and the last third was counted, and in its whole life.
    """

    title: str
    events: int
    log_mb: float
    read_s: float
    before_mb: float
    first_mb: float
    last_mb: float
    peak_mb: float
    verdict: Verdict


def parts(events: int, begin_ms: int, *, envelopes: bool) -> Iterator[Input]:
    """The backlog, part by part: the same keys and hours, other events."""
    keys = inputs.Keys(inputs.tenants(_KEYS), by_subject=envelopes)
    for number, start in enumerate(range(0, events, _PART)):
        seed = _SEED + number
        draws = inputs.zipf(_KEYS, min(_PART, events - start), begin_ms, seed)
        yield inputs.make("backlog", keys, draws, seed, envelopes=envelopes)


def added(totals: dict[Place, Total], more: dict[Place, Total]) -> None:
    """The totals of a part, added up with those before."""
    for place, total in more.items():
        known = totals.get(place, Total(0, Decimal(0)))
        totals[place] = Total(known.events + total.events, known.sum + total.sum)


async def measure(
    title: str, events: int, feed: Feed, bootstrap: str, directory: Path, core: int, *, envelopes: bool
) -> Figures:
    """One backlog, read by a worker that finds it."""
    name = f"backlog-{events}-{'envelopes' if envelopes else 'singles'}"
    begin_ms = inputs.hour_before(int(time.time() * 1000))
    running = MeterlineRunning(1, Where(bootstrap, directory, name, core, end_ms=0), ids_memory_mb=IDS_MEMORY_MB)
    expected: dict[Place, Total] = {}
    written = records = size = 0
    try:
        await running.prepare(feed)
        for part in parts(events, begin_ms, envelopes=envelopes):
            await feed.append(running.where.usage, [batch for block in part.blocks for batch in block.batches])
            added(expected, inputs.ledger(part, part.blocks, retries_count=False))
            written += part.events
            records += sum(block.records for block in part.blocks)
            size += sum(len(batch.data) for block in part.blocks for batch in block.batches)
        await running.start()
        samples = await _read(running, feed, records, written)
        (worker,) = running.children()
        peak_mb = cost(worker.pid).peak_mb
        verdict = judge(expected, await running.totals(), closing=False)
    finally:
        await running.stop()
    begun = [s for s in samples if s[1] > 0]
    return Figures(
        title,
        written,
        size / 1e6,
        samples[-1][0] - begun[0][0],
        max((mb for _, share, mb in samples if share == 0), default=0.0),
        max(mb for _, share, mb in begun if share <= 1 / 3 or share == begun[0][1]),
        max(mb for _, share, mb in begun if share > 2 / 3),
        peak_mb,
        verdict,
    )


async def _read(running: MeterlineRunning, feed: Feed, records: int, events: int) -> list[tuple[float, float, float]]:
    """Until all is counted: (time, share that is counted, resident MB)."""
    samples: list[tuple[float, float, float]] = []
    (worker,) = running.children()
    began_s = time.monotonic()
    while time.monotonic() - began_s < _PATIENCE_S:
        share = await running.share(feed, records, events)
        samples.append((time.monotonic(), share, _resident_mb(worker.pid)))
        if share >= 1:
            return samples
        await asyncio.sleep(_SAMPLE_S)
    raise BrokerError(f"{samples[-1][1]:.0%} of the backlog was counted in {_PATIENCE_S:.0f} s\n{worker.tail()}")


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def section(found: list[Figures], occasion: str) -> str:
    """The section: what was done, and a table."""
    rows = [
        [
            f.title,
            f"{f.events:,}",
            f"{f.log_mb:,.0f}",
            f"{f.read_s:.1f}",
            f"{f.events / f.read_s:,.0f}",
            f"{f.before_mb:.0f}",
            f"{f.first_mb:.0f}",
            f"{f.last_mb:.0f}",
            f"{f.peak_mb:.0f}",
            "right" if f.verdict.right else f"lost {f.verdict.lost:,}, doubled {f.verdict.doubled:,}",
        ]
        for f in found
    ]
    lines = [occasion, ""]
    lines += [line.strip() for line in (__doc__ or "").partition("\n\n")[2].strip().splitlines()]
    lines += ["", table(_COLUMNS, rows), ""]
    lines.append(
        f"MB: resident memory of the worker, the most of it before its first event, while the first and the last third of the "
        f"backlog was counted, and in its whole life. Ids: {IDS_MEMORY_MB} MB (`METERLINE_IDS_MEMORY_MB`). {_KEYS:,} keys."
    )
    return "\n".join(lines)


async def run(small: int, large: int, directory: Path) -> list[Figures]:
    """All backlogs, on one broker. Takes the core that is the contestants' in the field."""
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.shared})
    kafka = KafkaCluster(directory / "kafka")
    found = []
    try:
        await kafka.start()
        async with Feed(kafka.bootstrap) as feed:
            for kind, envelopes in (("envelopes", True), ("single records", False)):
                for events in (small, large):
                    figures = await measure(
                        kind, events, feed, kafka.bootstrap, directory, cores.measured, envelopes=envelopes
                    )
                    print(figures, flush=True)
                    found.append(figures)
                    await feed.delete(*await feed.topics_of("backlog"))
    finally:
        await kafka.stop()
    return found


def main() -> None:
    """Measure, print, write the section."""
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, help="of the large backlog; printed, not written")
    parser.add_argument("--directory", type=Path, help="keep logs and topics here")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="meterline-bench-"))
    occasion = f"`make bench-backlog`, {today()}: {machine()}; Apache Kafka on the same machine; {busy()}."
    try:
        found = asyncio.run(run(SMALL, options.events or LARGE, directory))
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    text = section(found, occasion)
    print(text)
    if options.events is None:
        write_section(TITLE, text)


if __name__ == "__main__":
    main()
