"""The joined watermark is the minimum over all sources, and the stages compare their books at it (design §3, §4)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.partials import NEVER
from tests.streams.stage import Stage, made
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import ClosingProcess, World, to_the_end


def test_there_is_no_watermark_until_every_source_has_spoken() -> None:
    stage = Stage(sources=3)
    for source in (0, 2):
        stage.mark(1000, source=source)
        assert stage.process.table.watermark_ms == NEVER
    stage.mark(10, source=1)
    assert stage.process.table.watermark_ms == NOON + 10 * SECOND


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500)), max_size=15))
def test_it_is_the_minimum_of_the_highest_each_source_said(said: list[tuple[int, int]]) -> None:
    stage = Stage(sources=3)
    before = NEVER
    for source, second in said:
        stage.mark(second, source=source)
        assert stage.process.table.watermark_ms >= before
        before = stage.process.table.watermark_ms
    highest = [max((second for of, second in said if of == source), default=None) for source in range(3)]
    if None in highest:
        assert before == NEVER
    else:
        assert before == NOON + min(second for second in highest if second is not None) * SECOND


def test_an_idle_partition_holds_everybody_up_until_it_ticks() -> None:
    world = World(definitions({"stream": {"max_delay": "none"}, "meters": [meter("total", grace="PT5S")]}), sources=2)
    world.use(usage("a", n=1))
    world.tick(NOON + 2 * MINUTE, 0)
    to_the_end(world)
    assert world.documents() == []
    world.tick(NOON + MINUTE + 5 * SECOND, 1)
    to_the_end(world)
    assert [document["value"] for document in world.documents()] == ["1"]


def test_a_watermark_whose_folds_were_joined_is_in_balance() -> None:
    stage = Stage()
    stage.pack(0, made(3, 30), made(2, 2, "max"))
    stage.mark(10, folds=5)
    assert stage.alarms() == []
    source = stage.process.table.sources[0]
    assert (source.folds, source.joined) == (5, 5), "both sides of the books, to be shown"


def test_folds_that_never_arrived_are_an_alarm() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(10, folds=4)
    assert stage.alarms() == ["stages_out_of_balance"]
    alarm = stage.process.stage.alarms[0]
    assert alarm.what == "usage partition 0 sent 4 folds, 3 were joined" and alarm.hint
    assert stage.process.table.counters.alarms == {"stages_out_of_balance": 1}


def test_an_imbalance_is_an_alarm_of_every_owner_until_it_is_gone() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(10, folds=4)
    told = stage.process.stage.alarms
    stage.process.checkpoint()
    next_owner = ClosingProcess(stage.world)
    assert next_owner.stage.alarms == told
    assert next_owner.table.counters.alarms == {"stages_out_of_balance": 1}, "told again, not counted again"
    stage.process = next_owner
    stage.partial(4, 40)
    stage.mark(11, folds=4)
    next_owner.checkpoint()
    assert ClosingProcess(stage.world).stage.alarms == []


def test_folds_that_were_never_sent_are_an_alarm() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(10, folds=2)
    assert stage.alarms() == ["stages_out_of_balance"]


def test_a_watermark_that_does_not_cover_every_joined_partial_is_not_compared() -> None:
    """A recovered source is behind what it sent before it died; that is no imbalance."""
    stage = Stage()
    stage.partial(9, 90, through=20)
    stage.mark(10, through=12, folds=4)
    assert stage.alarms() == []
    stage.mark(11, through=20, folds=9)
    assert stage.alarms() == []
