"""Where records are gone: the gap is no larger than it must be, it is shown, and the rest is exact."""

from __future__ import annotations

import pytest

from schemas.errors import BrokerError, NotMended, PartitionStopped
from streams.deployment import StageName
from streams.mending import accept_gap
from tables.effects import Commit, Effect, Produce
from tests.streams.lives import PLACES, alarms, do, end, event, heal, in_balance, lived, look, use
from tests.streams.losses import gaps, gone, spoken, told, values, with_events, without
from tests.usage import MINUTE, NOON
from tests.world import AFTER, BEFORE, PARTIALS, USAGE, ClosingProcess, Fault, MeteringProcess, World


def test_usage_that_was_removed_is_a_gap_and_everything_else_is_counted() -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    gone(world, 0, 44)
    with pytest.raises(PartitionStopped, match="8 offsets were removed before they were counted"):
        MeteringProcess(world, 0)
    assert look(world, "metering", 0).commands == ("mend accept-gap metering 0 --to 44",)
    assert heal(world) == ["mend accept-gap metering 0 --to 44"]
    assert end(world) == end(without(other, 0, 36, 44))
    assert in_balance(world) and alarms(world) == {}


def test_the_promised_watermark_holds_behind_the_gap() -> None:
    """CLOSING may have sealed windows by it: what is older must be too late for METERING, too."""
    world = lived()
    world.tick(NOON + 30 * MINUTE)
    promised = spoken(world, 1).table.watermark_ms
    gone(world, 0, 37)
    heal(world)
    assert MeteringProcess(world, 0).table.watermark_ms == promised
    world.tick(NOON + 30 * MINUTE, 1)
    world.use(event(99, 60), at_ms=NOON + 30 * MINUTE)
    end(world)
    assert alarms(world) == {}
    assert world.dead_letters()[-1]["reason"] == "too_late"


def test_the_gap_is_in_the_audit_for_ever() -> None:
    world = lived()
    use(world, 36, 60)
    gone(world, 0, 44)
    do(world, "mend accept-gap metering 0 --to 44")
    expected = [{"from": 36, "to": 44, "accepted_at": "2026-01-01T12:00:00Z", "reason": "a test"}]
    assert gaps(world, "metering", 0) == expected
    owner = MeteringProcess(world, 0)
    for _ in range(3):
        owner.read(2)
        owner.checkpoint(snapshot_due=True)
    assert gaps(world, "metering", 0) == expected
    assert gaps(world, "metering", 1) == []


def test_a_gap_ends_where_it_must_and_nowhere_else() -> None:
    world = lived()
    use(world, 36, 60)
    gone(world, 0, 44)
    for to in (0, 43, 45, 60):
        with pytest.raises(NotMended, match="offsets 36 to 44") as refused:
            world.mend(accept_gap, "metering", 0, to, "", NOON)
        assert "--to 44" in refused.value.hint
    assert world.committed[USAGE, 0] == 36


@pytest.mark.parametrize("fault", [BEFORE, AFTER], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 5))
def test_accepting_a_gap_is_interrupted_anywhere_and_begun_again(write: int, fault: Fault) -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    spoken(world, 3)
    told(world)
    gone(world, 0, 44)
    left = [write]

    def befall(effect: Effect) -> Fault | None:
        if isinstance(effect, Produce | Commit):
            left[0] -= 1
        return fault if left[0] == 0 else None

    world.fault = befall
    with pytest.raises(BrokerError):
        do(world, "mend accept-gap metering 0 --to 44")
    world.fault = lambda effect: None
    heal(world)
    assert [gap["to"] for gap in gaps(world, "metering", 0)] == [44]
    assert values(end(world)) == values(end(without(other, 0, 36, 44)))
    assert in_balance(world) and alarms(world) == {}


def killed(world: World, kind: type[Produce | Commit], fates: tuple[str, ...] = ()) -> None:
    """METERING of partition 0 reads five more, and is killed at the last Produce or Commit of its checkpoint."""
    owner = MeteringProcess(world, 0)
    owner.read(5)
    owner.emit()

    def befall(effect: Effect) -> Fault | None:
        if not isinstance(effect, kind) or (isinstance(effect, Produce) and effect.records[0].topic == PARTIALS):
            return None
        return Fault("torn", (*fates, *["kept"] * (len(effect.records) - 1))) if isinstance(effect, Produce) else BEFORE

    world.fault = befall
    with pytest.raises(BrokerError):
        owner.checkpoint()
    world.fault = lambda effect: None


