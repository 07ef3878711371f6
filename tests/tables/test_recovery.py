"""Recovery restores exactly the committed offset, whatever else the changelog holds (design §2.2, §2.3)."""

from __future__ import annotations

import pytest

from schemas.errors import BrokerError
from tables.effects import Commit, Effect, Produce, ReadBounds, ReadCommitted, ReadLog
from tests.tables.notes import LOG, STATE, Keeper, chunks, state, world, write
from tests.world import AFTER, BEFORE, Fault, World

PLACE = (LOG, 0)


def torn(*fates: str) -> Fault:
    return Fault("torn", fates)


def fail_next(made: World, kind: type[Effect], fault: Fault) -> None:
    """The next effect of a kind meets this fault; then all is well again."""

    def once(effect: Effect) -> Fault | None:
        if isinstance(effect, kind):
            made.fault = lambda effect: None
            return fault
        return None

    made.fault = once


def kinds(made: World) -> list[type[Effect]]:
    """Records the kinds of effects that are performed from here on."""
    seen: list[type[Effect]] = []

    def see(effect: Effect) -> None:
        seen.append(type(effect))

    made.fault = see
    return seen


def test_the_first_act_is_an_empty_snapshot_at_the_starting_offset_then_its_commit() -> None:
    made = world("a=1")
    order = kinds(made)
    keeper = Keeper(made)
    assert order == [ReadCommitted, ReadBounds, ReadBounds, Produce, Commit]
    assert made.committed == {PLACE: 0}
    assert [(c.first_act, c.start, c.end, c.snapshot, list(c.entries)) for c in chunks(made)] == [
        (True, 0, 0, (0, 0), [])
    ]
    assert keeper.table.position == 0


def test_a_partition_that_retention_has_cut_before_its_first_act_begins_where_its_log_begins() -> None:
    made = world("gone=1", "gone=2", "a=1")
    made.logs[PLACE].begin = 2
    keeper = Keeper(made)
    assert (keeper.table.position, made.committed) == (2, {PLACE: 2})
    keeper.read()
    keeper.checkpoint()
    assert state(made) == ({"a": "1"}, set())


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
@pytest.mark.parametrize("kind", [Produce, Commit])
def test_a_first_act_that_is_interrupted_is_simply_done_again(kind: type[Effect], fault: Fault) -> None:
    made = world("a=1")
    fail_next(made, kind, fault)
    with pytest.raises(BrokerError):
        Keeper(made)
    keeper = Keeper(made)
    keeper.read()
    keeper.checkpoint()
    assert state(made) == ({"a": "1"}, set())


def test_the_state_at_the_committed_offset_comes_back() -> None:
    made = world("a=1", "b=2", "+x", "a=3", "b=", "+y")
    keeper = Keeper(made)
    for _ in range(6):
        keeper.read(1)
        keeper.checkpoint()
    restored = Keeper(made)
    assert restored.table.position == made.committed[PLACE] == 6
    assert (restored.table.notes, restored.table.things) == ({"a": "3"}, {b"x", b"y"})


def test_chunks_are_acknowledged_before_the_offset_is_committed() -> None:
    made = world("a=1")
    keeper = Keeper(made)
    keeper.read()
    order = kinds(made)
    keeper.checkpoint()
    assert order == [Produce, Commit]
    assert (chunks(made)[-1].start, chunks(made)[-1].end) == (0, 1)


@pytest.mark.parametrize("fault", [BEFORE, AFTER, torn("lost"), torn("late")])
def test_chunks_that_were_not_acknowledged_commit_nothing(fault: Fault) -> None:
    made = world("a=1", "a=2")
    keeper = Keeper(made)
    keeper.read(1)
    keeper.checkpoint()
    keeper.read(1)
    fail_next(made, Produce, fault)
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    assert made.committed[PLACE] == 1
    assert state(made) == ({"a": "1"}, set())


