"""Where the logs do not prove the state, a partition stops, says why, and says how to mend it (design §2.3)."""

from __future__ import annotations

import msgspec
import pytest

from schemas import changelog
from schemas.errors import CommitRefused, PartitionStopped
from tables.effects import Effect, ReadBounds, ReadLog
from tables.stops import DefinitionsDiffer
from tests.tables.notes import LOG, STATE, Keeper, chunks, world, write
from tests.world import World

PLACE = (LOG, 0)


def kept(*lines: str) -> World:
    """A world whose log is checkpointed line by line."""
    made = world(*(lines or ("a=1", "b=2", "c=3")), slice=10_000)
    keeper = Keeper(made)
    for _ in range(made.logs[PLACE].end):
        keeper.read(1)
        keeper.checkpoint()
    return made


def stopped(made: World, partitions: int = 1) -> PartitionStopped:
    """The error of the next owner, which has neither written nor committed anything."""
    length, committed = made.logs[STATE, 0].end, dict(made.committed)
    with pytest.raises(PartitionStopped) as caught:
        Keeper(made, partitions)
    assert (made.logs[STATE, 0].end, made.committed) == (length, committed)
    error = caught.value
    assert (error.topic, error.partition, error.retryable) == (LOG, 0, False)
    assert str(error).startswith("log[0] stopped: ")
    return error


def test_a_committed_offset_that_the_source_no_longer_holds() -> None:
    made = kept()
    write(made, "d=4", "e=5", "f=6")
    made.logs[PLACE].begin = 5
    error = stopped(made)
    assert "committed offset 3 is no longer in log, which begins at 5: 2 offsets were removed" in error.what
    assert "do not reset the offset" in error.hint


def test_a_source_cut_exactly_to_the_committed_offset_is_fine() -> None:
    made = kept()
    made.logs[PLACE].begin = 3
    assert Keeper(made).table.notes == {"a": "1", "b": "2", "c": "3"}


def test_a_committed_offset_beyond_the_source() -> None:
    made = kept()
    del made.logs[PLACE].records[1:]
    error = stopped(made)
    assert "committed offset 3 lies beyond the end of log, 1" in error.what
    assert "made anew" in error.hint and "METERLINE_APP_ID" in error.hint


def test_an_offset_without_a_changelog() -> None:
    made = kept()
    made.logs[STATE, 0].records.clear()
    error = stopped(made)
    assert "there is a committed offset (3) but the changelog state is empty" in error.what
    assert "retention" in error.hint and "rebuild" in error.hint


def test_a_changelog_that_retention_has_emptied() -> None:
    made = kept()
    made.logs[STATE, 0].begin = made.logs[STATE, 0].end
    assert "is empty" in stopped(made).what


def test_a_changelog_without_an_offset() -> None:
    made = kept()
    del made.committed[PLACE]
    error = stopped(made)
    assert "state holds state, but there is no committed offset for log" in error.what
    assert "METERLINE_APP_ID" in error.hint and "overwrite true totals" in error.hint


def test_neither_an_offset_nor_the_state_that_there_was() -> None:
    made = kept()
    del made.committed[PLACE]
    made.logs[STATE, 0].begin = made.logs[STATE, 0].end
    error = stopped(made)
    assert (
        "state held state before its offset 4, which was removed, and there is no committed offset for log"
        in error.what
    )
    assert "`python app.py mend rebuild metering 0` folds log again" in error.hint


def test_a_changelog_of_first_acts_alone_is_no_state() -> None:
    made = world("a=1")
    Keeper(made)
    Keeper(made)
    del made.committed[PLACE]
    assert Keeper(made).table.position == 0


def test_a_changelog_cut_by_retention_below_its_snapshot() -> None:
    made = kept()
    made.logs[STATE, 0].begin = 1
    error = stopped(made)
    assert "newest snapshot of state began at its offset 0, which now begins at 1" in error.what
    assert "retention" in error.hint


def test_an_offset_moved_back_behind_the_snapshot() -> None:
    made = kept()
    keeper = Keeper(made)
    write(made, "d=4")
    keeper.read()
    keeper.checkpoint(snapshot_due=True)
    write(made, "e=5")
    keeper.read()
    keeper.checkpoint()
    made.committed[PLACE] = 3
    error = stopped(made)
    assert "the committed offset 3 lies before the newest snapshot of state, which begins at 4" in error.what
    assert "put the offset back" in error.hint


@pytest.mark.parametrize("moved", [1, 3])
def test_an_offset_moved_by_hand_to_where_no_checkpoint_ends(moved: int) -> None:
    made = world("a=1", "b=2", "c=3", "d=4")
    keeper = Keeper(made)
    for _ in range(2):
        keeper.read(2)
        keeper.checkpoint()
    made.committed[PLACE] = moved
    error = stopped(made)
    assert f"from the snapshot at 0 to the committed offset {moved}; they reach {moved - 1}" in error.what
    assert "moved by hand" in error.hint


