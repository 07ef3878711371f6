"""Stopped, mended, and nothing lost: what is delivered in the end is what it would have been without the misfortune."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from schemas import changelog
from schemas.errors import BrokerError, NotMended, PartitionStopped
from streams.deployment import StageName
from streams.mending import mend_offset, rebuild
from tables.closing import ClosingTable
from tables.effects import Commit, Effect, Produce
from tables.metering import MeteringTable
from tests import pictures
from tests.streams.lives import PLACES, SOURCE, STATE, do, end, heal, in_balance, lived, look, use
from tests.usage import definitions, meter
from tests.world import AFTER, BEFORE, USAGE, ClosingProcess, Fault, Log, MeteringProcess, World

Misfortune = Callable[[World, StageName, int], None]
Place = tuple[StageName, int]


def offsets_expired(world: World, stage: StageName, partition: int) -> None:
    del world.committed[SOURCE[stage], partition]


def offset_moved_before_the_snapshot(world: World, stage: StageName, partition: int) -> None:
    world.committed[SOURCE[stage], partition] = 3


def offset_moved_between_checkpoints(world: World, stage: StageName, partition: int) -> None:
    world.committed[SOURCE[stage], partition] -= 1


def chain_broken(world: World, stage: StageName, partition: int) -> None:
    _put_another(world, stage, partition, after=2)


def chain_broken_at_the_snapshot(world: World, stage: StageName, partition: int) -> None:
    _put_another(world, stage, partition, after=0)


def _put_another(world: World, stage: StageName, partition: int, after: int) -> None:
    """In place of all chunks of a checkpoint lies a copy of another: the so manyth from the snapshot on."""
    records = world.logs[STATE[stage], partition].records
    chunks = [changelog.decode(record.value or b"") for record in records]
    begin, floor = chunks[-1].snapshot
    ends = sorted({chunk.end for chunk in chunks[begin:] if chunk.end >= floor})
    for offset in range(begin, len(records)):
        if chunks[offset].end == ends[after]:
            records[offset] = records[offset]._replace(value=records[0].value)


def changelog_made_anew(world: World, stage: StageName, partition: int) -> None:
    world.logs[STATE[stage], partition] = Log()


def changelog_emptied_by_retention(world: World, stage: StageName, partition: int) -> None:
    log = world.logs[STATE[stage], partition]
    log.begin = log.end


def changelog_emptied_and_offsets_expired(world: World, stage: StageName, partition: int) -> None:
    changelog_emptied_by_retention(world, stage, partition)
    offsets_expired(world, stage, partition)


def changelog_cut(world: World, stage: StageName, partition: int) -> None:
    world.logs[STATE[stage], partition].begin = world.logs[STATE[stage], partition].end - 1


def foreign_record_at_the_end(world: World, stage: StageName, partition: int) -> None:
    world.logs[STATE[stage], partition].append(b"hello")


def foreign_record_in_place_of_a_chunk(world: World, stage: StageName, partition: int) -> None:
    records = world.logs[STATE[stage], partition].records
    records[-1] = records[-1]._replace(value=b"hello")


OFFSET_IS_WRONG = [
    offsets_expired,
    offset_moved_before_the_snapshot,
    offset_moved_between_checkpoints,
    chain_broken,
]
STATE_IS_GONE = [
    chain_broken_at_the_snapshot,
    changelog_made_anew,
    changelog_emptied_by_retention,
    changelog_emptied_and_offsets_expired,
    changelog_cut,
    foreign_record_at_the_end,
    foreign_record_in_place_of_a_chunk,
]
EVERY = [*OFFSET_IS_WRONG, *STATE_IS_GONE]
WAYS = {
    "offsets_expired": "a-changelog-without-an-offset",
    "offset_moved_before_the_snapshot": "an-offset-before-the-snapshot",
    "offset_moved_between_checkpoints": "checkpoints-that-do-not-link",
    "chain_broken": "checkpoints-that-do-not-link",
    "chain_broken_at_the_snapshot": "checkpoints-that-do-not-link",
    "changelog_made_anew": "an-empty-changelog",
    "changelog_emptied_by_retention": "an-empty-changelog",
    "changelog_emptied_and_offsets_expired": "an-empty-changelog",
    "changelog_cut": "a-changelog-cut-below-its-snapshot",
    "foreign_record_at_the_end": "a-foreign-record-in-a-changelog",
    "foreign_record_in_place_of_a_chunk": "a-foreign-record-in-a-changelog",
}
UNTOUCHED = end(lived())


def owner(world: World, place: Place) -> MeteringProcess | ClosingProcess:
    return MeteringProcess(world, place[1]) if place[0] == "metering" else ClosingProcess(world, place[1])


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("misfortune", EVERY)
def test_what_the_diagnosis_says_mends_it_and_the_end_is_the_same(misfortune: Misfortune, place: Place) -> None:
    world = lived()
    misfortune(world, *place)
    with pytest.raises(PartitionStopped) as stopped:
        owner(world, place)
    found = look(world, *place)
    assert found.way == stopped.value.way == WAYS[misfortune.__name__]
    what = "offset" if misfortune in OFFSET_IS_WRONG else "rebuild"
    assert found.commands[0] == f"mend {what} {place[0]} {place[1]}"
    assert f"docs/mending.md#{found.way}" in found.hint
    assert f"app.py {found.commands[0]}" in found.hint
    assert heal(world) == [found.commands[0]]
    restored = owner(world, place).table
    if place[0] == "metering":
        assert isinstance(restored, MeteringTable)
        assert pictures.of_metering(world, restored) == pictures.plain_metering(world, place[1], restored.position)
    else:
        assert isinstance(restored, ClosingTable)
        assert pictures.of_closing(restored) == pictures.plain_closing(world, place[1], restored.position)
    assert end(world) == UNTOUCHED
    assert in_balance(world)


@pytest.mark.parametrize("misfortune", EVERY)
def test_all_partitions_at_once(misfortune: Misfortune) -> None:
    world = lived()
    for place in PLACES:
        misfortune(world, *place)
    if WAYS[misfortune.__name__] == "an-empty-changelog":
        with pytest.raises(NotMended, match="with which definitions"):
            world.mend(rebuild, *PLACES[0])
        for place in PLACES:
            world.mend(rebuild, *place, same_definitions=True)
    else:
        heal(world)
    assert end(world) == UNTOUCHED


@pytest.mark.parametrize("fault", [BEFORE, AFTER, Fault("torn", ("kept", "lost"))], ids=["before", "after", "torn"])
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("misfortune", EVERY)
def test_a_mending_that_is_interrupted_at_any_write_is_begun_again(
    misfortune: Misfortune, place: Place, fault: Fault
) -> None:
    for write in count(1):
        world = lived()
        misfortune(world, *place)
        world.fault = at_write(write, fault)
        try:
            do(world, look(world, *place).commands[0])
        except BrokerError:
            world.fault = lambda effect: None
            heal(world)
            assert end(world) == UNTOUCHED
        else:
            assert write > 1 or fault.fates, "every write was interrupted once"
            return


def at_write(number: int, fault: Fault) -> Callable[[Effect], Fault | None]:
    """The fault befalls the so manyth write, from 1; a torn one only where there is more than one record to tear."""
    seen = 0

    def befall(effect: Effect) -> Fault | None:
        nonlocal seen
        if not isinstance(effect, Produce | Commit) or (fault.fates and _records(effect) < 2):
            return None
        seen += 1
        if seen != number:
            return None
        return Fault("torn", (fault.fates * _records(effect))[: _records(effect)]) if fault.fates else fault

    return befall


def _records(effect: Effect) -> int:
    return len(effect.records) if isinstance(effect, Produce) else 0


def test_what_was_counted_while_the_offset_lay_too_far_back_is_counted_once() -> None:
    world = lived()
    world.committed[USAGE, 0] = 3
    use(world, 36, 44)
    do(world, "mend offset metering 0")
    other = lived()
    use(other, 36, 44)
    assert end(world) == end(other)


def test_an_offset_moved_forward_is_rebuilt_and_what_lies_between_is_sent() -> None:
    """Usage that no partial has told yet must reach CLOSING, even that of windows sealed on the way."""
    world = lived()
    use(world, 36, 80)
    world.logs["metering-state", 0] = Log()
    world.committed[USAGE, 0] = world.logs[USAGE, 0].end
    assert heal(world) == ["mend rebuild metering 0"]
    other = lived()
    use(other, 36, 80)
    assert end(world) == end(other)
    assert {letter["offset"] for letter in world.dead_letters()} == {
        letter["offset"] for letter in other.dead_letters()
    }


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_log_that_has_lost_its_beginning_rebuilds_nothing(place: Place) -> None:
    world = lived()
    changelog_made_anew(world, *place)
    world.logs[SOURCE[place[0]], place[1]].begin = 1
    assert look(world, *place).commands == ()
    with pytest.raises(NotMended, match="does not mend") as refused:
        world.mend(rebuild, *place)
    assert "METERLINE_APP_ID" in refused.value.hint and "docs/mending.md#new-topics" in refused.value.hint


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_foreign_record_beside_a_whole_chain_needs_no_source_log(place: Place) -> None:
    world = lived()
    foreign_record_at_the_end(world, *place)
    world.logs[SOURCE[place[0]], place[1]].begin = 5
    assert heal(world) == [f"mend rebuild {place[0]} {place[1]}"]
    world.logs[SOURCE[place[0]], place[1]].begin = 0
    assert end(world) == UNTOUCHED


def test_a_partition_that_began_late_in_its_log_is_rebuilt_from_there() -> None:
    """As long as its changelog still says where."""
    world = World(lived().definitions, sources=2, targets=2, record=400, snapshot_min=100_000)
    use(world, 0, 3)
    for partition in range(2):
        world.logs[USAGE, partition].begin = 2
    lived(world=world)
    foreign_record_in_place_of_a_chunk(world, "metering", 0)
    expected = MeteringProcess(world, 1)
    assert heal(world) == ["mend rebuild metering 0"]
    assert MeteringProcess(world, 0).table.ledger.read == expected.table.ledger.read


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_not_stopped_is_not_mended(place: Place) -> None:
    world = lived()
    for procedure in (mend_offset, rebuild):
        with pytest.raises(NotMended, match="nothing to mend"):
            world.mend(procedure, *place)
    assert end(world) == UNTOUCHED


def test_a_partition_that_has_not_begun_is_new_and_begins_by_itself() -> None:
    world = World(lived().definitions, sources=1, targets=1)
    assert look(world, "metering", 0).state == "new"
    assert look(world, "closing", 0).state == "new"


@pytest.mark.parametrize("stage", ["metering", "closing"])
def test_a_source_log_made_anew_takes_no_old_offset(stage: StageName) -> None:
    """With a topic its group's offsets are deleted, too: what is left looks like offsets that expired."""
    world, other = lived(), lived(rounds=20)
    offsets_expired(world, stage, 0)
    old, longer = world.logs[SOURCE[stage], 0], other.logs[SOURCE[stage], 0]
    anew = [record._replace(offset=at) for at, record in enumerate(longer.records[old.end :])]
    assert len(anew) >= old.end, "or its end would tell"
    old.records[:] = anew
    with pytest.raises(NotMended, match="made anew"):
        world.mend(mend_offset, stage, 0)
    assert (SOURCE[stage], 0) not in world.committed


def test_a_usage_log_made_anew_is_not_folded_into_old_partials() -> None:
    world = lived()
    changelog_made_anew(world, "metering", 0)
    records = world.logs[USAGE, 0].records
    records[2] = records[2]._replace(value=records[3].value)
    with pytest.raises(NotMended, match=r"folds .* not the log that was counted"):
        world.mend(rebuild, "metering", 0)
    assert world.logs["metering-state", 0].end == 0


def test_a_partials_log_that_is_not_whole_is_not_folded_into_revisions() -> None:
    world = lived()
    changelog_made_anew(world, "closing", 0)
    log = world.logs["partials", 0]
    log.records[4:9] = [log.records[3]._replace(offset=offset) for offset in range(4, 9)]
    with pytest.raises(NotMended, match="not whole"):
        world.mend(rebuild, "closing", 0)


def test_other_definitions_rebuild_nothing() -> None:
    world = lived()
    changelog_made_anew(world, "metering", 0)
    world.definitions = definitions({"meters": [meter("another")]})
    with pytest.raises(NotMended, match="other meters or stream settings"):
        world.mend(rebuild, "metering", 0)
    assert look(world, "metering", 1).way == "other-definitions"
