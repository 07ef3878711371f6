"""How soon a worker is ready again: `make bench-recovery`, results in `bench/RESULTS.md`, section Recovery.

For each size, on one Apache Kafka:

1. a real worker meters so many events, each with a subject × meter × window of its own, until both stages hold them all:
   that many partials and known ids in METERING, that many open windows in CLOSING, over 4 + 4 partitions;
2. SIGTERM: it leaves its last checkpoint. What lies in the changelogs now is what its checkpoints and snapshots wrote;
3. the floor: a process that only fetches the bytes that recovery will read (`bench/fetching.py`);
4. a new worker: from its start until `/readyz` says 200, with `/healthz` asked all the while; then what it holds is
   compared with what was sent.

The start without state (imports, Kafka's group) is measured too, and taken off where a figure is per key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from bench.processes import Cost, cost
from bench.results import busy, machine, table, today, write_section
from local.kafka import KafkaCluster
from local.process import Child
from local.stack import Stack
from local.topics import ensure_topics
from local.workers import WorkerProcess, ports
from schemas.errors import BrokerError
from schemas.hashing import partition_for
from schemas.times import format_rfc3339
from settings import Settings
from transport.sending import UsageProducer

SIZES = (0, 10_000, 100_000, 1_000_000)
PARTITIONS = 4
ENVELOPE = 250
STALLED_S = 60.0
"""Give up when nothing has moved for so long."""
_AGGREGATIONS = ("sum", "count", "sum", "min", "max", "avg", "latest", "sum")
_POLL_S = 0.02
_COLUMNS = [
    "keys",
    "changelog MB",
    "ready s",
    "CPU s",
    "µs a key",
    "CPU µs a key",
    "CPU, times the floor's",
    "peak MB",
    "/healthz ms",
    "shares told",
    "floor s",
    "SIGTERM s",
]


@dataclass(frozen=True, slots=True)
class Figures:
    """One size. floor_*: of fetching alone. health_ms: the longest that `/healthz` took while it restored.

    told: how many different `restoring n %` of its partitions `/readyz` gave on the way.
    """

    keys: int
    stopped_s: float
    size_mb: float
    floor_s: float
    floor_cpu_s: float
    ready_s: float
    cost: Cost
    health_ms: float
    told: int


def write_meters(directory: Path) -> Path:
    """A meters file of eight meters whose windows stay open while a benchmark runs, whatever the hour."""
    lines = ["stream: { correct_for: P1D }", "meters:"]
    for number, aggregation in enumerate(_AGGREGATIONS):
        read = "" if aggregation == "count" else ", value: /quantity"
        lines.append(
            f"  - {{ slug: meter_{number}, unit: units, event_type: bench.{number}, aggregation: {aggregation}{read}, "
            "group_by: { region: /region }, windows: [PT1H], grace: PT12H }"
        )
    directory.mkdir(parents=True)
    path = directory / "meters.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def usage(keys: int, time_ms: int) -> Iterator[tuple[int, bytes]]:
    """Partition and envelope of so many events, no two of which share a window."""
    waiting: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
    time_text = format_rfc3339(time_ms)
    for number in range(keys):
        subject, meter = divmod(number, len(_AGGREGATIONS))
        tenant = f"tenant-{subject:08d}"
        envelope = waiting[partition_for(tenant, PARTITIONS)]
        envelope.append(
            {
                "specversion": "1.0",
                "id": f"{number:08d}-7b0c-4f3e-9d2a-5e1f60718293",
                "source": "/bench/recovery",
                "type": f"bench.{meter}",
                "subject": tenant,
                "time": time_text,
                "data": {"quantity": number % 1000 + 0.25, "region": ("westeurope", "eastus2")[subject % 2]},
            }
        )
        if len(envelope) == ENVELOPE:
            yield partition_for(tenant, PARTITIONS), orjson.dumps(envelope)
            envelope.clear()
    for partition, envelope in enumerate(waiting):
        if envelope:
            yield partition, orjson.dumps(envelope)


async def measure(keys: int, kafka: KafkaCluster, directory: Path) -> Figures:
    """One size, on topics of its own."""
    meters_file = write_meters(directory)
    names = {f"{name}_topic": f"{name}-{keys}".replace("_", "-") for name in _TOPICS}
    base = replace(
        Settings(app_id=f"recovery-{keys}", kafka_bootstrap=kafka.bootstrap, log_level="INFO"),
        meters=str(meters_file),
        **names,  # type: ignore[arg-type]
    )
    await ensure_topics(base, PARTITIONS, PARTITIONS)
    async with Stack(directory / "stack", only=("broker", "servicebus"), kafka=kafka.bootstrap, base=base) as stack:
        writer, reader = (WorkerProcess(stack, number, port) for number, port in enumerate(ports(2), start=1))
        async with _Running(writer):
            async with UsageProducer(stack.settings) as producer:
                for partition, envelope in usage(keys, int(time.time() * 1000)):
                    await producer.send(partition, b"bench", envelope)
                await producer.flush()
            await writer.serving()
            await _holds(writer, keys)
            stopping_s = time.monotonic()
            writer.process.signal(signal.SIGTERM)
            code = await asyncio.wait_for(writer.process.exited(), STALLED_S)
            assert code == 0, writer.process.obituary()
            stopped_s = time.monotonic() - stopping_s
        floor = await _floor(stack, directory)
        began_s = time.monotonic()
        async with _Running(reader):
            health_ms, told = await _ready(reader)
            ready_s, spent = time.monotonic() - began_s, cost(reader.process.pid)
            await _holds(reader, keys)
    return Figures(
        keys,
        stopped_s,
        floor["bytes"] / 1e6,
        floor["wall_s"],
        floor["cpu_s"],
        ready_s,
        spent,
        health_ms,
        told,
    )


class _Running:
    """A worker that is started on entry and gone on exit."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    async def __aenter__(self) -> WorkerProcess:
        await self._worker.start()
        return self._worker

    async def __aexit__(self, *_: object) -> None:
        await self._worker.stop()


