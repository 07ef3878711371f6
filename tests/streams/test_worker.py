"""One worker: what it refuses to begin with, what ends its membership, what ends it for good, and what it shows."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.definitions import Definitions
from schemas.errors import ConfigurationError, MeterlineError
from schemas.partials import Watermark, encode
from schemas.records import Batch
from schemas.windows import Revision
from settings import Settings
from sinks.contract import DELIVERED, Outcome
from streams.delivery import Courier
from streams.worker import Worker
from tables.effects import Commit, Effect
from tests.usage import MINUTE, NOON, ListSink, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World
from transport.membership import Membership

METERS = definitions({"stream": {"max_delay": "none"}, "meters": [meter("total")]})
SETTINGS = Settings(
    usage_topic=USAGE,
    partials_topic=PARTIALS,
    metering_state_topic="metering-state",
    closing_state_topic="closing-state",
    dead_letters_topic="dead-letters",
    emit_ms=10,
    checkpoint_ms=20,
)


class WorldBroker:
    """A connection to a world of lists. counts: partitions of topics that have not one."""

    def __init__(self, world: World, **counts: int) -> None:
        self.world = world
        self.counts = counts

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to let go."""

    async def partitions(self, topic: str) -> int:
        return self.counts.get(topic.replace("-", "_"), 1)

    async def publish(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int]:
        raise AssertionError("nobody publishes here")

    def performer(self, topic: str, partition: int, membership: Membership) -> WorldPerformer:
        self.world.generations[topic, partition] += 1
        return WorldPerformer(self.world, topic, partition)


class WorldPerformer:
    """One partition's effects, in its world."""

    def __init__(self, world: World, topic: str, partition: int) -> None:
        self.world, self.place = world, (topic, partition)
        place = SimpleNamespace(source_topic=topic, partition=partition)
        self.owner: Any = SimpleNamespace(durable=place, generation=world.generations[topic, partition])

    async def perform(self, effect: Effect) -> Any:
        return self.world.perform(self.owner, effect)

    def log_end(self) -> int | None:
        return self.world.logs[self.place].end

    async def close(self) -> None:
        """Nothing to let go."""


@dataclass
class AnsweringSink(ListSink):
    """Answers as it is told, or fails."""

    answer: Callable[[Revision], Outcome] = field(default=lambda revision: DELIVERED)

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        self.received += revisions
        return [self.answer(revision) for revision in revisions]


class Running:
    """A worker that owns everything of a world, and what it asked for. over: why it starts over; refused: why never again."""

    def __init__(self, world: World, sink: ListSink, meters: Definitions = METERS) -> None:
        self.world = world
        self.over: list[str] = []
        self.refused: list[MeterlineError] = []
        self.worker = Worker(SETTINGS, meters, [sink], WorldBroker(world), self.over.append, self.refused.append)

    async def __aenter__(self) -> Running:
        await self.worker.start()
        self.worker.assigned([(USAGE, 0), (PARTIALS, 0)], Membership(1, 1, "me"))
        for topic in (USAGE, PARTIALS):
            await self.read(topic)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()

    async def read(self, topic: str) -> None:
        """Everything that is in the log and was not read yet; what is folded already does no harm."""
        log = self.world.logs[topic, 0]
        await self.worker.offer(topic, 0, Batch(0, log.end, list(log.records)))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def no_checkpoint_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", replace(SETTINGS, checkpoint_ms=3_600_000))


@pytest.fixture
def world() -> World:
    """Usage of three minutes; two of them are in closed windows of an accepted checkpoint."""
    world = World(METERS)
    for number in range(3):
        world.use(usage(f"e{number}", NOON + number * MINUTE, n=number + 1), at_ms=NOON + number * MINUTE)
    world.tick(NOON + 2 * MINUTE + 30_000)
    owner = MeteringProcess(world)
    owner.read()
    owner.checkpoint()
    closing = ClosingProcess(world)
    closing.read()
    closing.checkpoint()
    assert len(closing.table.outbox.waiting("cosmos", 9)) == 2
    return world


def test_a_worker_without_a_sink_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="no sink is configured"):
        Worker(SETTINGS, METERS, [], WorldBroker(world), lambda why: None, lambda error: None)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"metering_state": 2}, "usage has 1 partitions, metering-state has 2"),
        ({"closing_state": 3}, "partials has 1 partitions, closing-state has 3"),
    ],
)
async def test_a_state_topic_with_another_number_of_partitions_is_refused_before_anything_is_read(
    world: World, counts: dict[str, int], words: str
) -> None:
    worker = Worker(SETTINGS, METERS, [ListSink()], WorldBroker(world, **counts), pytest.fail, pytest.fail)
    with pytest.raises(ConfigurationError, match=words):
        await worker.start()


