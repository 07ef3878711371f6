"""The asyncio shell of one partition: recover, fold what comes, emit and checkpoint in time, stop where one must.

It only decides *when*: nothing here changes what is counted (design §2.1). One task per partition and stage, its effects
strictly one after the other, so a checkpoint never runs twice at once.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from schemas import events
from schemas.errors import BrokerError, DiskFailed, MeterlineError, PartitionStopped
from schemas.records import Batch, Out, PackedRecords
from streams.clock import Clock
from streams.closing import Closing
from streams.counting import SLICE_BYTES, SLICE_RECORDS
from streams.driver import drive
from streams.ending import end
from streams.metering import LETTERS_AT_ONCE, Metering
from streams.restoring import Restoring
from tables.durable import Durable
from tables.effects import Effect, Procedure, Produce
from tables.stops import DefinitionsDiffer

log = logging.getLogger("meterline.tasks")
T = TypeVar("T")

AHEAD = 2
"""Batches of a partition that wait to be folded before no more is wanted. Each is one fetch, of a few megabytes at most."""

ON_THEIR_WAY = 4
"""Batches for which there is room besides: those that were wanted before and come later."""

TELL_S = 3.0
"""How often the log says how far a recovery is, seconds."""


class Performer(Protocol):
    """Performs a partition's effects under its membership (`transport/broker.py`)."""

    async def perform(self, effect: Effect) -> object:
        """The effect's result, as `tables/effects.py` promises. Raises BrokerError."""

    def log_end(self) -> int | None:
        """The source partition's end as its last fetch saw it; None before any fetch."""

    async def close(self) -> None:
        """Lets go of what recovery opened."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, in seconds. emit: changed partials. behind: how much later they may leave while more usage has come already:
    then they are not the newest anyway, and the more is folded, the less leaves of it. everywhere: watermarks to all targets.
    prompt: a checkpoint of CLOSING that revisions wait for, spaced so that commits stay below Event Hubs' 4/s a partition
    (azure-docs: Event Hubs Kafka troubleshooting). snapshot: a new one at least this often. tick: spacing of ticks. starved:
    how long a log may go on while nothing of it comes, before what was fetched is taken for lost."""

    emit_s: float = 0.5
    behind_s: float = 1.5
    everywhere_s: float = 1.0
    checkpoint_s: float = 5.0
    prompt_s: float = 0.4
    snapshot_s: float = 86_400.0
    tick_s: float = 1.0
    starved_s: float = 60.0


