"""DELIVERY: the accepted revisions of one partials partition, to one sink, in order, at that sink's own pace (design §2.6).

One courier per partition and sink: a sink that is down holds up neither the other nor the metering. Retries and their
jittered backoff live here and nowhere else; what a sink refuses for good is parked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from schemas.windows import Revision
from sinks.contract import Outcome, Sink
from streams.clock import Clock
from tables.closing import ClosingTable

log = logging.getLogger("meterline.delivery")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: attempt n waits between half and all of `first_s` doubled n times, `most_s` at most."""

    first_s: float = 0.25
    most_s: float = 30.0

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after failed attempt `attempt`, counted from 0."""
        whole = min(self.most_s, self.first_s * float(1 << min(attempt, 16)))
        return whole * (0.5 + rng.random() / 2)


@dataclass(slots=True)
class CourierStatus:
    """How a courier is doing. error: the last failure, while retrying. retry_at_s: monotonic time of the next attempt."""

    state: Literal["up", "retrying"] = "up"
    error: str = ""
    retry_at_s: float = 0.0
    attempts: int = 0


@dataclass(slots=True)
class Courier:
    """Carries one partition's revisions to one sink.

    parked: told of each revision the sink refuses for good (message id, reason).
    """

    sink: Sink
    table: ClosingTable
    clock: Clock
    rng: random.Random
    parked: Callable[[Revision, str], None]
    backoff: Backoff = field(default_factory=Backoff)
    status: CourierStatus = field(default_factory=CourierStatus)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There may be something new to carry."""
        self._wake.set()

    async def run(self) -> None:
        """Carries until cancelled. An interrupted hand-over is done again by the next owner, same content, same id."""
        while True:
            self._wake.clear()
            revisions = self.table.outbox.waiting(self.sink.name, self.sink.batch_max)
            if not revisions:
                await self._wake.wait()
                continue
            outcomes = await self._deliver(revisions)
            delay_s = self.apply(revisions, outcomes)
            if delay_s:
                self.status.retry_at_s = self.clock.monotonic_s() + delay_s
                await self.clock.sleep(delay_s)

    def apply(self, revisions: Sequence[Revision], outcomes: Sequence[Outcome]) -> float:
        """Marks what became of each; returns seconds to wait before the next hand-over, 0 where none failed."""
        outbox, counters, name = self.table.outbox, self.table.counters, self.sink.name
        failed: list[Outcome] = []
        for revision, outcome in zip(revisions, outcomes, strict=True):
            if outcome.kind == "delivered":
                if outbox.mark_delivered(revision.message_id, name):
                    counters.delivered[name] = counters.delivered.get(name, 0) + 1
            elif outcome.kind == "refused":
                if outbox.park(revision.message_id, name, outcome.reason):
                    log.error("%s refuses %s for good: %s", name, revision.message_id, outcome.reason)
                    self.parked(revision, outcome.reason)
            else:
                failed.append(outcome)
        if not failed:
            if self.status.state == "retrying":
                log.info("%s is back after %d failed attempts", name, self.status.attempts)
            self.status = CourierStatus()
            return 0.0
        asked_s = max((outcome.retry_after_s or 0.0 for outcome in failed), default=0.0)
        delay_s = max(asked_s, self.backoff.delay_s(self.status.attempts, self.rng))
        if self.status.state == "up":
            log.warning("%s does not take revisions, trying again: %s", name, failed[0].reason)
        self.status.state, self.status.error = "retrying", failed[0].reason
        self.status.attempts += 1
        return delay_s

    async def _deliver(self, revisions: Sequence[Revision]) -> Sequence[Outcome]:
        try:
            outcomes = await self.sink.deliver(revisions)
            if len(outcomes) != len(revisions):
                raise ValueError(f"{len(outcomes)} outcomes for {len(revisions)} revisions")
            return outcomes
        except Exception as error:  # a sink should not raise; if one does, nothing is lost and it shows
            log.exception("%s raised, which its contract forbids", self.sink.name)
            return [Outcome("retry", f"{type(error).__name__} in the sink")] * len(revisions)