def test_a_checkpoint_that_is_whole_is_believed_before_anything_is_given_up() -> None:
    """Killed before its commit: what it proves need not be counted again, so it is no part of the gap."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    killed(world, Commit)
    gone(world, 0, 46)
    with pytest.raises(NotMended) as refused:
        do(world, "mend accept-gap metering 0 --to 46")
    assert "mend offset metering 0" in refused.value.hint
    assert heal(world) == ["mend offset metering 0", "mend accept-gap metering 0 --to 46"]
    assert [(gap["from"], gap["to"]) for gap in gaps(world, "metering", 0)] == [(41, 46)]
    assert end(world) == end(without(other, 0, 41, 46))


def test_a_checkpoint_that_is_torn_is_no_part_of_the_state_behind_the_gap() -> None:
    """Its chunks hold offsets of the gap, and end before the gap does: they look like older ones of the same log."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    killed(world, Produce, ("lost",))
    gone(world, 0, 46)
    assert heal(world) == ["mend accept-gap metering 0 --to 46"]
    before = MeteringProcess(world, 0).table
    assert before.ledger.read == lived_ledger(36)
    assert values(with_events(end(world))) == values(end(without(other, 0, 36, 46)))
    assert in_balance(world) and alarms(world) == {}


def lived_ledger(offset: int) -> int:
    """Events read of partition 0 up to an offset."""
    owner = MeteringProcess(lived(), 0)
    assert owner.table.position == offset
    return owner.table.ledger.read


def test_partials_that_were_removed_come_again_from_metering_and_nothing_is_lost() -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 48)
        for partition in range(2):
            owner = MeteringProcess(one, partition)
            owner.read()
            owner.checkpoint()
    log = world.logs[PARTIALS, 0]
    log.begin = log.end
    with pytest.raises(PartitionStopped, match="removed before they were counted"):
        ClosingProcess(world, 0)
    assert heal(world) == [f"mend accept-gap closing 0 --to {log.begin}"]
    assert [gap["to"] for gap in gaps(world, "closing", 0)] == [log.begin]
    assert end(world) == end(other)
    assert in_balance(world) and alarms(world) == {}


def test_partials_of_sealed_windows_that_were_removed_are_lost_and_the_balance_says_so() -> None:
    world = lived()
    use(world, 36, 40)
    for partition in range(2):
        world.tick(NOON + 20 * MINUTE, partition)
        owner = MeteringProcess(world, partition)
        owner.read()
        owner.checkpoint()
    for target in range(2):
        world.logs[PARTIALS, target].begin = world.logs[PARTIALS, target].end
    heal(world)
    end(world)
    assert not in_balance(world)
    assert alarms(world)["stages_out_of_balance"] > 0


def test_usage_is_not_passed_over_while_closing_is_stopped_itself() -> None:
    world = lived()
    use(world, 36, 48)
    gone(world, 0, 40)
    world.logs[PARTIALS, 1].append(b"hello")
    with pytest.raises(NotMended, match="closing 1 is stopped itself") as refused:
        do(world, "mend accept-gap metering 0 --to 40")
    assert "mend closing 1 first" in refused.value.hint


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_where_nothing_is_missing_no_gap_is_accepted(place: tuple[StageName, int]) -> None:
    world = lived()
    use(world, 36, 40)
    with pytest.raises(NotMended, match="has no gap"):
        world.mend(accept_gap, *place, 99, "", NOON)


def test_a_partition_that_stops_for_another_reason_gets_no_gap() -> None:
    world = lived()
    del world.committed[USAGE, 0]
    with pytest.raises(NotMended) as refused:
        world.mend(accept_gap, "metering", 0, 40, "", NOON)
    assert "mend offset metering 0" in refused.value.hint


def test_everything_at_once() -> None:
    """Down for longer than every retention, killed in the middle: offsets expired, usage and partials removed."""
    world = lived()
    use(world, 36, 70)
    spoken(world, 4)
    spoken(world, 3, partition=1)
    world.committed.clear()
    for partition in range(2):
        gone(world, partition, 50)
        world.logs[PARTIALS, partition].begin = world.logs[PARTIALS, partition].end - 1
    commands = heal(world)
    assert [" ".join(command.split()[1:4]) for command in commands] == [
        f"{what} {stage} {partition}"
        for stage in ("closing", "metering")
        for partition in (0, 1)
        for what in ("offset", "accept-gap")
    ]
    end(world)
    assert in_balance(world), "although a watermark told of partials that were removed, which was an alarm for a while"
