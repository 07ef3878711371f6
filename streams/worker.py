"""One worker: the partitions it owns now, their tasks and couriers, from assignment to revocation.

Knows Faust only by what Faust's shell tells it (`streams/agents.py`): assigned, revoked, a batch. When a membership is over
because something failed, everything of this worker ends before anything starts again (design §2.4).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.deadletters import DeadLetter
from schemas.definitions import Definitions
from schemas.errors import ConfigurationError, MeterlineError
from schemas.records import Batch
from schemas.windows import Revision
from settings import Settings
from sinks.contract import Sink
from streams.clock import Clock, SystemClock
from streams.closing import Alarm, Closing
from streams.delivery import Backoff, Courier
from streams.ending import end
from streams.live import LiveFeed
from streams.metering import Metering, Topics
from streams.restoring import Restoring
from streams.tasks import ClosingTask, MeteringTask, Pace, PartitionTask, Performer
from tables.closing import ClosingTable
from tables.durable import Durable, Limits
from tables.metering import MeteringTable
from tables.runs import Disk
from transport.membership import Membership
from transport.throttling import Throttling

log = logging.getLogger("meterline.worker")


class Broker(Protocol):
    """A worker's connection for producing and reading: `transport.broker.Broker`, or a simulated one."""

    throttling: Throttling

    async def start(self) -> None:
        """Connects; raises the explained error where the broker cannot be used."""

    async def stop(self) -> None:
        """Lets go."""

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises ConfigurationError where it does not exist."""

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int]:
        """Sends one record where its key belongs; partition and offset, once acknowledged."""

    def performer(self, topic: str, partition: int, membership: Membership) -> Performer:
        """Performs the effects of one source partition under one membership."""


SHOWN = 100
"""The newest revisions that a worker shows."""


@dataclass(slots=True)
class Owned:
    """A closing partition this worker owns: its task and one courier per sink, each with its running task."""

    task: ClosingTask
    couriers: dict[str, Courier]
    running: list[asyncio.Task[None]] = field(default_factory=list)


class Worker:
    """Owns what the group assigned.

    start_over: ends this process's membership and begins anew, told why. refuse: ends it for good. clock, rng: where time
    and chance (jitter, the name of a changelog's writer) come from.
    """

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        sinks: Sequence[Sink],
        broker: Broker,
        start_over: Callable[[str], None],
        refuse: Callable[[MeterlineError], None],
        clock: Clock | None = None,
        rng: random.Random | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        restoring: Restoring | None = None,
    ) -> None:
        if not sinks:
            raise ConfigurationError(
                "no sink is configured",
                where="METERLINE_SERVICEBUS_CONNECTION_STRING, METERLINE_COSMOS_ENDPOINT",
                hint="configure Service Bus, Cosmos, or both: a revision that nobody gets is no bill",
            )
        self.settings = settings
        self.definitions = definitions
        self.sinks = {sink.name: sink for sink in sinks}
        self.broker = broker
        self.live = LiveFeed()
        self.metering: dict[int, MeteringTask] = {}
        self.closing: dict[int, Owned] = {}
        self.dead_letters: deque[DeadLetter] = deque(maxlen=50)
        self.revisions: deque[dict[str, object]] = deque(maxlen=SHOWN)
        self.alarms: deque[Alarm] = deque(maxlen=100)
        self.usage_partitions = 0
        self.partials_partitions = 0
        self.membership: Membership | None = None
        self._start_over = start_over
        self._refuse = refuse
        self._clock = clock or SystemClock()
        self._pace = Pace(emit_s=settings.emit_ms / 1000, checkpoint_s=settings.checkpoint_ms / 1000)
        self._rng = rng or random.Random()
        self._limits = limits
        self._restoring = restoring or Restoring()
        self._disk = Disk(Path(settings.data_dir) / "ids", settings.ids_memory_mb * 1_000_000)
        self._leaving = False
        self.stopping = False
        self.handed_over = False

    async def start(self) -> None:
        """Connects, and proves that the topics fit together.

        Raises ConfigurationError for a missing topic or partition counts that do not fit.
        """
        await self.broker.start()
        self._disk.clear()
        s = self.settings
        self.usage_partitions = await self.broker.partitions(s.usage_topic)
        self.partials_partitions = await self.broker.partitions(s.partials_topic)
        await self._same_count(s.usage_topic, self.usage_partitions, s.metering_state_topic)
        await self._same_count(s.partials_topic, self.partials_partitions, s.closing_state_topic)
        await self.broker.partitions(s.dead_letters_topic)
        for sink in self.sinks.values():
            await sink.open()

    async def stop(self) -> None:
        """Lets go of everything, a last checkpoint first; nothing is taken any more."""
        self.stopping = True
        self.handed_over = await self.revoked()
        for sink in self.sinks.values():
            await sink.close()
        await self.broker.stop()

    def assigned(self, topic_partitions: Iterable[tuple[str, int]], membership: Membership) -> None:
        """These partitions are this worker's, under this membership. Recovery begins at once, also where nothing comes."""
        if self.stopping:
            return
        topic_partitions = sorted(topic_partitions)
        if (grown := self._grown(topic_partitions)) is not None:
            self._gone(grown)  # and nothing of it is begun: the keys on it have their state elsewhere
            return
        self.membership = membership
        for topic, partition in topic_partitions:
            if topic == self.settings.usage_topic and partition not in self.metering:
                self._begin_metering(partition, membership)
            elif topic == self.settings.partials_topic and partition not in self.closing:
                self._begin_closing(partition, membership)

    def _grown(self, topic_partitions: Iterable[tuple[str, int]]) -> ConfigurationError | None:
        """What is wrong where a partition is assigned that its topic had not when this worker started."""
        s = self.settings
        counts = {s.usage_topic: self.usage_partitions, s.partials_topic: self.partials_partitions}
        for topic, partition in topic_partitions:
            if partition >= counts.get(topic, partition + 1):
                return ConfigurationError(
                    f"{topic} had {counts[topic]} partitions when this worker started, and has a partition {partition} now: "
                    "partition counts never change in place",
                    where=f"topic {topic}",
                    hint="use a new METERLINE_APP_ID with new topics",
                )
        return None

    async def revoked(self) -> bool:
        """Nothing is this worker's any more: a last checkpoint where it still counts, then everything ends.

        Whether all of it was handed over: if not, the next owners begin at the checkpoints before.
        """
        handed_over = not self._leaving
        patience_s = min(5.0, self.settings.rebalance_timeout_s / 3)
        tasks: list[PartitionTask] = [*self.metering.values(), *(owned.task for owned in self.closing.values())]
        if tasks and not self._leaving:
            done = asyncio.gather(*(task.hand_over() for task in tasks), return_exceptions=True)
            try:
                for task, outcome in zip(tasks, await asyncio.wait_for(done, patience_s), strict=True):
                    handed_over = handed_over and outcome is True
                    if isinstance(outcome, MeterlineError):
                        log.warning("%s is handed over as last checkpointed: %s", task.name, outcome)
                    elif isinstance(outcome, BaseException):
                        log.error("%s could not be handed over", task.name, exc_info=outcome)
            except TimeoutError:
                handed_over = False
                log.warning("handing over took too long; the next owner begins at the last checkpoint")
        owned, self.closing = self.closing, {}
        self.metering = {}
        self.membership = None
        couriers = [running for one in owned.values() for running in one.running]
        await asyncio.gather(end(couriers), *(task.close() for task in tasks), return_exceptions=True)
        return handed_over

    def takes(self, topic: str, partition: int) -> bool:
        """Whether a batch of this partition should come now: not where others would wait behind it.

        Where its task is not known yet the batch may come: it brings the assignment (`streams/agents.py`).
        """
        task = self._task(topic, partition)
        return task is None or task.takes

    async def offer(self, topic: str, partition: int, batch: Batch) -> None:
        """A batch came. One for a partition that is not owned now is dropped: whoever owns it reads it again."""
        task = self._task(topic, partition)
        if task is not None:
            await task.offer(batch)

    def _task(self, topic: str, partition: int) -> PartitionTask | None:
        if topic == self.settings.usage_topic:
            return self.metering.get(partition)
        owned = self.closing.get(partition)
        return owned.task if owned is not None else None

    def _begin_metering(self, partition: int, membership: Membership) -> None:
        s, d = self.settings, self.definitions
        table = MeteringTable(self.partials_partitions, d.stream.correct_for_ms, self._disk)
        durable = self._durable(table, s.usage_topic, s.metering_state_topic, partition, self.usage_partitions)
        topics = Topics(s.usage_topic, s.partials_topic, s.dead_letters_topic)
        stage = Metering(d, topics, partition, self.partials_partitions, durable, table)
        task = MeteringTask(
            stage,
            s.usage_topic,
            partition,
            self.broker.performer(s.usage_topic, partition, membership),
            self._clock,
            self._pace,
            self._gone,
            self._restoring,
            self._dead,
        )
        self.metering[partition] = task
        task.start()

    def _begin_closing(self, partition: int, membership: Membership) -> None:
        s, d = self.settings, self.definitions
        table = ClosingTable(self.usage_partitions, d.stream.correct_for_ms, tuple(self.sinks))
        durable = self._durable(table, s.partials_topic, s.closing_state_topic, partition, self.partials_partitions)
        stage = Closing(d, s.partials_topic, partition, durable, table, SHOWN)
        task = ClosingTask(
            stage,
            s.partials_topic,
            partition,
            self.broker.performer(s.partials_topic, partition, membership),
            self._clock,
            self._pace,
            self._gone,
            self._restoring,
            self._told,
        )
        couriers = {
            name: Courier(sink, table, self._clock, self._rng, self._parked(name), Backoff())
            for name, sink in self.sinks.items()
        }
        owned = Owned(task, couriers)
        self.closing[partition] = owned
        task.start()
        owned.running = [
            asyncio.create_task(courier.run(), name=f"courier-{name}") for name, courier in couriers.items()
        ]
        for running in owned.running:
            running.add_done_callback(self._courier_ended)

    def _durable(
        self, table: MeteringTable | ClosingTable, source: str, changelog: str, partition: int, partitions: int
    ) -> Durable:
        return Durable(
            table=table,
            source_topic=source,
            changelog_topic=changelog,
            partition=partition,
            partitions=partitions,
            definitions=self.definitions.digest,
            writer=f"{self._rng.getrandbits(48):012x}",
            limits=self._limits,
        )

    def _dead(self, stage: Metering) -> None:
        known = {letter.key for letter in self.dead_letters}
        for letter in stage.dead_letters:
            if letter.key not in known:
                self.dead_letters.appendleft(letter)

    def _told(self, task: ClosingTask, accepted: bool) -> None:
        """A step or an accepted checkpoint of CLOSING: news for the feed, work for the couriers."""
        stage = task.closing
        self.live.tell(stage.take_changed(), stage.describe_slot)
        self.revisions.extendleft(stage.revised)
        stage.revised.clear()
        alarms, stage.alarms = stage.alarms, []
        for alarm in alarms:
            log.error("alarm %s at %s: %s -> %s", alarm.kind, alarm.where, alarm.what, alarm.hint)
            self.alarms.appendleft(alarm)
        owned = self.closing.get(task.partition)
        if owned is not None and (accepted or not owned.task.closing.table.outbox.waiting_for_acceptance):
            for courier in owned.couriers.values():
                courier.wake()

    def _parked(self, sink: str) -> Callable[[Revision, str], None]:
        def parked(revision: Revision, reason: str) -> None:
            self.alarms.appendleft(
                Alarm(
                    "refused_revision",
                    f"{sink} {revision.message_id}",
                    reason,
                    "mend what it refuses; then, with the workers stopped, `python app.py mend unpark all`",
                )
            )

        return parked

    def _gone(self, why: str | MeterlineError) -> None:
        if self._leaving or self.stopping:
            return
        self._leaving = True
        if isinstance(why, str):
            self._start_over(why)
        else:
            self._refuse(why)

    def _courier_ended(self, courier: asyncio.Task[None]) -> None:
        if not courier.cancelled() and (error := courier.exception()) is not None:
            self._gone(f"{courier.get_name()}: {type(error).__name__}: {error}")

    async def _same_count(self, source: str, partitions: int, changelog: str) -> None:
        found = await self.broker.partitions(changelog)
        if found != partitions:
            raise ConfigurationError(
                f"{source} has {partitions} partitions, {changelog} has {found}",
                where=f"topics {source}, {changelog}",
                hint="a state topic has exactly as many partitions as its source; make it anew with that count",
            )