class PartitionTask(ABC):
    """What both stages share: the inbox, the life, the end. Subclasses say what a step is and what is due when.

    gone: told when the membership this task belongs to must end (a failed send, a refused commit, a gap, a defect): why;
    or the error for which this worker must not go on at all. restoring: whose turn it is to restore.

    restored: the share of the recovery that is done, of 1. whole: whether the table is the state of its log, not a part.
    """

    stage: str

    def __init__(
        self, topic: str, partition: int, durable: Durable, performer: Performer, clock: Clock, pace: Pace,
        gone: Callable[[str | MeterlineError], None], restoring: Restoring,
    ) -> None:  # fmt: skip
        self.topic = topic
        self.partition = partition
        self.durable = durable
        self.state: Literal["restoring", "running", "stopped"] = "restoring"
        self.restored = 0.0
        self.whole = False
        self.stopped: MeterlineError | None = None
        self.end: int | None = None
        self._performer = performer
        self._clock = clock
        self._pace = pace
        self._gone = gone
        self._restoring = restoring
        self._inbox: asyncio.Queue[Batch] = asyncio.Queue(maxsize=AHEAD + ON_THEIR_WAY)
        self._working = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._handing_over = self._closed = self._broken = False
        self._next_checkpoint_s = 0.0
        self._next_snapshot_s = 0.0
        self._fed_s = 0.0
        self._told_at_s = 0.0

    @property
    def takes(self) -> bool:
        """Whether a batch should come now: not while it restores, nor where enough wait. May be asked in any thread."""
        return self.state != "restoring" and self._inbox.qsize() < AHEAD

    async def offer(self, batch: Batch) -> None:
        """Takes a batch, or waits until there is room: this is the back-pressure. A stopped partition takes nothing."""
        if self.state != "stopped" and not self._closed:
            await self._inbox.put(batch)

    def start(self) -> None:
        """Begins to recover, then to work."""
        self._running = asyncio.create_task(self._run(), name=f"{self.stage}-{self.partition}")

    async def close(self) -> None:
        """Ends without another effect; whoever waits in `offer` is let go."""
        self._closed = True
        if self._running is not None:
            await end([self._running])
        self._drain()

    async def _run(self) -> None:
        try:
            async with self._restoring:
                await self._restore()
            now_s = self._clock.monotonic_s()
            self._fed_s = now_s
            self._next_checkpoint_s = now_s + self._pace.checkpoint_s
            # A process may never live a day: the first snapshot is due within the hour, not all partitions at once.
            self._next_snapshot_s = now_s + self._pace.snapshot_s / 24 * (1 + self.partition % 8) / 8
            while not self._closed:
                batch = await self._next()
                self._look_at_the_end(batch is not None)
                async with self._working:
                    if self._handing_over or self._closed:
                        continue
                    if batch is not None:
                        await self._fold(batch)
                    await self.work(self._clock.monotonic_s())
        except (PartitionStopped, DiskFailed) as error:
            self._stop(error)
        except DefinitionsDiffer as error:
            self._stop(error)
            self._gone(error)
        except BrokerError as error:
            self._end(str(error))
        except asyncio.CancelledError:
            if not self._closed:
                self._end("something below cancelled it")
            raise
        except Exception as error:
            log.exception("%s failed", self.name)
            self._end(f"{type(error).__name__}: {error}")

    async def _restore(self) -> None:
        began_s = self._told_at_s = self._clock.monotonic_s()
        log.info("%s is restoring", self.name)
        self.durable.on_restored = self._on_restored
        try:
            await self._drive(self.recover())
        finally:
            await self._performer.close()
        self.state, self.restored, self.whole = "running", 1.0, True
        log.info(
            "%s restored %s keys, %.1f MB, at offset %d in %.1f s",
            self.name,
            f"{self.durable.restored_keys:,}",
            self.durable.restored_bytes / 1e6,
            self.position,
            self._clock.monotonic_s() - began_s,
        )

    async def hand_over(self) -> bool:
        """A last checkpoint while the membership still holds, so that the next owner has little to do again.

        False where there can be none: what failed before must not be covered now. One that restores has nothing to hand over.
        """
        if self.state != "running" or self._handing_over:
            return not self._broken
        self._handing_over = True
        async with self._working:
            if self._broken:
                return False
            await self._drive(self.checkpoint(snapshot_due=False))
        log.info("%s handed over at offset %d", self.name, self.position)
        return True

    @property
    def name(self) -> str:
        """Stage and partition, for people."""
        return f"{self.stage} {self.topic}[{self.partition}]"

    @property
    def position(self) -> int:
        """The next source offset to fold."""
        return self.durable.table.position

    @abstractmethod
    def recover(self) -> Procedure[None]:
        """The stage's recovery."""

    @abstractmethod
    def stepping(self, batch: Batch) -> Iterator[None]:
        """The stage's step, in portions."""

    @abstractmethod
    def checkpoint(self, *, snapshot_due: bool) -> Procedure[bool]:
        """The stage's checkpoint."""

    async def work(self, now_s: float) -> None:
        """What is due besides folding."""
        if now_s >= self._next_checkpoint_s:
            await self._checkpoint(now_s)

    async def _checkpoint(self, now_s: float) -> bool:
        due = now_s >= self._next_snapshot_s
        written = await self._drive(self.checkpoint(snapshot_due=due))
        self._next_checkpoint_s = now_s + self._pace.checkpoint_s
        if due and written:
            self._next_snapshot_s = now_s + self._pace.snapshot_s
        return written

    async def _next(self) -> Batch | None:
        try:
            return self._inbox.get_nowait()
        except asyncio.QueueEmpty:
            pass
        try:
            return await asyncio.wait_for(self._inbox.get(), self._pace.emit_s / 2)
        except TimeoutError:
            return None

    async def _fold(self, batch: Batch) -> None:
        if batch.start > self.position:
            raise BrokerError(
                f"{self.topic}[{self.partition}]: a batch begins at {batch.start}, but the state ends at {self.position}"
            )
        parts = list(PackedRecords.of(batch.records).parts(SLICE_RECORDS, SLICE_BYTES))
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            await self._step(Batch(self.position, batch.end if last else part.offsets[-1] + 1, part))
            if not last:
                await asyncio.sleep(0)

    async def _drive(self, procedure: Procedure[T]) -> T:
        try:
            return await drive(procedure, self._performer.perform, turn=_turn)
        except BaseException:
            # What was touched, dirty or dead has been taken out of the state already: no later checkpoint may be accepted.
            self._broken = True
            raise

    def _look_at_the_end(self, fed: bool) -> None:
        """Stops where the log is not the one that was folded; starts over where a fetched batch was lost on its way.

        A lost batch shows as a gap with the next one. Where there is none, it would hold up every window for ever.
        """
        now_s = self._clock.monotonic_s()
        self.end = self._performer.log_end()
        if fed or self.end is None or self.end <= self.position:
            self._fed_s = now_s
        elif now_s - self._fed_s > self._pace.starved_s:
            raise BrokerError(f"nothing came for {self._pace.starved_s:.0f} s, though the log goes on to {self.end}")
        if self.end is not None and self.end < self.position:
            raise PartitionStopped(
                self.topic,
                self.partition,
                f"the log ends at {self.end}, but was folded up to {self.position}: it was cut or made anew",
                hint="the state belongs to the log that was there: use a new METERLINE_APP_ID with new topics",
                way="a-log-made-anew",
            )

    async def _step(self, batch: Batch) -> None:
        """The stage's step. It is pure, so what it raises it would raise again: the partition stops, the others go on."""
        try:
            for _ in self.stepping(batch):
                await asyncio.sleep(0)
        except (DiskFailed, asyncio.CancelledError):  # in the middle of a step: the state is that of no offset
            self._broken = True
            raise
        except MeterlineError:
            raise
        except Exception as error:
            self._broken = True
            log.exception("%s cannot fold", self.name)
            raise self.durable.cannot_fold(error) from error

    def _on_restored(self, share: float) -> None:
        self.restored = share
        now_s = self._clock.monotonic_s()
        if now_s >= self._told_at_s + TELL_S:
            self._told_at_s = now_s
            log.info("%s restoring %d %%", self.name, 100 * share)

    def _stop(self, error: MeterlineError) -> None:
        self.state, self.stopped = "stopped", error
        log.critical("%s", error)
        self._drain()

    def _drain(self) -> None:
        while not self._inbox.empty():
            self._inbox.get_nowait()

    def _end(self, why: str) -> None:
        if not self._handing_over and not self._closed:
            self._gone(f"{self.name}: {why}")