async def _ready(worker: WorkerProcess) -> tuple[float, int]:
    """Returns when `/readyz` says 200: the longest that `/healthz` took meanwhile, ms, and how many different shares of a
    recovery `/readyz` told before. No answer at all yet does not count."""
    longest_s = 0.0
    told: set[str] = set()
    timeout = aiohttp.ClientTimeout(total=STALLED_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            if not worker.process.running:
                raise BrokerError(worker.process.obituary())
            try:
                asked_s = time.monotonic()
                async with session.get(worker.url + "/healthz") as response:
                    response.raise_for_status()
                longest_s = max(longest_s, time.monotonic() - asked_s)
                async with session.get(worker.url + "/readyz") as response:
                    if response.status == 200:
                        return longest_s * 1000, len(told)
                    told.update(reason for reason in (await response.json())["reasons"] if " restoring " in reason)
            except aiohttp.ClientError:  # it does not listen yet
                pass
            await asyncio.sleep(_POLL_S)


async def _holds(worker: WorkerProcess, keys: int) -> None:
    """Returns when both stages hold exactly so many keys. Raises BrokerError when they stop coming."""
    seen, since_s = (-1, -1, -1), time.monotonic()
    while True:
        try:
            status = (await worker.get("/v1/status?local=1"))["status"]
        except BrokerError as error:
            raise BrokerError(f"{error}\n{worker.process.tail()}") from None
        sums = (
            sum(task["partials"] for task in status["metering"].values()),
            sum(task["ids"] for task in status["metering"].values()),
            sum(task["windows_open"] for task in status["closing"].values()),
        )
        if sums == (keys, keys, keys):
            return
        if sums != seen:
            seen, since_s = sums, time.monotonic()
        elif time.monotonic() - since_s > STALLED_S:
            raise BrokerError(f"{sums} partials, ids and windows of {keys}, and nothing moves\n{worker.process.tail()}")
        await asyncio.sleep(0.2)


async def _floor(stack: Stack, directory: Path) -> dict[str, float]:
    child = Child(
        "floor", [sys.executable, "-m", "bench.fetching"], log=directory / "floor.log", environ=stack.environment
    )
    await child.start()
    if await child.exited():
        raise BrokerError(child.obituary())
    figures: dict[str, float] = json.loads(child.log.read_text().splitlines()[-1])
    return figures


_TOPICS = ("usage", "partials", "metering_state", "closing_state", "dead_letters")


def report(found: list[Figures], load: str) -> str:
    """The section: a table, and what its columns mean."""
    empty = next((figures for figures in found if figures.keys == 0), None)
    rows = [_row(figures, empty) for figures in found]
    return f"""`make bench-recovery`, {today()}: {machine()}; Apache Kafka on the same machine; {load}.

{table(_COLUMNS, rows)}

One worker process restores METERING ({PARTITIONS} partitions: so many partials, and as many known ids) and CLOSING
({PARTITIONS} partitions: as many open windows). changelog: what recovery reads of both. ready: from the start of the
process to the first 200 of `/readyz`; the row of 0 keys is what a start takes anyway, and is taken off from the figures per
key. /healthz: its longest answer meanwhile; shares told: how many different "restoring n %" `/readyz` gave. floor: a process
of its own that fetches the same bytes and decodes nothing. SIGTERM: how long the worker that had written the state took to
end, its last checkpoint included.
"""


def _row(f: Figures, empty: Figures | None) -> list[str]:
    shares = ("", "", "")
    if f.keys and empty is not None:
        own_s, own_cpu_s = f.ready_s - empty.ready_s, f.cost.cpu_s - empty.cost.cpu_s
        shares = (f"{own_s / f.keys * 1e6:.1f}", f"{own_cpu_s / f.keys * 1e6:.1f}", f"{own_cpu_s / f.floor_cpu_s:.1f}")
    figures = [f"{f.keys:,}", f"{f.size_mb:.1f}", f"{f.ready_s:.1f}", f"{f.cost.cpu_s:.1f}", *shares]
    return [
        *figures,
        f"{f.cost.peak_mb:.0f}",
        f"{f.health_ms:.0f}",
        str(f.told),
        f"{f.floor_s:.1f}",
        f"{f.stopped_s:.1f}",
    ]


async def run(sizes: tuple[int, ...], directory: Path) -> list[Figures]:
    """All sizes, on one broker."""
    kafka = KafkaCluster(directory / "kafka")
    try:
        await kafka.start()
        found = []
        for keys in sizes:
            found.append(await measure(keys, kafka, directory / f"keys-{keys}"))
            print(found[-1], flush=True)
        return found
    finally:
        await kafka.stop()


def main() -> None:
    """Measure, print, write the section. `--keys` tries sizes out, and writes nothing."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", help="other sizes than the published ones; only printed")
    parser.add_argument("--directory", type=Path, help="keep logs and topics here")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="meterline-bench-"))
    load = busy()
    try:
        text = report(asyncio.run(run(tuple(options.keys or SIZES), directory)), load)
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    print(text)
    if not options.keys:
        write_section("Recovery", text)


if __name__ == "__main__":
    main()