async def test_what_a_sink_refuses_for_good_is_parked_and_alarmed_and_holds_up_nothing(world: World) -> None:
    refused = Outcome("refused", "it is too large")
    sink = AnsweringSink(answer=lambda revision: refused if "T120000Z" in revision.window_id else DELIVERED)
    async with Running(world, sink) as running:
        await until(lambda: len(sink.received) == 2 and bool(running.worker.alarms))
        (alarm,) = running.worker.alarms
        assert (alarm.kind, alarm.what) == ("refused_revision", "it is too large")
        assert alarm.where.startswith("cosmos total~PT1M~20260101T120000Z")
        assert not running.over and not running.refused


async def test_a_courier_that_fails_by_a_defect_of_ours_ends_the_membership_and_says_which(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Courier, "apply", fail)
    async with Running(world, ListSink()) as running:
        await until(lambda: bool(running.over))
        assert running.over == ["courier-cosmos: ZeroDivisionError: a defect"]


async def test_other_definitions_end_the_worker_for_good_and_once(world: World) -> None:
    other = definitions({"meters": [meter("another")]})
    async with Running(world, ListSink(), other) as running:
        await until(lambda: bool(running.refused))
        assert "counted with other meters" in str(running.refused[0])
        await until(
            lambda: all(t.state == "stopped" for t in (running.worker.metering[0], running.worker.closing[0].task))
        )
        assert len(running.refused) == 1 and not running.over


async def test_an_alarm_of_a_stage_is_shown_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    offset = world.logs[USAGE, 0].end - 1
    world.logs[PARTIALS, 0].append(encode(Watermark(0, NOON + 2 * MINUTE + 30_000, offset, 99)), at_ms=NOON)
    with caplog.at_level(logging.ERROR, "meterline"):
        async with Running(world, ListSink()) as running:
            await until(lambda: bool(running.worker.alarms))
            assert running.worker.alarms[0].kind == "stages_out_of_balance"
    assert "alarm stages_out_of_balance" in caplog.text


async def test_a_record_of_somebody_else_stops_its_partition_and_no_other(world: World) -> None:
    world.logs[PARTIALS, 0].append(b"not ours", at_ms=NOON)
    async with Running(world, ListSink()) as running:
        await until(lambda: running.worker.closing[0].task.state == "stopped")
        assert "not ours" not in str(running.worker.closing[0].task.stopped)
        await until(lambda: running.worker.metering[0].state == "running")
        assert not running.over and not running.refused


async def test_while_it_restores_no_batch_should_come_and_before_and_after_it_may(world: World) -> None:
    worker = Worker(SETTINGS, METERS, [ListSink()], WorldBroker(world), pytest.fail, pytest.fail)
    await worker.start()
    assert worker.takes(USAGE, 0), "a batch may bring the assignment"
    worker.assigned([(USAGE, 0)], Membership(1, 1, "me"))
    assert not worker.takes(USAGE, 0)
    await until(lambda: worker.metering[0].state == "running")
    assert worker.takes(USAGE, 0)
    await worker.stop()


async def test_a_worker_that_ends_takes_nothing_any_more(world: World) -> None:
    async with Running(world, ListSink()) as running:
        await until(lambda: running.worker.closing[0].task.state == "running")
    assert running.worker.handed_over
    running.worker.assigned([(USAGE, 0), (PARTIALS, 0)], Membership(2, 2, "me"))
    assert not running.worker.metering and not running.worker.closing


async def test_a_last_checkpoint_that_fails_is_no_handing_over(
    world: World, no_checkpoint_but_the_last: None, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(effect: Effect) -> None:
        if isinstance(effect, Commit):
            raise ZeroDivisionError("a defect")

    running = Running(world, ListSink())
    async with running:
        await until(lambda: running.worker.metering[0].state == "running")
        committed = dict(world.committed)
        world.use(usage("more", NOON + 3 * MINUTE, n=1), at_ms=NOON + 3 * MINUTE)
        await running.read(USAGE)
        await until(lambda: running.worker.metering[0].position == world.logs[USAGE, 0].end)
        world.fault = fail  # type: ignore[assignment]
    assert not running.worker.handed_over
    assert "metering usage[0] could not be handed over" in caplog.text
    assert world.committed == committed