async def _turn() -> None:
    await asyncio.sleep(0)


class MeteringTask(PartitionTask):
    """METERING of one usage partition; also its clock: it appends the ticks (design §3)."""

    stage = "metering"

    def __init__(
        self, stage: Metering, topic: str, partition: int, performer: Performer, clock: Clock, pace: Pace,
        gone: Callable[[str | MeterlineError], None], restoring: Restoring, dead: Callable[[Metering], None],
    ) -> None:  # fmt: skip
        super().__init__(topic, partition, stage.durable, performer, clock, pace, gone, restoring)
        self.metering = stage
        self._dead = dead
        self._next_emit_s = 0.0
        self._next_everywhere_s = 0.0
        self._next_tick_s = 0.0
        self._tick_at: int | None = None
        self._ticks = 0

    def recover(self) -> Procedure[None]:
        """The table, which must belong to this many targets."""
        return self.metering.recover()

    def stepping(self, batch: Batch) -> Iterator[None]:
        """Folds usage, in one portion: a batch is parted before."""
        self.metering.step(batch)
        if self.metering.dead_letters:
            self._dead(self.metering)
        yield from ()

    def checkpoint(self, *, snapshot_due: bool) -> Procedure[bool]:
        """Emit, chunks, commit."""
        return self.metering.checkpoint(snapshot_due=snapshot_due)

    async def work(self, now_s: float) -> None:
        """Emits, checkpoints, ticks."""
        if now_s >= self._next_emit_s + (0.0 if self._inbox.empty() else self._pace.behind_s):
            everywhere = now_s >= self._next_everywhere_s
            await self._drive(self.metering.emit(everywhere=everywhere))
            self._next_emit_s = now_s + self._pace.emit_s
            if everywhere:
                self._next_everywhere_s = now_s + self._pace.everywhere_s
        await super().work(now_s)
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + self._pace.tick_s
            await self._tick()

    async def _step(self, batch: Batch) -> None:
        await super()._step(batch)
        if len(self.metering.dead_letters) > LETTERS_AT_ONCE:  # they take room until they are sent
            await self._drive(self.metering.emit(everywhere=False))

    async def _tick(self) -> None:
        """Appends a tick if one is due. One is outstanding at most: the next waits until it was read back."""
        if self._tick_at is not None and self.position <= self._tick_at:
            return
        self._tick_at = None
        time_ms = self.metering.tick_due(self._clock.now_ms(), self.end)
        if time_ms is None:
            return
        self._ticks += 1
        name = f"{self.durable.writer}-{self._ticks}"
        value = events.tick(time_ms, f"meterline/{self.topic}/{self.partition}", name)
        offsets = await self._performer.perform(Produce([Out(self.topic, self.partition, b"meterline.tick", value)]))
        assert isinstance(offsets, list)
        self._tick_at = offsets[0]


