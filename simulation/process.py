"""One worker process: production's `Worker` and sinks, in a shell that stands in for Faust.

The shell does what Faust's consumer and `streams/agents.py` do with a worker: join the group, tell it what is assigned, fetch
from the committed offset on, hand batches to it one by one per topic, tell it what is revoked, and end it when it asks to
start over. Batches that were fetched before a rebalance may come after it, as they do there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from schemas.errors import BrokerError, MeterlineError
from schemas.records import Batch
from simulation.broker import Link, Lost, SimulatedBroker
from simulation.cluster import Assignment, Place, Refused
from simulation.loop import HOST, Host
from streams.worker import Worker
from transport.membership import Membership

if TYPE_CHECKING:
    from simulation.world import World

HEARTBEAT_S = 4.0
FETCH_S = 7.0
"""How long a fetch that finds nothing waits, at most."""
BATCHES = (1, 2, 5, 20)
"""How many records a fetch brings, at most."""


class WallClock:
    """A worker's clock: the world's time, and this machine's error."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.skew_ms = 0

    def now_ms(self) -> int:
        """Wall clock, ms UTC."""
        return self._world.now_ms() + self.skew_ms

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return self._world.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        await asyncio.sleep(seconds)


class Process:
    """One incarnation of one worker. ends: the end of each partition as its last fetch saw it."""

    def __init__(self, world: World, number: int, incarnation: int) -> None:
        self.world = world
        self.number = number
        self.incarnation = incarnation
        self.name = f"w{number}.{incarnation}"
        self.host = Host(self.name)
        self.rng = random.Random(f"{world.seed}/{self.name}")
        self.clock = WallClock(world)
        self.ends: dict[Place, int] = {}
        self.leaving = False
        self._link = Link(self.rng, lambda: world.broker_is_down)
        self._member: str | None = None
        self._positions: dict[Place, int] = {}
        self._dropped: set[Place] = set()
        self._epoch = 0
        self._agents: dict[str, asyncio.Queue[tuple[Place, Batch]]] = {}
        self.worker = self._make_worker()

    @property
    def alive(self) -> bool:
        """Whether it is neither dead nor frozen."""
        return self.host.state == "running"

    def start(self) -> None:
        """Begins to live, in a context of its own."""
        context = Context()
        context.run(HOST.set, self.host)
        self._begin(self._main(), context)

    def kill(self, down_s: float) -> None:
        """SIGKILL; a supervisor starts the next incarnation after `down_s`."""
        if self.host.state != "dead":
            self.world.note(f"{self.name} is killed")
            self.host.kill()
            self.world.start_again(self, down_s)

    def freeze(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if self.alive:
            self.world.note(f"{self.name} is frozen")
            self.host.freeze()
            self.world.later(for_s, self.thaw)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.host.state == "frozen":
            self.world.note(f"{self.name} goes on")
            self.host.thaw(self.world.loop)

    def terminate(self, down_s: float) -> None:
        """SIGTERM: a last checkpoint, and it leaves."""
        if self.alive and not self.leaving:
            self.leaving = True
            self.world.note(f"{self.name} is told to end")
            context = Context()
            context.run(HOST.set, self.host)
            self._begin(self._end(down_s), context)

    def rejoin(self) -> None:
        """The group rebalances, this member being the cause."""
        if self._member is not None:
            self.world.cluster.group.leave(self._member)

    def drop_next_batch(self, place: Place) -> None:
        """What is fetched next is lost on its way to the worker."""
        self._dropped.add(place)

    def _make_worker(self) -> Worker:
        world = self.world
        broker = SimulatedBroker(self, world.cluster, self._link, self.rng)
        return world.observed_worker(self, broker, self._start_over, self._refuse)

    async def _main(self) -> None:
        while True:
            try:
                await self.worker.start()
                break
            except BrokerError:
                await asyncio.sleep(1.0)
        for topic in (self.worker.settings.usage_topic, self.worker.settings.partials_topic):
            self._agents[topic] = asyncio.Queue(maxsize=4)
            self._begin(self._agent(topic))
        while not self.leaving:
            try:
                await self._one_membership()
            except (Lost, Refused) as error:
                if isinstance(error, Refused):
                    self._member = None
                await asyncio.sleep(self.rng.uniform(0.1, 2.0))

    async def _one_membership(self) -> None:
        """From joining the group to the next rebalance."""
        group = self.world.cluster.group
        self._member, waiting = await self._link.ask(lambda: group.join(self._member))
        assignment = await waiting
        committed = await self._link.ask(lambda: {place: group.committed.get(place) for place in assignment.places})
        if self.leaving:
            return
        self._epoch += 1
        self._positions = {
            place: self.world.cluster.logs[place].begin if offset is None else offset
            for place, offset in committed.items()
        }
        self.ends = {}
        membership = Membership(self._epoch, assignment.generation, assignment.member)
        self.world.note(f"{self.name} has {sorted(assignment.places)} in generation {assignment.generation}")
        self.worker.assigned(assignment.places, membership)
        fetching = self._begin(self._fetch_all(self._epoch))
        try:
            await self._heartbeats(assignment)
        finally:
            self._epoch += 1
            fetching.cancel()
            self._positions = {}
            self.ends = {}
            if not self.leaving:
                await self.worker.revoked()

    async def _heartbeats(self, assignment: Assignment) -> None:
        """Returns when the group rebalances."""
        group = self.world.cluster.group
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                if not await self._link.ask(lambda: group.heartbeat(assignment.member, assignment.generation)):
                    return
            except Refused:
                self._member = None
                return
            except Lost:
                continue

    async def _fetch_all(self, epoch: int) -> None:
        """Fetch after fetch, of every partition at once; what one brings waits for its topic's agent."""
        while True:
            found = self._fetch()
            await asyncio.sleep(self.rng.uniform(0.002, 0.05))
            if self._epoch != epoch:
                return
            for place, (end, batch) in found.items():
                if self.world.broker_is_down or self._positions[place] != batch.start:
                    continue  # sought elsewhere while it was under way
                self.ends[place] = end
                if batch.records:
                    self._positions[place] = batch.end
                    if place in self._dropped:
                        self._dropped.discard(place)
                        continue
                    await self._agents[place[0]].put((place, batch))
                    if self._epoch != epoch:
                        return
            if not any(batch.records for _, batch in found.values()):
                await asyncio.sleep(self.rng.uniform(0.2, FETCH_S))

    def _fetch(self) -> dict[Place, tuple[int, Batch]]:
        """Per partition its end, and what is there from the position on, in an order of chance."""
        takes, paused = self.worker.takes, self.world.is_paused
        places = [place for place in self._positions if takes(*place) and not paused(place)]
        self.rng.shuffle(places)
        found = {}
        for place in places:
            log = self.world.cluster.logs[place]
            # Out of range: aiokafka begins anew at the earliest, and the batch says where that is.
            start = self._positions[place] = max(self._positions[place], log.begin)
            records = log.read(start, log.end, self.rng.choice(BATCHES))
            found[place] = log.end, Batch(start, records[-1].offset + 1 if records else start, records)
        return found

    async def _agent(self, topic: str) -> None:
        queue = self._agents[topic]
        while True:
            place, batch = await queue.get()
            if self.rng.random() < 0.15:  # Faust's own buffers: what lies there over a rebalance comes after it
                await asyncio.sleep(self.rng.uniform(0.1, 6.0))
            await self.worker.offer(*place, batch)

    def _start_over(self, why: str) -> None:
        self.world.started_over(self.name, why)
        if not self.leaving:
            self.leaving = True
            self._begin(self._begin_anew())

    def _begin(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """A task of this process. What it raises ends the story: nobody else would hear of it."""
        task: asyncio.Task[None] = self.world.loop.create_task(work, context=context)
        task.add_done_callback(self._ended, context=context)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.failed(self.name, error)

    def _refuse(self, error: MeterlineError) -> None:
        self.world.refused(self.name, error)

    async def _leave(self) -> None:
        group, member = self.world.cluster.group, self._member
        if member is not None:
            try:
                await asyncio.wait_for(self._link.ask(lambda: group.leave(member)), 5.0)
            except (Lost, TimeoutError):
                self.world.note(f"{self.name} could not leave")

    async def _begin_anew(self) -> None:
        """As `streams/start_over.py`: leave, wait, replace the process image; until then everything of it goes on."""
        await self._leave()
        await asyncio.sleep(self.rng.uniform(0.2, 4.0))
        self.kill(0.0)

    async def _end(self, down_s: float) -> None:
        await self.worker.stop()
        await self._leave()
        self.kill(down_s)
