"""What stands in for `transport/`: a worker's connection to the simulated cluster, effect by effect.

Every effect has a number in the story, and a placed fault may befall it. A request travels, is applied at the cluster in one
moment, and its answer travels back; a process that is killed or frozen meanwhile does not hold up what is under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.errors import BrokerError, CommitRefused, ConfigurationError, SendFailed
from schemas.records import Out
from simulation.cluster import Cluster, Refused
from simulation.plan import Fault
from tables.effects import Commit, Effect, Produce, ReadBounds, ReadCommitted, ReadLog
from transport.membership import Membership
from transport.throttling import Throttling

if TYPE_CHECKING:
    from simulation.process import Process

T = TypeVar("T")
WORLD = Context()
"""What runs in it belongs to no process."""
TIMEOUT_S = (2.0, 12.0)
"""How long a client waits for an answer that does not come."""


class Lost(Exception):
    """There is no answer: nobody knows whether it happened."""


class Link:
    """The network between one process and the cluster. down: whether the cluster answers nobody now."""

    def __init__(self, rng: random.Random, down: Callable[[], bool]) -> None:
        self._rng = rng
        self._down = down

    async def ask(self, apply: Callable[[], T], fate: str = "kept") -> T:
        """What `apply` returns or raises at the cluster. Raises Lost where the request or its answer is lost."""
        rng, loop = self._rng, asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        timeout_s = rng.uniform(*TIMEOUT_S)

        def arrive() -> None:
            if self._down():
                loop.call_later(timeout_s, _set_error, answer, Lost(), context=WORLD)
                return
            try:
                result = apply()
            except Exception as error:
                loop.call_later(rng.uniform(0.001, 0.03), _set_error, answer, error, context=WORLD)
                return
            if fate == "kept":
                loop.call_later(rng.uniform(0.001, 0.03), _set_result, answer, result, context=WORLD)

        if fate != "lost":
            travel_s = rng.uniform(5, 90) if fate == "late" else rng.uniform(0.001, 0.05)
            loop.call_later(travel_s, arrive, context=WORLD)
        if fate != "kept":
            loop.call_later(timeout_s, _set_error, answer, Lost(), context=WORLD)
        return await answer


class SimulatedBroker:
    """See `streams.worker.Broker`."""

    def __init__(self, process: Process, cluster: Cluster, link: Link, rng: random.Random) -> None:
        self.process = process
        self.cluster = cluster
        self.link = link
        self.rng = rng
        self.throttling = Throttling()

    async def start(self) -> None:
        """Connects: raises BrokerError while the cluster is down."""
        await self.ask(lambda: None)

    async def stop(self) -> None:
        """Nothing to let go."""

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        if topic not in self.cluster.topics:
            raise ConfigurationError(f"topic {topic!r} does not exist")
        return await self.ask(lambda: self.cluster.topics[topic])

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int]:
        """Nobody publishes over HTTP here."""
        raise NotImplementedError("usage of a story is put into its log: nobody publishes over HTTP")

    def performer(self, topic: str, partition: int, membership: Membership) -> SimulatedPerformer:
        """Performs the effects of one source partition under one membership."""
        return SimulatedPerformer(self, topic, partition, membership)

    async def ask(self, apply: Callable[[], T], fate: str = "kept") -> T:
        """Raises BrokerError where there is no answer."""
        try:
            return await self.link.ask(apply, fate)
        except Lost:
            raise BrokerError("the broker did not answer") from None


class SimulatedPerformer:
    """See `streams.tasks.Performer`."""

    def __init__(self, broker: SimulatedBroker, topic: str, partition: int, membership: Membership) -> None:
        self._broker = broker
        self._place = (topic, partition)
        self._partition = partition
        self._membership = membership

    async def perform(self, effect: Effect) -> object:
        """The effect's result, after its time, or what befell it."""
        process = self._broker.process
        number, fault = process.world.next_effect(process.name, effect, self._place)
        if isinstance(effect, Produce) and effect.records[0].topic == process.worker.settings.usage_topic:
            task = process.worker.metering.get(self._partition)
            if task is not None:
                process.world.judged(process.world.judge.ticked, self._partition, task.position, task.end)
        if fault is not None and fault.kind == "crash_before":
            process.kill(fault.for_s)
            await asyncio.get_running_loop().create_future()
        if fault is not None and fault.kind == "frozen_before":
            process.freeze(fault.for_s)
            await asyncio.sleep(0)  # it comes back from here when the process goes on
        dies = _meanwhile(process, fault)
        torn = fault if fault is not None and fault.kind == "torn" else None
        try:
            result = await self._do(effect, torn, dies)
        except BrokerError as error:
            process.world.note(f"{process.name} effect {number} failed: {error}")
            raise
        return result

    def log_end(self) -> int | None:
        """The source partition's end as its last fetch saw it; None before any fetch."""
        return self._broker.process.ends.get(self._place)

    async def close(self) -> None:
        """Nothing to let go."""

    async def _do(self, effect: Effect, torn: Fault | None, dies: Callable[[], None] | None) -> object:
        cluster, group = self._broker.cluster, self._broker.cluster.group
        match effect:
            case Produce(records):
                return await self._produce(records, torn, dies)
            case Commit(offset):
                member, generation = self._membership.member_id, self._membership.generation
                try:
                    return await self._broker.link.ask(
                        _then(lambda: self._commit(member, generation, offset), dies), _commit_fate(torn)
                    )
                except (Refused, Lost) as error:
                    raise CommitRefused(f"the commit of {self._place} at {offset}: {error or 'no answer'}") from error
            case ReadCommitted():
                return await self._read(lambda: group.committed.get(self._place), torn, dies)
            case ReadBounds(topic):
                log = cluster.logs[topic, self._partition]
                return await self._read(lambda: (log.begin, log.end), torn, dies)
            case ReadLog(topic, offset, end):
                log = cluster.logs[topic, self._partition]
                most = self._broker.rng.choice([1, 3, 20])
                found = await self._read(lambda: log.read(offset, end, most), torn, dies)
                return [(record.offset, record.value or b"") for record in found]
        raise AssertionError(effect)

    def _commit(self, member: str, generation: int, offset: int) -> None:
        self._broker.cluster.group.commit(member, generation, self._place, offset)
        self._broker.process.world.committed(self._place, offset, self._broker.process.name)

    async def _read(self, apply: Callable[[], T], torn: Fault | None, dies: Callable[[], None] | None) -> T:
        try:
            return await self._broker.ask(_then(apply, dies), "lost" if torn else "kept")
        except LookupError as error:
            raise BrokerError(str(error)) from error

    async def _produce(self, records: Sequence[Out], torn: Fault | None, dies: Callable[[], None] | None) -> list[int]:
        """One flush, each record with a fate of its own. Those that are written twice are sent again as one batch, as a
        producer does whose first answer was lost, and it is told the later offsets."""
        fates = (
            [torn.fates[index % len(torn.fates)] for index in range(len(records))] if torn else ["kept"] * len(records)
        )
        whole = "unanswered" if any(fate not in ("kept", "twice") for fate in fates) else "kept"
        loop, rng = asyncio.get_running_loop(), self._broker.rng
        late = [record for record, fate in zip(records, fates, strict=True) if fate == "late"]
        for record in late:
            loop.call_later(rng.uniform(3, 90), self._append, record, context=WORLD)

        def apply() -> list[int]:
            written = {
                index: self._append(record)
                for index, (record, fate) in enumerate(zip(records, fates, strict=True))
                if fate not in ("lost", "late")
            }
            again = [index for index in written if fates[index] == "twice"]
            return list((written | {index: self._append(records[index]) for index in again}).values())

        try:
            return await self._broker.link.ask(_then(apply, dies), whole)
        except Lost:
            raise SendFailed(f"a record for {records[0].topic} was not acknowledged") from None

    def _append(self, out: Out) -> int:
        return self._broker.cluster.append(out.topic, out.partition, out.key, out.value)


def _meanwhile(process: Process, fault: Fault | None) -> Callable[[], None] | None:
    """What happens to the process that asked at the moment in which its request is applied."""
    if fault is None:
        return None
    return {
        "crash_after": lambda: process.kill(fault.for_s),
        "frozen_after": lambda: process.freeze(fault.for_s),
        "rebalance": process.rejoin,
    }.get(fault.kind)


def _commit_fate(torn: Fault | None) -> str:
    if torn is None:
        return "kept"
    return next((fate for fate in torn.fates if fate in ("lost", "late", "unanswered")), "unanswered")


def _then(apply: Callable[[], T], dies: Callable[[], None] | None) -> Callable[[], T]:
    """Applied, and then the process that asked dies, or is frozen, before it hears of it."""
    if dies is None:
        return apply

    def both() -> T:
        result = apply()
        dies()
        return result

    return both


def _set_result(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _set_error(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer._log_traceback = False  # who asked may be dead by now