class ClosingTask(PartitionTask):
    """CLOSING of one partials partition. told: called after every step and every accepted checkpoint."""

    stage = "closing"

    def __init__(
        self, stage: Closing, topic: str, partition: int, performer: Performer, clock: Clock, pace: Pace,
        gone: Callable[[str | MeterlineError], None], restoring: Restoring, told: Callable[[ClosingTask, bool], None],
    ) -> None:  # fmt: skip
        super().__init__(topic, partition, stage.durable, performer, clock, pace, gone, restoring)
        self.closing = stage
        self._told = told
        self._next_prompt_s = 0.0

    def recover(self) -> Procedure[None]:
        """The table, and what is due when; what was decided before this owner may leave at once."""
        yield from self.closing.recover()
        self._told(self, True)

    def stepping(self, batch: Batch) -> Iterator[None]:
        """Joins partials, closes windows."""
        yield from self.closing.stepping(batch)
        self._told(self, False)

    def checkpoint(self, *, snapshot_due: bool) -> Procedure[bool]:
        """Chunks, commit; then revisions may leave."""
        return self.closing.checkpoint(snapshot_due=snapshot_due)

    async def work(self, now_s: float) -> None:
        """Checkpoints in time, and promptly where a revision waits for one."""
        if self.closing.table.outbox.waiting_for_acceptance and now_s >= self._next_prompt_s:
            self._next_checkpoint_s = now_s
        if now_s >= self._next_checkpoint_s:
            self._next_prompt_s = now_s + self._pace.prompt_s
            if await self._checkpoint(now_s):
                self._told(self, True)
