"""Who takes part, how each is started, and how it is asked what it has counted.

A contestant is a process of its own on one core. It is told where in its environment (`bench/field/job.py`), commits how
far it has come to its consumer group, and writes totals to a topic; `bench/field/meterline.py` is the one that is asked
over HTTP instead. `settings` says where the way it is set up comes from; `remarks` what has to be known to read its figures.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import orjson

from bench.field import job
from bench.field.feeding import Feed, follow, read
from bench.field.inputs import Place
from bench.field.judge import Found
from bench.processes import cost_of_all, cpu_of_all
from local.ports import free_port
from local.process import Child
from schemas.errors import BrokerError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".cache" / "bench"
"""The peers' own environments and classes, made by `make bench-peers`."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where one run takes place. core: the contestant's, another than the broker's. name: new for each run.

    end_ms: the end of all windows. running_totals: they are wanted, if need be instead of closed windows. closes_in_s: when
    a contestant that closes by the machine's clock is to do so.
    """

    bootstrap: str
    directory: Path
    name: str
    core: int
    end_ms: int
    running_totals: bool = False
    closes_in_s: float = 86_400.0

    @property
    def usage(self) -> str:
        """The topic that is metered."""
        return f"usage-{self.name}"

    @property
    def out(self) -> str:
        """The topic of totals."""
        return f"totals-{self.name}"


class Running(ABC):
    """A contestant that was started. Costs are those of its own processes alone, over all its lives."""

    where: Where

    @abstractmethod
    def children(self) -> Sequence[Child]:
        """Its processes that are up."""

    @abstractmethod
    async def start(self) -> None:
        """Start, or start again after `kill`; returns at once."""

    @abstractmethod
    async def share(self, feed: Feed, records: int, events: int) -> float:
        """How much of so many records, or events, it has counted and will not read again after a crash; 1 is all."""

    async def settled(self, feed: Feed, records: int, events: int) -> float:
        """The same, where it only matters when it is all: a contestant may be asked less of."""
        return await self.share(feed, records, events)

    @abstractmethod
    async def told(self, feed: Feed) -> int:
        """A number that grows for as long as it has something new to show."""

    @abstractmethod
    async def totals(self) -> dict[Place, Found]:
        """What it shows now."""

    @abstractmethod
    def watch(self, subjects: Sequence[str]) -> AsyncGenerator[tuple[str, int], None]:
        """(subject, count) as soon as it can be seen, for ever."""

    async def prepare(self, feed: Feed) -> None:
        """Topics, and what else has to be there before it starts."""
        await feed.create(self.where.usage, self.where.out)

    async def stop(self) -> None:
        """Ends it, and what was started for it."""
        for child in self.children():
            await child.stop(10)

    async def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        for child in self.children():
            await child.kill()

    def signal(self, number: int) -> None:
        """To all its processes."""
        for child in self.children():
            child.signal(number)

    def check(self) -> None:
        """Raises BrokerError with the end of its log where it has ended by itself."""
        for child in self.children():
            if not child.running:
                raise BrokerError(child.obituary())

    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_of_all(child.pid for child in self.children())

    def peak_mb(self) -> float:
        """The most memory so far."""
        return cost_of_all(child.pid for child in self.children()).peak_mb


@dataclass(frozen=True)
class Contestant(ABC):
    """One row of the field.

    settings: where the way it is set up comes from. remarks: what has to be known to read its figures. envelopes: reads
    arrays of events. deduplicates: by (source, id). closes: by what it says that a window is final: "event time", "wall
    clock" or "its end"; empty: never. batch: ends by itself at the end of the input. shows: how its running totals are
    seen; empty where it has none. tells_early: whether it tells of a window before that closes, not only where it is asked
    to (`Where.running_totals`). adds_up: whether it has totals at all. warms_up_s: CPU time that it needs
    before its figures are its own, however short the run. about_per_s: how many events it takes per CPU-second, about, where no
    earlier run says it.
    """

    name: str
    title: str
    settings: str
    remarks: str = ""
    envelopes: bool = False
    deduplicates: bool = False
    closes: str = "event time"
    batch: bool = False
    shows: str = ""
    tells_early: bool = True
    adds_up: bool = True
    warms_up_s: float = 0.0
    about_per_s: float = 60_000.0

    @abstractmethod
    def lacks(self) -> str | None:
        """What this machine lacks to run it, or None."""

    @abstractmethod
    def on(self, where: Where) -> Running:
        """Ready to start there."""


@dataclass(frozen=True)
class Peer(Contestant):
    """A process that speaks Kafka alone."""

    command: tuple[str, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    """(a program or file, what to do where it is not there)."""
    environ: Mapping[str, str] = field(default_factory=dict)
    running: type[PeerRunning] | None = None

    def lacks(self) -> str | None:
        """The first thing that is not there."""
        for name, what in self.needs:
            if not (Path(name).exists() if "/" in name else shutil.which(name)):
                return what
        return None

    def on(self, where: Where) -> Running:
        """Ready to start there."""
        return (self.running or PeerRunning)(self, where)


class PeerRunning(Running):
    """See `Running`. Its totals are the last records of its topic, by key and start."""

    def __init__(self, peer: Peer, where: Where) -> None:
        self.where = where
        state = where.directory / where.name
        state.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        environ = {
            job.BOOTSTRAP: where.bootstrap,
            job.USAGE: where.usage,
            job.OUT: where.out,
            job.GROUP: where.name,
            job.STATE: str(state),
            job.PORT: str(self.port),
            job.RUNNING_TOTALS: str(where.running_totals).lower(),
            job.END: str(where.end_ms / 1000),
            job.CLOSES_IN: str(where.closes_in_s),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **peer.environ,
        }
        self.child = Child(peer.title, pinned(peer.command, where.core), log=state / "output.log", environ=environ)

    def children(self) -> Sequence[Child]:
        """One."""
        return [self.child]

    async def start(self) -> None:
        """Start the process."""
        await self.child.start()

    async def share(self, feed: Feed, records: int, events: int) -> float:
        """What its group has committed."""
        return await feed.committed(self.where.name, self.where.usage) / records

    async def told(self, feed: Feed) -> int:
        """Records in its topic."""
        return await feed.ends(self.where.out)

    async def totals(self) -> dict[Place, Found]:
        """A total that was closed stays what it was closed with, until it is closed again."""
        found: dict[Place, Found] = {}
        async for record in read(self.where.bootstrap, self.where.out):
            told = orjson.loads(record.value)
            place = Place(told["key"], told["start"])
            held = found.get(place)
            if held is None or told["closed"] or not held.closed:
                found[place] = Found(told["count"], Decimal(repr(told["sum"])), told["closed"])
        return found

    async def watch(self, subjects: Sequence[str]) -> AsyncGenerator[tuple[str, int], None]:
        """Reads its topic as it grows."""
        keys = {f"{subject}/{job.TYPES[0]}".encode(): subject for subject in subjects}
        async for records in follow(self.where.bootstrap, self.where.out):
            for record in records:
                if record.key in keys:
                    yield keys[record.key], orjson.loads(record.value)["count"]


def pinned(command: Sequence[str], core: int) -> list[str]:
    """The command, on one core."""
    return ["taskset", "-c", str(core), *command]
