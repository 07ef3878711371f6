"""DELIVERY: each sink at its own pace, nothing lost, nothing out of order, nobody held up (design §2.6, §6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from schemas.windows import Revision
from sinks.contract import DELIVERED, Outcome, refused, retry
from streams.delivery import Backoff, Courier
from tables.closing import ClosingTable
from tests.streams.stage import CLOSES, Stage, made
from tests.world import SINKS, ClosingProcess

Answer = Callable[[Revision], Outcome]


@dataclass
class Pace:
    """A clock whose sleeps are over at once, and are remembered."""

    slept: list[float] = field(default_factory=list)
    now_s: float = 0.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@dataclass
class Scripted:
    """A sink that answers as told, and remembers every hand-over."""

    name: str
    answer: Answer
    batch_max: int = 100
    handed: list[list[Revision]] = field(default_factory=list)

    async def open(self) -> None:
        """Nothing to connect."""

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        self.handed.append(list(revisions))
        await asyncio.sleep(0)
        return [self.answer(revision) for revision in revisions]

    async def close(self) -> None:
        """Nothing to let go of."""

    @property
    def ids(self) -> list[str]:
        """Everything handed over, in order, as `subject:revision`."""
        return [f"{revision.subject}:{revision.revision}" for batch in self.handed for revision in batch]


def takes(revision: Revision) -> Outcome:
    return DELIVERED


def down(revision: Revision) -> Outcome:
    return retry("down")


class Wire:
    """Couriers of both sinks over the accepted revisions of a stage."""

    def __init__(self, table: ClosingTable, seed: int = 0, **answers: Answer) -> None:
        self.pace = Pace()
        self.parked: list[tuple[str, str]] = []
        self.sinks = {name: Scripted(name, answers.get(name, takes)) for name in SINKS}
        self.couriers = {name: self._courier(sink, table, seed) for name, sink in self.sinks.items()}

    def _courier(self, sink: Scripted, table: ClosingTable, seed: int) -> Courier:
        return Courier(
            sink,
            table,
            self.pace,
            random.Random(seed),
            lambda revision, reason: self.parked.append((revision.subject, reason)),
        )

    @asynccontextmanager
    async def running(self, turns: int = 60) -> AsyncIterator[None]:
        """The couriers get so many turns; then the body looks; then they are cancelled."""
        tasks = [asyncio.create_task(courier.run()) for courier in self.couriers.values()]
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            yield
            assert not any(task.done() for task in tasks), "a courier never ends by itself"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def decided(*subjects: str, revisions: int = 1) -> Stage:
    """A stage with accepted revisions of one window per subject."""
    stage = Stage()
    for number in range(revisions):
        stage.pack(0, *[made(number + 1, number, subject=subject) for subject in subjects])
        stage.mark(CLOSES + 60 * number)
    stage.process.checkpoint()
    return stage


async def test_every_sink_gets_every_revision_once() -> None:
    stage = decided("a", "b", revisions=3)
    wire = Wire(stage.process.table)
    async with wire.running():
        expected = ["a:1", "b:1", "a:2", "b:2", "a:3", "b:3"]
        assert wire.sinks["cosmos"].ids == wire.sinks["servicebus"].ids == expected
        assert not stage.process.table.outbox.items
        assert stage.process.table.counters.delivered == {"cosmos": 6, "servicebus": 6}


async def test_nothing_leaves_before_its_checkpoint_is_accepted() -> None:
    stage = Stage()
    stage.partial(1, 1)
    stage.mark(CLOSES)
    wire = Wire(stage.process.table)
    async with wire.running():
        assert wire.sinks["cosmos"].ids == []
        stage.process.checkpoint()
        wire.couriers["cosmos"].wake()
        for _ in range(10):
            await asyncio.sleep(0)
        assert wire.sinks["cosmos"].ids == ["acme:1"] and wire.sinks["servicebus"].ids == []


async def test_a_sink_that_is_down_does_not_stop_the_other() -> None:
    stage = decided("a", "b")
    wire = Wire(stage.process.table, servicebus=down)
    async with wire.running():
        assert wire.sinks["cosmos"].ids == ["a:1", "b:1"]
        assert stage.process.table.outbox.count_waiting("servicebus") == 2
        assert wire.couriers["servicebus"].status.state == "retrying"
        assert wire.couriers["servicebus"].status.error == "down"
        assert wire.couriers["cosmos"].status.state == "up"


async def test_a_sink_that_comes_back_gets_everything_in_order() -> None:
    stage = decided("a", "b", revisions=2)
    tries = iter(range(1000))
    wire = Wire(stage.process.table, cosmos=lambda revision: down(revision) if next(tries) < 20 else DELIVERED)
    async with wire.running():
        assert wire.sinks["cosmos"].ids[-4:] == ["a:1", "b:1", "a:2", "b:2"]
        assert stage.process.table.outbox.items == {}
        assert (wire.couriers["cosmos"].status.state, wire.couriers["cosmos"].status.attempts) == ("up", 0)


async def test_retries_wait_longer_each_time_with_jitter_up_to_a_limit() -> None:
    wire = Wire(decided("a").process.table, cosmos=down)
    async with wire.running():
        slept = wire.pace.slept
        assert len(slept) > 12
        for attempt, seconds in enumerate(slept):
            whole = min(30.0, 0.25 * 2**attempt)
            assert whole / 2 <= seconds <= whole
        assert wire.couriers["cosmos"].status.attempts == len(slept)


async def test_no_two_workers_retry_in_step() -> None:
    waits = []
    for seed in (1, 2):
        wire = Wire(decided("a").process.table, seed, cosmos=down)
        async with wire.running():
            waits.append(wire.pace.slept[:10])
    assert all(one != other for one, other in zip(*waits, strict=True))


async def test_what_a_sink_asks_for_is_honoured() -> None:
    wire = Wire(decided("a", "b").process.table, cosmos=lambda r: retry("throttled", 7.5 if r.subject == "b" else 0.1))
    async with wire.running():
        assert wire.pace.slept[0] == 7.5
        assert all(seconds >= 7.5 for seconds in wire.pace.slept)


def test_the_backoff_never_overflows() -> None:
    assert 15 <= Backoff().delay_s(10**6, random.Random(0)) <= 30


async def test_a_refusal_is_parked_told_and_holds_nobody_up() -> None:
    stage = decided("a", "b", revisions=2)
    wire = Wire(stage.process.table, cosmos=lambda r: refused("too large") if r.subject == "a" else DELIVERED)
    async with wire.running():
        assert wire.sinks["cosmos"].ids == ["a:1", "b:1", "a:2", "b:2"]
        assert wire.parked == [("a", "too large"), ("a", "too large")]
        parked = stage.process.table.outbox.parked()
        assert [(sink, r.subject, r.revision, reason) for sink, r, reason in parked] == [
            ("cosmos", "a", 1, "too large"),
            ("cosmos", "a", 2, "too large"),
        ]
        assert stage.process.table.outbox.count_waiting("cosmos") == 0
        assert wire.couriers["cosmos"].status.state == "up"


async def test_in_one_hand_over_each_revision_meets_its_own_outcome() -> None:
    stage = decided("a", "b", "c")
    answers = {"a": DELIVERED, "b": retry("busy"), "c": refused("no")}
    wire = Wire(stage.process.table, cosmos=lambda revision: answers[revision.subject])
    async with wire.running():
        assert [[r.subject for r in batch] for batch in wire.sinks["cosmos"].handed[:3]] == [
            ["a", "b", "c"],
            ["b"],
            ["b"],
        ]


async def test_a_resend_has_the_same_bytes_and_the_same_id_after_a_restart_too() -> None:
    stage = decided("a", "b", revisions=2)
    wire = Wire(stage.process.table, cosmos=down)
    async with wire.running():
        pass
    stage.partial(9, 90, subject="a")
    stage.process.checkpoint()
    again = Wire(ClosingProcess(stage.world).table)
    async with again.running():
        first = {revision.message_id: revision.body for revision in wire.sinks["cosmos"].handed[0]}
        assert {revision.message_id: revision.body for revision in again.sinks["cosmos"].handed[0]} == first
        assert len(first) == 4


async def test_a_hand_over_that_was_interrupted_is_done_again_by_the_next_owner() -> None:
    stage = decided("a")
    wire = Wire(stage.process.table)
    async with wire.running(turns=1):
        assert wire.sinks["cosmos"].ids == ["a:1"], "handed over, its answer not yet there"
    again = Wire(ClosingProcess(stage.world).table)
    async with again.running():
        assert again.sinks["cosmos"].ids == ["a:1"]


async def test_what_one_owner_delivered_the_next_does_not_send_again() -> None:
    stage = decided("a", "b")
    wire = Wire(stage.process.table, servicebus=lambda r: refused("no") if r.subject == "b" else DELIVERED)
    async with wire.running():
        stage.process.checkpoint()
    again = Wire(ClosingProcess(stage.world).table)
    async with again.running():
        assert again.sinks["cosmos"].ids == again.sinks["servicebus"].ids == []


async def test_a_hand_over_is_no_larger_than_the_sink_takes() -> None:
    stage = decided("a", "b", "c", "d", "e")
    wire = Wire(stage.process.table)
    wire.sinks["cosmos"].batch_max = 2
    async with wire.running():
        assert [len(batch) for batch in wire.sinks["cosmos"].handed] == [2, 2, 1]


@pytest.mark.parametrize("seed", range(20))
async def test_revisions_of_one_window_are_handed_over_in_order_whatever_fails(seed: int) -> None:
    rng = random.Random(seed)
    stage = decided("a", "b", "c", revisions=4)
    blocked: set[str] = set()

    def moody(revision: Revision) -> Outcome:
        """As sinks must: after a failure nothing later of that window is taken in the same hand-over."""
        if revision.subject in blocked or rng.random() < 0.4:
            blocked.add(revision.subject)
            return retry("moody")
        return DELIVERED

    wire = Wire(stage.process.table, cosmos=moody)
    sink = wire.sinks["cosmos"]
    sink.batch_max = rng.choice([1, 2, 5])
    taken: list[str] = []
    real = sink.deliver

    async def deliver(revisions: Sequence[Revision]) -> list[Outcome]:
        blocked.clear()
        outcomes = await real(revisions)
        taken.extend(f"{r.subject}:{r.revision}" for r, o in zip(revisions, outcomes, strict=True) if o is DELIVERED)
        return outcomes

    sink.deliver = deliver  # type: ignore[method-assign]
    async with wire.running(400):
        for subject in "abc":
            assert [name for name in taken if name.startswith(subject)] == [f"{subject}:{n}" for n in range(1, 5)]


@pytest.mark.parametrize("fault", ["raises", "too few"])
async def test_a_sink_that_breaks_its_contract_loses_nothing_and_shows(fault: str) -> None:
    stage = decided("a", "b")
    wire = Wire(stage.process.table)
    sink = wire.sinks["cosmos"]
    real, calls = sink.deliver, iter(range(1000))

    async def broken(revisions: Sequence[Revision]) -> list[Outcome]:
        outcomes = await real(revisions)
        if next(calls) > 1:
            return outcomes
        if fault == "raises":
            raise RuntimeError("a defect")
        return outcomes[:1]

    sink.deliver = broken  # type: ignore[method-assign]
    async with wire.running():
        assert sink.ids == ["a:1", "b:1"] * 3
        assert not stage.process.table.outbox.items