def test_chunks_beyond_the_committed_offset_are_ignored() -> None:
    made = world("a=1", "a=2", "b=1", "+x")
    keeper = Keeper(made)
    keeper.read(1)
    keeper.checkpoint()
    keeper.read()
    fail_next(made, Commit, BEFORE)
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    assert chunks(made)[-1].end == 4
    assert state(made) == ({"a": "1"}, set())


def test_a_commit_whose_answer_was_lost_counts() -> None:
    made = world("a=1")
    keeper = Keeper(made)
    keeper.read()
    fail_next(made, Commit, AFTER)
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    restored = Keeper(made)
    assert (restored.table.position, restored.table.notes) == (1, {"a": "1"})


def test_chunks_that_were_ignored_once_are_right_when_the_commit_passes_them() -> None:
    made = world("a=1", "a=2", "b=1", "a=3")
    keeper = Keeper(made)
    keeper.read(3)
    fail_next(made, Commit, BEFORE)
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    again = Keeper(made)
    again.read(2)
    again.checkpoint()
    again = Keeper(made)
    assert again.table.notes == {"a": "2"}
    again.read()
    again.checkpoint()
    assert state(made) == ({"a": "3", "b": "1"}, set())


def test_the_highest_end_wins_not_the_last_in_the_log() -> None:
    made = world("a=1", "a=2", "a=3")
    keeper = Keeper(made)
    keeper.read(1)
    fail_next(made, Produce, torn("late"))
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    again = Keeper(made)
    again.read()
    again.checkpoint()
    made.arrive()
    assert [chunk.end for chunk in chunks(made)] == [0, 3, 1]
    assert state(made) == ({"a": "3"}, set())


def test_a_removal_wins_by_its_end_like_any_value() -> None:
    made = world("a=1", "a=", "b=1")
    keeper = Keeper(made)
    keeper.read(1)
    fail_next(made, Produce, torn("late"))
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    again = Keeper(made)
    again.read(2)
    again.checkpoint()
    made.arrive()
    assert state(made) == ({}, set()), "an older value that arrives later does not bring the key back"


def test_a_value_that_is_back_where_it_was_is_written_again() -> None:
    """A zombie may have written the value in between; only what is touched in a range can overrule it."""
    made = world("a=1", "a=2", "a=1", "b=1")
    keeper = Keeper(made)
    keeper.read(1)
    keeper.checkpoint()
    zombie = keeper
    zombie.read(1)
    again = Keeper(made)
    again.read(2)
    again.checkpoint()
    with pytest.raises(BrokerError):
        zombie.checkpoint()
    assert state(made) == ({"a": "1"}, set())


def test_a_zombies_chunks_are_right_ones_or_are_ignored() -> None:
    made = world("a=1", "a=2", "b=1", "b=", "+x", "a=5")
    zombie = Keeper(made)
    zombie.read(1)
    zombie.checkpoint()
    owner = Keeper(made)
    zombie.read(3)
    with pytest.raises(BrokerError):
        zombie.checkpoint()
    owner.read(2)
    owner.checkpoint()
    assert state(made) == ({"a": "2", "b": "1"}, set()), "reaches beyond the committed offset"
    owner = Keeper(made)
    owner.read()
    owner.checkpoint()
    assert state(made) == ({"a": "5"}, {b"x"}), "is within it, and overruled"


def test_a_refused_commit_ends_the_owner_and_accepts_nothing() -> None:
    made = world("a=1", "b=1")
    zombie = Keeper(made)
    Keeper(made)
    zombie.read()
    with pytest.raises(BrokerError):
        zombie.checkpoint()
    assert made.committed[PLACE] == 0
    assert zombie.durable.accepted == 0


def test_a_checkpoint_with_nothing_new_writes_nothing() -> None:
    made = world("a=1")
    keeper = Keeper(made)
    keeper.read()
    assert keeper.checkpoint() is True
    length = made.logs[STATE, 0].end
    order = kinds(made)
    assert keeper.checkpoint() is False
    assert Keeper(made).checkpoint() is False
    assert made.logs[STATE, 0].end == length
    assert Produce not in order and Commit not in order


