"""Snapshots roll: a new one slice by slice along with checkpoints, named only when it is whole and accepted (design §2.2)."""

from __future__ import annotations

import random

import pytest

from schemas.errors import BrokerError
from tables.effects import Commit, Effect, Produce
from tests.tables.notes import LOG, STATE, Keeper, Notes, chunks, state, world, write
from tests.world import BEFORE, Fault, World

SLICE = 40
"""Bytes of a slice: about four notes."""


def keep(made: World, keeper: Keeper, *lines: str, snapshot_due: bool = False) -> None:
    """More lines, and a checkpoint over them."""
    write(made, *lines)
    keeper.read()
    keeper.checkpoint(snapshot_due=snapshot_due)


def large(**durable: int) -> tuple[World, Keeper]:
    """Twelve notes in one checkpoint, to offset 12."""
    made = world(*[f"note-{number:02d}=first" for number in range(12)], **({"slice": SLICE} | durable))
    keeper = Keeper(made)
    keeper.read()
    keeper.checkpoint()
    return made, keeper


def test_a_snapshot_rolls_over_several_checkpoints_and_is_named_after_the_last() -> None:
    made, keeper = large()
    first = keeper.durable.snapshot
    began_at = made.logs[STATE, 0].end
    keep(made, keeper, "a=1", snapshot_due=True)
    rolling = 1
    while keeper.durable.snapshot == first:
        keep(made, keeper, f"a={rolling}")
        rolling += 1
    assert rolling > 2
    assert keeper.durable.snapshot == (began_at, 13)
    keep(made, keeper, "b=1")
    assert chunks(made)[-1].snapshot == (began_at, 13)
    assert {chunk.snapshot for chunk in chunks(made)[:-1]} == {first}


def test_after_a_snapshot_nothing_before_it_is_needed() -> None:
    made, keeper = large()
    keep(made, keeper, "note-00=", "note-01=second", "+x", snapshot_due=True)
    for number in range(9):
        keep(made, keeper, f"a={number}")
    before = state(made)
    needed, _ = keeper.durable.snapshot
    assert needed > 1
    made.logs[STATE, 0].begin = needed
    assert state(made) == before
    assert len(before[0]) == 12 and before[1] == {b"x"}


def test_what_changes_or_goes_while_a_snapshot_rolls_is_right_whether_its_slice_is_written_or_not() -> None:
    made, keeper = large()
    keep(made, keeper, "+x", snapshot_due=True)
    keep(made, keeper, "note-00=changed", "note-11=changed", "note-05=changed", "+y")
    keep(made, keeper, "note-01=", "note-10=", "note-06=")
    for number in range(9):
        keep(made, keeper, f"a={number}")
    made.logs[STATE, 0].begin = keeper.durable.snapshot[0]
    notes, things = state(made)
    wanted = {f"note-{n:02d}": "changed" if n in (0, 5, 11) else "first" for n in range(12) if n not in (1, 6, 10)}
    assert notes == wanted | {"a": "8"}
    assert things == {b"x", b"y"}


def test_chunks_before_the_snapshots_source_offset_are_ignored() -> None:
    """A late chunk from before the snapshot may carry a key whose removal the snapshot does not mention."""
    made = world("a=1", "a=", "b=1")
    keeper = Keeper(made)
    keeper.read(1)
    made.fault = lambda effect: Fault("torn", ("late",)) if isinstance(effect, Produce) else None
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    made.fault = lambda effect: None
    again = Keeper(made)
    again.read()
    again.checkpoint()
    again.checkpoint(snapshot_due=True)
    keep(made, again, "c=1", snapshot_due=True)
    assert again.durable.snapshot[1] == 4
    made.arrive()
    keep(made, again, "d=1")
    assert [chunk.end for chunk in chunks(made)][-2:] == [1, 5]
    assert state(made) == ({"b": "1", "c": "1", "d": "1"}, set())


def test_a_snapshot_whose_owner_dies_in_the_middle_is_never_named() -> None:
    made, keeper = large()
    keep(made, keeper, "a=1", snapshot_due=True)
    keep(made, keeper, "a=2")
    successor = Keeper(made)
    assert successor.durable.snapshot == (0, 0)
    keep(made, successor, "b=1")
    assert chunks(made)[-1].snapshot == (0, 0)
    assert len(state(made)[0]) == 14


def test_a_snapshot_whose_last_slice_is_not_accepted_is_never_named() -> None:
    made, keeper = large(slice=10_000)
    write(made, "a=1")
    keeper.read()
    made.fault = lambda effect: BEFORE if isinstance(effect, Commit) else None
    with pytest.raises(BrokerError):
        keeper.checkpoint(snapshot_due=True)
    made.fault = lambda effect: None
    assert Keeper(made).durable.snapshot == (0, 0)
    assert {chunk.snapshot for chunk in chunks(made)} == {(0, 0)}


def test_a_new_snapshot_begins_when_the_chunks_outweigh_the_state() -> None:
    made = world(slice=10_000, snapshot_min=2_000)
    keeper = Keeper(made)
    snapshots = set()
    for number in range(100):
        keep(made, keeper, f"a={number}", f"b={number}")
        snapshots.add(keeper.durable.snapshot)
    assert 2 < len(snapshots) < 50
    log_offset, _ = keeper.durable.snapshot
    weight = sum(len(record.value or b"") for record in made.logs[STATE, 0].records[log_offset:])
    assert weight < 2 * 2_000


