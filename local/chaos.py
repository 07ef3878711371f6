"""The road of `local/once.py` while its workers and servers are killed, frozen, restarted and rescaled.

`Chaos` carries a plan of misfortunes out on real processes, and is their supervisor: what it kills it starts again; what
ends by itself is noted, since nothing here may. It does not know what must come of it all: that is judged at the end, as
ever, by a ledger that has only seen the log.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import yaml

from local.checking import Mismatch
from local.flow import Flow
from local.misfortunes import FIRST_WORKERS, Misfortune, plan
from local.once import Options, Report, once
from local.reading import Rules
from local.stack import Stack
from local.workers import Fleet, WorkerProcess
from schemas.errors import BrokerError, MeterlineError
from settings import Settings

PATIENCE_S = 90.0
"""How long to wait for a server to answer again, or for the group to notice that a worker is frozen."""
MOST_ENDED = 5
"""How often workers may end by themselves until there is no use in going on; once is a failure already."""
_POLL_S = 0.1
_PARTS = {"kill Service Bus": "servicebus", "kill Cosmos DB": "cosmos"}


class KillableBroker(Protocol):
    """A broker that keeps its log on disk (`local.kafka.KafkaCluster`)."""

    async def kill(self) -> None:
        """SIGKILL."""

    async def start(self) -> None:
        """Starts it again with its log; returns once it answers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. planned, survived: kind of misfortune -> how often."""

    report: Report
    planned: Counter[str]
    survived: Counter[str]

    @property
    def good(self) -> bool:
        """Every number equals the ledger's."""
        return self.report.good

    @property
    def kills(self) -> int:
        """How many `kill -9` there were."""
        return sum(count for what, count in self.survived.items() if what.startswith("kill"))

    def sentence(self) -> str:
        """All of it in one line, for people."""
        report, court = self.report, self.report.court
        kinds = ", ".join(f"{what} × {count}" for what, count in sorted(self.survived.items()))
        again = f"{court.copies} usage records and {report.copies} messages came twice, the same"
        ticks = f", {court.ticks} ticks ({court.zombie_ticks} of zombies)" if court.ticks else ""
        return (
            f"{self.kills} kills survived ({kinds}); {report.numbers['counted']} events counted in "
            f"{report.numbers['windows_closed']} windows, {report.numbers['revisions']} revisions; {again}{ticks}; "
            f"{len(report.mismatches)} mismatches"
        )


async def chaos(
    options: Options,
    base: Settings,
    seed: int,
    seconds: float,
    tell: Callable[[str], None],
    broker: KillableBroker | None = None,
) -> Verdict:
    """Runs it all: `seconds` of usage and the misfortunes of a seed, then everything is compared.

    options: their `workers` is where the plan begins. tell: told what happens, with the seconds since usage began to flow.
    Raises MeterlineError where something does not come back; nothing is left running in any case.
    """
    over = asyncio.Event()
    rules = Rules.of(yaml.safe_load(options.meters.read_text()))
    flow = Flow(rules, seed, seconds, over, on_time=options.max_delay != "none")
    misfortunes = plan(seed, seconds, broker=broker is not None)
    befalling = Chaos(misfortunes, over, lambda: flow.share, tell, broker)
    report = await once(replace(options, workers=FIRST_WORKERS), base, flow, tell, meanwhile=befalling.run)
    ended = [Mismatch("worker", "ended by itself", "never", how) for how in befalling.ended]
    if ended:
        report = replace(report, mismatches=[*report.mismatches, *ended])
    return Verdict(report, Counter(misfortune.what for misfortune in misfortunes), befalling.survived)


