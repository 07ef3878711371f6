"""The floors and the peers: how each is started, and where the way it is set up comes from."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from decimal import Decimal
from typing import Any

import aiohttp

from bench.field import job
from bench.field.contestants import ENVIRONMENTS, Peer, PeerRunning
from bench.field.feeding import Feed
from bench.field.inputs import Place
from bench.field.judge import Found
from local.process import Child
from schemas.errors import BrokerError

_ASK_S = 0.1
"""Often enough for seconds, and next to nothing of its core."""
_COMPILED_S = 8.0
"""What a Java contestant is given to compile itself."""


class FaustRunning(PeerRunning):
    """Its totals are in its table, shown by its web view; what it has closed is in its topic."""

    async def totals(self) -> dict[Place, Found]:
        """What is closed has left the table."""
        found = await super().totals()
        async with aiohttp.ClientSession() as session:
            shown = await self._ask((), session)
        for told in shown:
            place = Place(told["key"], told["start"])
            held = found.get(place)
            if held is None or not held.closed:
                found[place] = Found(told["count"], Decimal(repr(told["sum"])), told["closed"])
        return found

    async def watch(self, subjects: Sequence[str]) -> AsyncGenerator[tuple[str, int], None]:
        """Asks again and again."""
        keys = {f"{subject}/{job.TYPES[0]}": subject for subject in subjects}
        async with aiohttp.ClientSession() as session:
            while True:
                for told in await self._ask(keys, session):
                    yield keys[told["key"]], told["count"]
                await asyncio.sleep(_ASK_S)

    async def _ask(self, keys: Iterable[str], session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/totals?keys={','.join(keys)}"
        try:
            async with session.get(url) as response:
                response.raise_for_status()
                found: list[dict[str, Any]] = await response.json()
                return found
        except aiohttp.ClientError as error:
            raise BrokerError(f"{self.child.name} does not show its table: {error}\n{self.child.tail()}") from error


class BatchRunning(PeerRunning):
    """Reads to the end of the topic, and ends. How far it is on the way nobody can see."""

    async def share(self, feed: Feed, records: int, events: int) -> float:
        """All or nothing."""
        return 1.0 if self.child.returncode == 0 else 0.0

    def check(self) -> None:
        """To end is right, with exit code 0."""
        if not self.child.running and self.child.returncode != 0:
            raise BrokerError(self.child.obituary())

    def children(self) -> Sequence[Child]:
        """None once it has ended."""
        return [self.child] if self.child.running else []


def _floor(mode: str, title: str, *, envelopes: bool) -> Peer:
    return Peer(
        name=f"floor-{mode}" + ("-envelopes" if envelopes else ""),
        title=title + (", envelopes" if envelopes else ""),
        settings="aiokafka `getmany`, 4 MB a partition, as meterline's own consumer; msgspec, typed, exact decimals",
        envelopes=envelopes,
        closes="",
        adds_up=False,
        command=(sys.executable, "-m", "bench.field.floor", mode),
    )


def _streams(name: str, title: str, store: str, *, deduplicates: bool) -> Peer:
    return Peer(
        name=name,
        title=title,
        settings="Kafka Streams 4.1 developer guide: `aggregate` on `TimeWindows.ofSizeAndGrace`, record cache 64 MB and "
        "`commit.interval.ms` 1 s for fresh running totals (memory-mgmt), `suppress(untilWindowCloses)` for the final ones"
        + ("; ids in a `KeyValueStore` of its own, changelog on" if deduplicates else ""),
        deduplicates=deduplicates,
        shows="output topic, at each commit",
        environ={"BENCH_STORE": store, "BENCH_DEDUPE": str(deduplicates).lower()},
        **_java("streams", "bench.Streams", ()),
    )


def _flink(name: str, title: str, *, deduplicates: bool) -> Peer:
    return Peer(
        name=name,
        title=title,
        settings="Flink 1.20 documents, DataStream API: event-time windows, `forBoundedOutOfOrderness`, hashmap state, object "
        "reuse, checkpoints to files every 5 s and kept; a trigger of its own shows running totals every second"
        + ("; ids in keyed state with a time to live" if deduplicates else ""),
        remarks="Started again at its last checkpoint, as its documents on externalized checkpoints say.",
        deduplicates=deduplicates,
        shows="output topic, every second",
        environ={"BENCH_DEDUPE": str(deduplicates).lower()},
        **_java("flink", "bench.Flink", _OPENED),
    )


# What Flink 1.20's own start script opens on Java 17 (conf/config.yaml, env.java.opts.all).
_OPENED = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.util",
        "java.time",
        "java.io",
        "java.net",
        "java.nio",
        "java.text",
        "sun.net.util",
    )
)


def _java(environment: str, main: str, options: tuple[str, ...]) -> dict[str, Any]:
    directory = ENVIRONMENTS / environment
    log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return {
        "warms_up_s": _COMPILED_S,
        "command": ("java", "-Xmx4g", *options, log, "-cp", f"{directory}/*", main),
        "needs": (
            ("java", "Java 17"),
            (str(directory / "complete"), f"what `make bench-peers` installs ({environment})"),
        ),
    }


def _python(environment: str, *arguments: str) -> dict[str, Any]:
    directory = ENVIRONMENTS / environment
    return {
        "command": (str(directory / "bin" / "python"), *arguments),
        "needs": ((str(directory / "complete"), f"what `make bench-peers` installs ({environment})"),),
    }


FLOORS = (
    _floor("fetch", "floor: fetch", envelopes=False),
    _floor("decode", "floor: fetch and decode", envelopes=False),
    _floor("fetch", "floor: fetch", envelopes=True),
    _floor("decode", "floor: fetch and decode", envelopes=True),
)
PEERS = (
    _streams("kafka-streams", "Kafka Streams, in memory", "memory", deduplicates=False),
    _streams("kafka-streams-rocksdb", "Kafka Streams, RocksDB", "rocksdb", deduplicates=False),
    _streams("kafka-streams-dedupe", "Kafka Streams, in memory, dedupe", "memory", deduplicates=True),
    _streams("kafka-streams-rocksdb-dedupe", "Kafka Streams, RocksDB, dedupe", "rocksdb", deduplicates=True),
    _flink("flink", "Flink, heap", deduplicates=False),
    _flink("flink-dedupe", "Flink, heap, dedupe", deduplicates=True),
    Peer(
        name="faust",
        title="stock Faust, windowed table",
        settings="Faust user guide: a tumbling table in memory, `relative_to_field`, changelog on, at least once, one record at "
        "a time; a web view shows the table",
        remarks="It closes windows by the machine's clock: after the kill they are due when all has long been read again.",
        closes="wall clock",
        about_per_s=3_000.0,
        shows="web view, asked every 100 ms",
        running=FaustRunning,
        **_python("faust", "-m", "bench.peers.faust_app", "worker", "-l", "warn"),
    ),
    Peer(
        name="quix",
        title="Quix Streams",
        settings='Quix Streams documents: `tumbling_window(…).agg(…).final(closing_strategy="partition")`, RocksDB with '
        "changelog, at least once, a checkpoint every 5 s",
        remarks="From event to total it runs with `current()`, which emits after every event: it has no running totals with "
        "`final()`.",
        about_per_s=20_000.0,
        shows="output topic, after every event",
        tells_early=False,
        **_python("quix", "-m", "bench.peers.quix"),
    ),
    Peer(
        name="bytewax",
        title="Bytewax",
        settings="Bytewax documents: `fold_window` with an `EventClock`, Kafka connector, recovery to SQLite every 5 s",
        remarks="Reads to the end of the topic, where every window closes: its clocks are per key and run on with the machine's, "
        "so a replay of the past closes nothing otherwise. No running totals. What its start takes is measured apart and "
        "taken off.",
        closes="its end",
        about_per_s=50_000.0,
        batch=True,
        running=BatchRunning,
        **_python("bytewax", "-m", "bench.peers.bytewax_flow"),
    ),
)
