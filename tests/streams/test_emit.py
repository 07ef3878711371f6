"""What METERING sends, and in which order: partials and dead letters, acknowledged; then watermarks; then the checkpoint."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import partials as wire
from schemas.errors import BrokerError
from schemas.hashing import partition_for
from schemas.partials import Partial, PartialRows, Partials, StageRecord, Watermark
from tables.effects import Commit, Effect, Produce
from tests import pictures
from tests.streams.road import DEFINITIONS as ROADS
from tests.streams.road import Road
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import BEFORE, DEAD, PARTIALS, USAGE, Fault, MeteringProcess, World

DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "none", "correct_for": "PT1H"},
        "meters": [meter("total", windows=["PT1M", "PT1H"]), meter("users", "unique_count", value="/user")],
    }
)
RECORD_LIMIT = 64_000
"""Within 64 KB, by which Event Hubs bills."""


def world(targets: int = 1) -> tuple[World, MeteringProcess]:
    made = World(DEFINITIONS, targets=targets)
    return made, MeteringProcess(made)


def sent(made: World, target: int = 0) -> list[StageRecord]:
    return [wire.decode(record.value or b"") for record in made.logs[PARTIALS, target].records]


def items(made: World, name: str) -> list[Partial]:
    """The partials of a meter that were sent."""
    packed = [record for record in sent(made) if not isinstance(record, Watermark)]
    return [item for record in packed for item in record.items if item.meter == name]


def test_a_watermark_is_sent_only_after_the_partials_it_covers_are_acknowledged() -> None:
    made, process = world()
    made.use(usage("a", n=1, user="u"))
    process.read()
    seen: list[Effect] = []
    made.fault = seen.append
    process.emit()
    kinds = [[type(wire.decode(out.value)) for out in effect.records] for effect in seen if isinstance(effect, Produce)]
    assert kinds == [[PartialRows, Partials], [Watermark]]


@pytest.mark.parametrize(
    "fault", [BEFORE, Fault("torn", ("lost", "kept", "kept")), Fault("torn", ("kept", "late", "kept"))]
)
def test_partials_that_were_not_acknowledged_have_no_watermark(fault: Fault) -> None:
    made, process = world()
    made.use(usage("a", n=1, user="u"), b"{}")
    process.read()
    made.fault = lambda effect: fault
    with pytest.raises(BrokerError):
        process.emit()
    assert not any(isinstance(record, Watermark) for record in sent(made))


def test_dead_letters_are_acknowledged_before_the_offset_passes_them() -> None:
    made, process = world()
    made.use(b"bad")
    process.read()
    made.fault = lambda effect: BEFORE if isinstance(effect, Produce) and effect.records[0].topic == DEAD else None
    with pytest.raises(BrokerError):
        process.checkpoint()
    assert made.committed == {(USAGE, 0): 0}
    made.fault = lambda effect: None
    again = MeteringProcess(made)
    again.read()
    again.checkpoint()
    assert len(made.dead_letters()) == 1 and made.committed == {(USAGE, 0): 1}


def test_a_checkpoint_emits_first() -> None:
    made, process = world()
    made.use(usage("a", n=1, user="u"))
    process.read()
    seen: list[Effect] = []
    made.fault = seen.append
    process.checkpoint()
    topics = [effect.records[0].topic if isinstance(effect, Produce) else type(effect) for effect in seen]
    assert topics == [PARTIALS, PARTIALS, "metering-state", Commit]


def test_what_is_to_be_forgotten_leaves_first() -> None:
    """The window is sealed by the very batch that has its last event; its partial is sent all the same."""
    made, process = world()
    made.use(usage("a", n=7, user="u"))
    made.tick(NOON + 200 * MINUTE)
    process.read()
    assert not process.table.partials
    process.checkpoint()
    shares = {(item.meter, item.size): item.share.amount for name in ("total", "users") for item in items(made, name)}
    assert shares == {("total", "PT1M"): Decimal(7), ("total", "PT1H"): Decimal(7), ("users", "PT1M"): None}
    restored = MeteringProcess(made)
    assert not restored.table.partials and restored.table.ids.units() == []


def test_partials_are_cumulative_and_only_changed_ones_are_sent() -> None:
    made, process = world()
    made.use(usage("a", n=1, user="u", time_ms=NOON))
    made.use(usage("b", n=2, user="u", time_ms=NOON + MINUTE), at_ms=NOON + MINUTE)
    for _ in range(2):
        process.read(1)
        process.emit()
    process.emit()
    told = [(item.size, item.start_ms - NOON, item.share.events, item.share.amount) for item in items(made, "total")]
    assert sorted(told[:2]) + sorted(told[2:]) == [
        ("PT1H", 0, 1, Decimal(1)),
        ("PT1M", 0, 1, Decimal(1)),
        ("PT1H", 0, 2, Decimal(3)),
        ("PT1M", MINUTE, 1, Decimal(2)),
    ]


def test_with_nothing_new_nothing_is_sent() -> None:
    made, process = world()
    process.emit()
    made.use(usage("a", n=1, user="u"))
    process.read()
    process.emit()
    length = made.logs[PARTIALS, 0].end
    process.emit()
    assert (length, made.logs[PARTIALS, 0].end) == (3, 3)


def test_every_target_gets_the_watermark_and_those_with_partials_get_it_at_once() -> None:
    made, process = world(targets=4)
    made.use(usage("a", n=1, user="u"))
    process.read()
    mine = partition_for("acme", 4)
    process.emit(everywhere=False)
    assert [len(sent(made, target)) for target in range(4)] == [3 if target == mine else 0 for target in range(4)]
    process.emit()
    assert [len(sent(made, target)) for target in range(4)] == [3 if target == mine else 1 for target in range(4)]
    marks = [record for target in range(4) for record in sent(made, target) if isinstance(record, Watermark)]
    assert {(mark.watermark_ms, mark.through) for mark in marks} == {(NOON, 0)}
    assert sorted(mark.folds for mark in marks) == [0, 0, 0, 3]


def test_a_subjects_partials_lie_where_kafkas_own_partitioner_puts_its_key() -> None:
    made, process = world(targets=8)
    subjects = [f"tenant-{number}" for number in range(50)]
    made.use(*[usage(subject, subject=subject, n=1, user="u") for subject in subjects])
    process.read()
    process.emit()
    for target in range(8):
        found = {
            item.subject for record in sent(made, target) if not isinstance(record, Watermark) for item in record.items
        }
        assert found == {subject for subject in subjects if partition_for(subject, 8) == target}


@pytest.mark.parametrize("subject", ["s", "ü" * 256])
def test_many_partials_are_packed_into_records_of_at_most_64_kb(subject: str) -> None:
    made, process = world()
    made.use(*[usage(str(n), NOON - n * MINUTE, subject, n="1.000000000000000001", user=str(n)) for n in range(55)])
    made.use(*[usage(f"x{n}", NOON, f"{subject[:200]}{n}", n=1, user=str(n)) for n in range(400)])
    process.read()
    process.emit()
    records = [record.value or b"" for record in made.logs[PARTIALS, 0].records]
    packed = [record for record in sent(made) if not isinstance(record, Watermark)]
    assert max(map(len, records)) <= RECORD_LIMIT
    assert sum(len(record.items) for record in packed) == len(process.table.partials)
    assert len(packed) <= sum(map(len, records)) // 50_000 + 1, "packed, not one by one"


def test_the_many_members_of_a_unique_count_are_split_and_none_is_lost() -> None:
    made, process = world()
    for start in range(0, 9000, 3000):
        made.use(*[usage(str(number), n=1, user=f"user-{number}") for number in range(start, start + 3000)])
    process.read()
    process.emit()
    records = [record.value or b"" for record in made.logs[PARTIALS, 0].records]
    pieces = items(made, "users")
    assert max(map(len, records)) <= RECORD_LIMIT and len(pieces) > 2
    assert {piece.share.events for piece in pieces} == {9000}
    members = b"".join(piece.members for piece in pieces)
    assert len(members) == 9000 * 16 and len({members[at : at + 16] for at in range(0, len(members), 16)}) == 9000


def test_members_travel_again_until_the_checkpoint_that_has_them_is_accepted() -> None:
    made, process = world()
    counts = []
    for number in range(4):
        made.use(usage(str(number), n=1, user=str(number)))
        process.read()
        process.emit()
        counts.append(len(items(made, "users")[-1].members) // 16)
        if number == 1:
            process.checkpoint()
    assert counts == [1, 2, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.lists(st.integers(1, 4), max_size=8), st.lists(st.booleans(), max_size=8))
def test_no_decision_depends_on_where_batches_are_cut_or_when_is_emitted(
    seed: int, cuts: list[int], emits: list[bool]
) -> None:
    """The same log in any batches, with emits and checkpoints anywhere: the same state, byte for byte the same shares."""
    made = Road(seed).world
    assert made.definitions in ROADS
    process = MeteringProcess(made)
    for number, most in enumerate(cuts):
        process.read(most)
        if number < len(emits):
            process.emit() if emits[number] else process.checkpoint()
    process.read()
    assert pictures.of_metering(made, process.table) == pictures.plain_metering(made, 0, made.logs[USAGE, 0].end)


def test_a_batch_over_a_gap_is_never_folded() -> None:
    made, process = world()
    made.use(usage("a", n=1, user="u"))
    made.use(usage("b", n=1, user="u"))
    batch = process.ahead(2)._replace(start=1)
    with pytest.raises(AssertionError, match="gap"):
        process.stage.step(batch)
    assert process.table.ledger.read == 0


def test_records_that_are_folded_already_are_passed_over() -> None:
    made, process = world()
    for name in "abc":
        made.use(usage(name, n=1, user="u"))
    batch = process.ahead(3)
    process.read(2)
    process.stage.step(batch)
    assert (process.table.ledger.read, process.table.ledger.duplicate, process.table.position) == (3, 0, 3)


def test_offsets_without_a_record_are_passed() -> None:
    """Control records take offsets; the state ends after them."""
    made, process = world()
    made.use(usage("a", n=1, user="u"))
    process.stage.step(process.ahead(1)._replace(end=5))
    assert process.table.position == 5
    process.emit()
    assert sent(made)[-1] == Watermark(0, NOON, 4, 3)