def test_an_offset_that_moved_without_a_change_is_committed_too() -> None:
    """Records may change nothing; the next owner still need not read them again."""
    made = world("a=", "a=")
    keeper = Keeper(made)
    keeper.table._touched.clear()
    keeper.table.position = 2
    assert keeper.checkpoint() is True
    assert made.committed[PLACE] == 2
    assert Keeper(made).table.position == 2


def test_every_record_of_a_large_checkpoint_is_at_most_64_kb_and_numbered() -> None:
    made = world(*[f"n{number:03d}=" + "x" * 3000 for number in range(100)])
    keeper = Keeper(made)
    keeper.read()
    keeper.checkpoint()
    written = made.logs[STATE, 0].records[1:]
    assert len(written) > 3
    assert max(len(record.value or b"") for record in written) <= 64_000
    assert [(chunk.index, chunk.of) for chunk in chunks(made)[1:]] == [(i, len(written)) for i in range(len(written))]
    assert len(state(made)[0]) == 100


@pytest.mark.parametrize("missing", range(5))
def test_an_offset_is_proven_by_whole_checkpoints_only(missing: int) -> None:
    """A torn checkpoint leads nowhere, even where a later, shorter one reaches the same offset."""
    made = world(*[f"n{number}=" + "x" * 30_000 for number in range(10)])
    keeper = Keeper(made)
    keeper.read()
    fail_next(made, Produce, torn(*["lost" if index == missing else "kept" for index in range(5)]))
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    again = Keeper(made)
    assert again.table.position == 0
    again.read(4)
    again.checkpoint()
    assert len(state(made)[0]) == 4


def test_chunks_of_two_owners_never_complete_each_other() -> None:
    """Both wrote the same range, each half of it; together they are no checkpoint, and the state has neither's."""
    lines = [f"n{number}=" + "x" * 40_000 for number in range(2)]
    made = world(*lines)
    for fates in (("kept", "lost"), ("lost", "kept")):
        keeper = Keeper(made)
        keeper.read()
        fail_next(made, Produce, torn(*fates))
        with pytest.raises(BrokerError):
            keeper.checkpoint()
    made.committed[PLACE] = 2
    with pytest.raises(Exception, match="do not lead from the snapshot at 0 to the committed offset 2; they reach 0"):
        Keeper(made)


def test_recovery_reads_nothing_twice_and_nothing_beyond_the_end_it_saw() -> None:
    made = world(*[f"a={number}" for number in range(1, 30)])
    keeper = Keeper(made)
    for _ in range(29):
        keeper.read(1)
        keeper.checkpoint()
    reads: list[ReadLog] = []

    def see(effect: Effect) -> None:
        if isinstance(effect, ReadLog):
            reads.append(effect)
            made.logs[STATE, 0].append(made.logs[STATE, 0].records[1].value)

    end = made.logs[STATE, 0].end
    made.fault = see
    restored = Keeper(made)
    assert restored.table.notes == {"a": "29"}
    assert {read.end for read in reads} == {end}
    offsets = [read.offset for read in reads[1:]]
    assert offsets == sorted(set(offsets))


def test_recovery_says_how_far_it_is() -> None:
    made = world(*[f"a={number}" for number in range(1, 30)])
    keeper = Keeper(made)
    for _ in range(29):
        keeper.read(1)
        keeper.checkpoint()
    told: list[float] = []
    restored = Keeper(made)
    restored.durable.on_restored = told.append
    restored.run(restored.durable.recover())
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 2


def test_what_was_written_after_a_batch_grew_is_still_ordered_by_offset() -> None:
    made = world("a=1")
    keeper = Keeper(made)
    keeper.read()
    keeper.checkpoint()
    write(made, "a=2", "b=1")
    keeper.read()
    keeper.checkpoint()
    assert [(chunk.start, chunk.end) for chunk in chunks(made)] == [(0, 0), (0, 1), (1, 3)]
