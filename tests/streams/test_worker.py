"""One worker: what it refuses to begin with, what ends its membership, what ends it for good, and what it shows."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from schemas.errors import ConfigurationError, MeterlineError
from schemas.partials import Watermark, encode
from schemas.records import Batch
from sinks.contract import DELIVERED, Outcome
from streams.delivery import Courier
from streams.worker import Worker
from tables.effects import Commit, Effect
from tests.streams.running import METERS, SETTINGS, AnsweringSink, Running, WorldBroker, two_closed_windows, until
from tests.usage import MINUTE, NOON, ListSink, definitions, meter, usage
from tests.world import PARTIALS, USAGE, World
from transport.membership import Membership


def failing(error: MeterlineError) -> None:
    pytest.fail(str(error))


@pytest.fixture
def world() -> World:
    return two_closed_windows()


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
    worker = Worker(SETTINGS, METERS, [ListSink()], WorldBroker(world, **counts), pytest.fail, failing)
    with pytest.raises(ConfigurationError, match=words):
        await worker.start()


@pytest.mark.parametrize("topic", [USAGE, PARTIALS])
async def test_a_topic_that_was_grown_meanwhile_is_refused_before_anything_of_it_is_folded(
    world: World, topic: str
) -> None:
    refused: list[MeterlineError] = []
    worker = Worker(SETTINGS, METERS, [ListSink()], WorldBroker(world), pytest.fail, refused.append)
    await worker.start()
    committed, generations = dict(world.committed), dict(world.generations)
    worker.assigned([(USAGE, 0), (PARTIALS, 0), (topic, 1)], Membership(1, 1, "me"))
    await worker.offer(topic, 1, Batch(0, 1, list(world.logs[USAGE, 0].records[:1])))
    assert not worker.metering and not worker.closing
    await worker.stop()
    (error,) = refused
    assert isinstance(error, ConfigurationError)
    assert f"{topic} had 1 partitions when this worker started, and has a partition 1 now" in str(error)
    assert "never change in place" in str(error) and "a new METERLINE_APP_ID with new topics" in error.hint
    assert not worker.handed_over
    assert (world.committed, world.generations) == (committed, generations)


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
    worker = Worker(SETTINGS, METERS, [ListSink()], WorldBroker(world), pytest.fail, failing)
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


async def test_a_last_checkpoint_that_fails_is_no_handing_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def fail(effect: Effect) -> None:
        if isinstance(effect, Commit):
            raise ZeroDivisionError("a defect")

    running = Running(world, ListSink(), settings=replace(SETTINGS, checkpoint_ms=3_600_000))
    async with running:
        await until(lambda: running.worker.metering[0].state == "running")
        committed = dict(world.committed)
        world.use(usage("more", NOON + 3 * MINUTE, n=1), at_ms=NOON + 3 * MINUTE)
        await running.read(USAGE)
        await until(lambda: running.worker.metering[0].position == world.logs[USAGE, 0].end)
        world.fault = fail
    assert not running.worker.handed_over
    assert "metering usage[0] could not be handed over" in caplog.text
    assert world.committed == committed