def test_an_offset_moved_by_hand_to_an_earlier_checkpoint_is_that_state() -> None:
    made = kept()
    made.committed[PLACE] = 2
    assert Keeper(made).table.notes == {"a": "1", "b": "2"}


@pytest.mark.parametrize("hole", [1, 2, 3])
def test_a_changelog_with_a_hole(hole: int) -> None:
    made = kept()
    chain = made.logs[STATE, 0].records
    chain[hole] = chain[hole]._replace(value=chain[0].value)
    error = stopped(made)
    assert "do not lead from the snapshot at 0 to the committed offset 3" in error.what
    assert "lost records" in error.hint


def test_a_snapshot_with_a_hole_where_it_begins() -> None:
    """The checkpoint that ends at the snapshot's offset is a link like the others."""
    made = kept()
    keeper = Keeper(made)
    keeper.checkpoint(snapshot_due=True)
    write(made, "d=4")
    keeper.read()
    keeper.checkpoint()
    assert chunks(made)[-1].snapshot == (4, 3)
    records = made.logs[STATE, 0].records
    records[4] = records[4]._replace(value=records[1].value)
    assert "do not lead from the snapshot at 3" in stopped(made).what


def test_a_changelog_of_another_partition_count() -> None:
    error = stopped(kept(), partitions=2)
    assert "belongs to a log of 1 partitions; it has 2 now" in error.what
    assert "never change in place" in error.hint


@pytest.mark.parametrize("entries", ["not a list of entries", [["block", b"", b"no block"]]])
def test_a_record_that_looks_like_a_chunk_and_holds_no_entries(entries: object) -> None:
    made = kept()
    records = made.logs[STATE, 0].records
    fields = msgspec.msgpack.decode(records[1].value or b"")
    fields[-1] = entries
    records[1] = records[1]._replace(value=msgspec.msgpack.encode(fields))
    assert "record 1 of state is no chunk of a checkpoint" in stopped(made).what


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize("foreign", [b"", b"hello", b'{"a": 1}', b"\xc1", b"\x9b\xa1\xff"])
def test_a_record_of_somebody_else_in_the_changelog(foreign: bytes, place: int) -> None:
    made = kept()
    records = made.logs[STATE, 0].records
    records[place] = records[place]._replace(value=foreign)
    error = stopped(made)
    assert f"record {place} of state is no chunk of a checkpoint" in error.what
    assert "to meterline alone" in error.hint


def test_a_record_of_somebody_else_where_a_first_act_would_be() -> None:
    made = world("a=1")
    made.logs[STATE, 0].append(b"hello")
    assert "record 0 of state is no chunk" in stopped(made).what


def test_state_that_was_counted_with_other_definitions_refuses_this_worker() -> None:
    made = kept()
    records = made.logs[STATE, 0].records
    for index, chunk in enumerate(chunks(made)):
        other = msgspec.structs.replace(chunk, definitions="another")
        records[index] = records[index]._replace(value=changelog.encode(other))
    with pytest.raises(DefinitionsDiffer) as caught:
        Keeper(made)
    assert "log[0]: this partition was counted with other meters or stream settings" in str(caught.value)
    assert "the meters file the deployment began with" in caught.value.hint


def test_a_changelog_that_cannot_be_read_is_not_taken_for_an_empty_one() -> None:
    made = kept()
    real = made.perform

    def silent(process: object, effect: Effect) -> object:
        return [] if isinstance(effect, ReadLog) else real(process, effect)  # type: ignore[arg-type]

    made.perform = silent  # type: ignore[method-assign]
    error = stopped(made)
    assert "says it has records (0 to 4), but none can be read" in error.what


def test_what_a_zombie_finds_wrong_stops_nobody() -> None:
    """Frozen between the committed offset and the changelog's bounds: what it reads is newer, and no reason for an alarm."""
    made = kept()

    def wake(effect: Effect) -> None:
        if isinstance(effect, ReadBounds) and effect.topic == STATE:
            made.fault = lambda effect: None
            write(made, "d=4", "e=5")
            owner = Keeper(made)
            owner.read()
            owner.checkpoint(snapshot_due=True)
            write(made, "f=6")
            owner.read()
            owner.checkpoint()
            made.logs[STATE, 0].begin = owner.durable.snapshot[0]

    made.fault = wake
    with pytest.raises(CommitRefused, match=r"went on from 3 to 6 while this owner recovered"):
        Keeper(made)