class Chaos:
    """Carries out a plan; `run` is a `Meanwhile`. over: set when it is through. share: how much of the usage was sent so far.

    survived: kind of misfortune -> how often. ended: how workers ended that nobody ended.
    """

    def __init__(
        self,
        misfortunes: Sequence[Misfortune],
        over: asyncio.Event,
        share: Callable[[], float],
        tell: Callable[[str], None],
        broker: KillableBroker | None = None,
    ) -> None:
        self.survived: Counter[str] = Counter()
        self.ended: list[str] = []
        self._plan = misfortunes
        self._over = over
        self._share = share
        self._tell = tell
        self._broker = broker
        self._victims: set[WorkerProcess] = set()
        self._servers: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, stack: Stack, fleet: Fleet) -> None:
        """Everything of the plan, each at its moment; returns when every worker serves again.

        Raises MeterlineError where something does not come back.
        """
        supervising = asyncio.create_task(self._supervise(fleet))
        befalling = asyncio.create_task(self._carry_out(stack, fleet))
        try:
            await asyncio.wait({supervising, befalling}, return_when=asyncio.FIRST_COMPLETED)
            await (supervising if supervising.done() else befalling)
            self._tell("everything is up again")
        finally:
            self._over.set()
            for task in (supervising, befalling):
                task.cancel()
            await asyncio.gather(supervising, befalling, return_exceptions=True)

    async def _carry_out(self, stack: Stack, fleet: Fleet) -> None:
        going_on: list[asyncio.Task[None]] = []
        try:
            for misfortune in self._plan:
                while self._share() < misfortune.at:  # noqa: ASYNC110 - a share sets no event
                    await asyncio.sleep(_POLL_S)
                going_on.append(asyncio.create_task(self._befall(misfortune, stack, fleet)))
            await asyncio.gather(*going_on)
            await asyncio.gather(*(worker.serving() for worker in fleet.up))
        finally:
            for task in going_on:
                task.cancel()
            await asyncio.gather(*going_on, return_exceptions=True)

    async def _befall(self, misfortune: Misfortune, stack: Stack, fleet: Fleet) -> None:
        match misfortune.what:
            case "kill worker":
                async with self._one_of(fleet, misfortune.number) as worker:
                    self._tell(f"kill -9 of {worker.process.name}, for {misfortune.lasts_s:.1f} s")
                    await worker.process.kill()
                    await asyncio.sleep(misfortune.lasts_s)
                    await worker.start()
            case "freeze worker":
                async with self._one_of(fleet, misfortune.number) as worker:
                    await self._freeze(worker, fleet, misfortune.lasts_s)
            case "kill Service Bus" | "kill Cosmos DB":
                async with self._servers[misfortune.what]:  # killed again only once it is back
                    await self._kill_part(stack, misfortune.what, misfortune.lasts_s)
            case "kill broker":
                async with self._servers[misfortune.what]:  # killed again only once it is back
                    await self._kill_broker(misfortune.lasts_s)
            case "rolling restart":
                await self._restart(fleet)
            case "scale":
                await self._scale(fleet, misfortune.number)
        self.survived[misfortune.what] += 1

    async def _freeze(self, worker: WorkerProcess, fleet: Fleet, lasts_s: float) -> None:
        """Past its session: until the group has given its partitions to others. Then it goes on as if nothing had been."""
        name = worker.process.name
        self._tell(f"SIGSTOP of {name}")
        worker.process.signal(signal.SIGSTOP)
        try:
            await _until(lambda: self._without(worker, fleet), f"the group gives up the frozen {name}")
            await asyncio.sleep(lasts_s)
        finally:
            worker.process.signal(signal.SIGCONT)
        self._tell(f"SIGCONT of {name}, whose partitions are with others")

    async def _without(self, worker: WorkerProcess, fleet: Fleet) -> bool:
        """Whether another worker says that the group is whole without this one."""
        for other in fleet.up:
            if other not in self._victims:
                try:
                    status = await other.get("/v1/status")
                except MeterlineError:
                    continue
                known = {entry["worker"] for entry in status["workers"]}
                return other.url in known and worker.url not in known and not any(status["missing"].values())
        return False

    async def _kill_part(self, stack: Stack, what: str, lasts_s: float) -> None:
        part = _PARTS[what]
        self._tell(f"kill -9 of {part}, for {lasts_s:.1f} s")
        await stack.kill(part)
        await asyncio.sleep(lasts_s)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                await stack.restart(part)
                return
            except BrokerError:  # Service Bus cannot start while the broker behind its event hub is away
                if time.monotonic() > deadline_s:
                    raise

    async def _kill_broker(self, lasts_s: float) -> None:
        assert self._broker is not None, "a plan with a broker needs one"
        self._tell(f"kill -9 of the broker, for {lasts_s:.1f} s")
        await self._broker.kill()
        await asyncio.sleep(lasts_s)
        await self._broker.start()

    async def _restart(self, fleet: Fleet) -> None:
        """One after the other, in order: SIGTERM, start, and the next once it serves."""
        self._tell(f"rolling restart of {len(fleet.up)} workers")
        for worker in list(fleet.up):
            async with self._held(worker):
                if worker in fleet.up:
                    await self._end(worker)
                    await worker.start()
                    await worker.serving()

    async def _scale(self, fleet: Fleet, count: int) -> None:
        """More: started, until they serve. Fewer: the newest are ended in order."""
        self._tell(f"scale from {len(fleet.up)} to {count} workers")
        for worker in fleet.up[count:]:
            async with self._held(worker):
                fleet.up.remove(worker)
                await self._end(worker)
        await fleet.scale(count)
        self._tell(f"{count} workers")

    async def _end(self, worker: WorkerProcess) -> None:
        """SIGTERM, after which it must end by itself, whatever it was at and whatever is away."""
        await worker.stop()
        if worker.process.returncode == -signal.SIGKILL:
            self.ended.append(f"not in order, on SIGTERM: {worker.process.obituary()}")

    async def _supervise(self, fleet: Fleet) -> None:
        """Starts again what has ended, as a supervisor would, and notes that it did. Raises BrokerError for too much of that."""
        while True:
            for worker in fleet.up:
                if worker not in self._victims and not worker.process.running:
                    self._tell(f"{worker.process.name} has ended by itself")
                    self.ended.append(worker.process.obituary())
                    if len(self.ended) > MOST_ENDED:
                        raise BrokerError(self.ended[-1])
                    await worker.start()
            await asyncio.sleep(_POLL_S)

    @asynccontextmanager
    async def _one_of(self, fleet: Fleet, number: int) -> AsyncIterator[WorkerProcess]:
        """One of the workers that nothing is happening to, once there is one."""
        while not (free := [worker for worker in fleet.up if worker not in self._victims]):  # noqa: ASYNC110 - asked by few
            await asyncio.sleep(_POLL_S)
        worker = free[number % len(free)]
        async with self._held(worker):
            yield worker

    @asynccontextmanager
    async def _held(self, worker: WorkerProcess) -> AsyncIterator[None]:
        """Nothing else happens to it meanwhile."""
        while worker in self._victims:  # noqa: ASYNC110 - as above
            await asyncio.sleep(_POLL_S)
        self._victims.add(worker)
        try:
            yield
        finally:
            self._victims.discard(worker)


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not await condition():
        if time.monotonic() > deadline_s:
            raise BrokerError(f"not within {PATIENCE_S:.0f} s: {what}")
        await asyncio.sleep(_POLL_S)