def test_a_snapshot_that_is_due_is_written_even_where_nothing_is_new() -> None:
    """Retention takes the old one otherwise, and an idle partition would stop for want of its state (daily, design §2.2)."""
    made, keeper = large(slice=10_000)
    for _ in range(2):
        assert keeper.checkpoint(snapshot_due=True) is True
        assert keeper.checkpoint() is False
    named, _ = chunks(made)[-1].snapshot
    assert named == 2, "the first of the two, whole and accepted when the second was written"
    made.logs[STATE, 0].begin = named
    assert len(state(made)[0]) == 12


def test_an_idle_partition_lives_on_as_long_as_its_snapshots_are_renewed() -> None:
    made, keeper = large(slice=SLICE)
    for _ in range(20):
        keeper.checkpoint(snapshot_due=True)
        made.logs[STATE, 0].begin = chunks(made)[-1].snapshot[0]
        assert len(Keeper(made).table.notes) == 12
        keeper.generation = made.generations[LOG, 0]
    assert made.logs[STATE, 0].begin > 10


def test_a_late_chunk_of_a_zombie_may_name_an_older_snapshot() -> None:
    made, keeper = large(slice=10_000)
    write(made, "a=1", "b=1")
    keeper.read(1)
    made.fault = lambda effect: Fault("torn", ("late",)) if isinstance(effect, Produce) else None
    with pytest.raises(BrokerError):
        keeper.checkpoint()
    made.fault = lambda effect: None
    again = Keeper(made)
    again.read()
    again.checkpoint(snapshot_due=True)
    keep(made, again, "note-00=", "c=1")
    made.arrive()
    assert chunks(made)[-1].snapshot == (0, 0) != again.durable.snapshot
    assert len(state(made)[0]) == 14


@pytest.mark.parametrize("seed", range(150))
def test_any_interruption_of_any_snapshot_leaves_the_state_of_the_committed_offset(seed: int) -> None:
    """Random logs, slices, tears, late arrivals and zombies; retention cuts whatever no snapshot needs."""
    rng = random.Random(seed)
    made = world(slice=rng.choice([1, 20, 60]), snapshot_min=rng.choice([0, 100, 100_000]))
    owner = Keeper(made)
    zombies: list[Keeper] = []

    def misfortune(effect: Effect) -> Fault | None:
        if isinstance(effect, Produce) and rng.random() < 0.15:
            return Fault("torn", (*(rng.choice(["kept", "lost", "late"]) for _ in effect.records[1:]), "lost"))
        return BEFORE if isinstance(effect, Commit) and rng.random() < 0.1 else None

    for _ in range(60):
        name = f"n{rng.randrange(8)}"
        write(made, rng.choice([f"{name}=", f"{name}={rng.randrange(3)}", f"+{rng.randrange(30)}"]))
        if made.late and rng.random() < 0.3:
            made.arrive(rng.randrange(len(made.late)))
        process = rng.choice(zombies) if zombies and rng.random() < 0.3 else owner
        process.read(rng.randrange(4))
        made.fault = misfortune
        try:
            if rng.random() < 0.5:
                process.checkpoint(snapshot_due=rng.random() < 0.3)
                failed = rng.random() < 0.15
            else:
                failed = rng.random() < 0.1
        except BrokerError:
            failed = True
        made.fault = lambda effect: None
        if failed and process is owner:
            zombies = [*zombies, owner][-2:] if rng.random() < 0.5 else zombies
            owner = Keeper(made)
            assert_state(made, owner)
    while made.late:
        made.arrive()
    assert_state(made, Keeper(made))


def assert_state(made: World, keeper: Keeper) -> None:
    """The restored state is what the log says up to the committed offset."""
    plain = Notes()
    for record in made.logs[LOG, 0].records[: made.committed[LOG, 0]]:
        plain.fold(record.value or b"")
    assert keeper.table.position == made.committed[LOG, 0]
    assert (keeper.table.notes, keeper.table.things) == (plain.notes, plain.things)


def test_being_restored_is_no_reason_to_write_the_whole_state_again() -> None:
    """Each rebalance would cost it; a new snapshot is for what has come since the last one."""
    made = world(*[f"note-{number:02d}=" + "x" * 1000 for number in range(12)], slice=20_000, snapshot_min=10)
    keeper = Keeper(made)
    keeper.read()
    keeper.checkpoint()
    keep(made, keeper, "+thing", snapshot_due=True)
    keep(made, keeper, "a=1")
    snapshot = keeper.durable.snapshot
    assert snapshot == chunks(made)[-1].snapshot == (2, 13)
    for number in range(3):
        keeper = Keeper(made)
        keep(made, keeper, f"a={number}")
        keep(made, keeper, f"b={number}")
        assert keeper.durable.snapshot == snapshot
    while keeper.durable.snapshot == snapshot:
        keep(made, keeper, "a=" + "y" * 1000)
        assert made.logs[STATE, 0].end < 100, "a new one comes, for the changelog must not grow for ever"


def test_a_changelog_stays_short_however_often_its_partition_moves() -> None:
    made, keeper = large(snapshot_min=10, slice=10_000)
    longest = 0
    for number in range(300):
        keeper = Keeper(made)
        keep(made, keeper, f"a={number}", f"+{number:03d}", f"b={number}")
        longest = max(longest, made.logs[STATE, 0].end - keeper.durable.snapshot[0])
    assert longest < 250, "records that the next recovery reads"
