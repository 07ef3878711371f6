"""Where records are gone, or cannot be counted: the gap is no larger than it must be, it is shown, and the rest is exact."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import partials as wire
from schemas.errors import BrokerError, NotMended, PartitionStopped
from schemas.partials import Contribution, Partial, Partials, Watermark
from schemas.windows import WindowKey
from streams.counting import Counting
from streams.deployment import StageName
from streams.mending import accept_gap, rebuild, resend
from tables.effects import Commit, Effect, Produce
from tables.gaps import describe
from tests.streams.lives import PLACES, alarms, do, end, event, heal, in_balance, lived, look, use
from tests.usage import MINUTE, NOON, SECOND, usage
from tests.world import AFTER, BEFORE, PARTIALS, USAGE, ClosingProcess, Fault, MeteringProcess, World


def gone(world: World, partition: int, until: int) -> None:
    """Retention has removed usage before that offset."""
    world.logs[USAGE, partition].begin = until


def without(world: World, partition: int, first: int, last: int) -> World:
    """The same life, but that these usage records never had anything to count in them."""
    records = world.logs[USAGE, partition].records
    for offset in range(first, last):
        records[offset] = records[offset]._replace(value=None)
    return world


def gaps(world: World, stage: StageName, partition: int) -> list[dict[str, object]]:
    """As the audit shows them, of a new owner."""
    process = MeteringProcess(world, partition) if stage == "metering" else ClosingProcess(world, partition)
    return describe(process.table.gaps)


def spoken(world: World, records: int, partition: int = 0, emits: int = 1) -> MeteringProcess:
    """METERING reads on and emits, and is killed before it has checkpointed."""
    process = MeteringProcess(world, partition)
    for _ in range(emits):
        process.read(records)
        process.emit()
    return process


def told(world: World) -> None:
    """CLOSING hears of it."""
    for partition in range(world.targets):
        joiner = ClosingProcess(world, partition)
        joiner.read()
        joiner.checkpoint()
        joiner.deliver()
        joiner.checkpoint()


def values(windows: dict[Any, Any], but: str = "users") -> dict[Any, Any]:
    """Without the meter that tells things apart: members cannot be taken back."""
    return {key: value for key, value in windows.items() if key.meter != but}


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


@pytest.mark.parametrize("heard", [False, True], ids=["still in the log", "joined already"])
@pytest.mark.parametrize("spread", [(3, 1), (2, 3), (8, 1)], ids=str)
def test_what_was_sent_ahead_of_the_commit_and_is_gone_now_is_taken_back(spread: tuple[int, int], heard: bool) -> None:
    """Or totals would hold usage that the audit calls never counted, and a replay of the gap would count it twice."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    spoken(world, *spread[:1], emits=spread[1])
    if heard:
        told(world)
    gone(world, 0, 46)
    assert heal(world) == ["mend accept-gap metering 0 --to 46"]
    windows = end(world)
    assert values(with_events(windows)) == values(end(without(other, 0, 36, 46)))
    assert in_balance(world) and alarms(world) == {}


def test_what_was_sent_up_to_the_end_of_a_log_that_is_empty_now_is_taken_back() -> None:
    """Producers ended with the worker: the gap ends exactly where the last share did."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 44)
    spoken(world, 8)
    told(world)
    gone(world, 0, world.logs[USAGE, 0].end)
    assert heal(world) == ["mend accept-gap metering 0 --to 44"]
    assert values(with_events(end(world))) == values(end(without(other, 0, 36, 44)))
    assert in_balance(world) and alarms(world) == {}


def with_events(windows: dict[Any, Any]) -> dict[Any, Any]:
    """Windows of which all usage was taken back after they had closed say so: nothing, of no events."""
    return {key: (value, events) for key, (value, events) in windows.items() if events}


def test_a_window_of_which_everything_was_taken_back_before_it_closed_was_never_there() -> None:
    world = lived()
    world.use(usage("alone", NOON + 7 * MINUTE, "nobody else", n=5, user="u"), at_ms=NOON + 7 * MINUTE)
    spoken(world, 1)
    told(world)
    gone(world, 0, 37)
    heal(world)
    for partition in range(2):
        world.tick(NOON + 9 * MINUTE, partition)
        owner = MeteringProcess(world, partition)
        owner.read()
        owner.checkpoint()
    told(world)
    windows = end(world)
    assert {key.meter for key in windows if key.subject == "nobody else"} == {"users"}, "who was there stays"
    assert all(ClosingProcess(world, p).table.windows_open == 0 for p in range(2))


def test_a_window_that_was_taken_back_before_it_closed_closes_when_there_is_usage_again() -> None:
    world = lived()
    world.use(usage("alone", NOON + 7 * MINUTE, "acme", n=5, user="u"), at_ms=NOON + 7 * MINUTE)
    spoken(world, 1)
    told(world)
    gone(world, 0, 37)
    heal(world)
    joiners = [ClosingProcess(world, partition) for partition in (0, 1)]
    for partition in (0, 1):
        world.tick(NOON + 8 * MINUTE + 6 * SECOND, partition)
        owner = MeteringProcess(world, partition)
        owner.read()
        owner.checkpoint()
    for joiner in joiners:
        joiner.read()
    world.use(usage("again", NOON + 7 * MINUTE, "acme", n=7, user="u"), at_ms=NOON + 8 * MINUTE)
    world.tick(NOON + 9 * MINUTE)
    for partition in (0, 1):
        owner = MeteringProcess(world, partition)
        owner.read()
        owner.checkpoint()
    for joiner in joiners:
        joiner.read()
        joiner.checkpoint()
        joiner.deliver()
    closed = [d for d in world.documents() if d["window_start"] == "2026-01-01T12:07:00Z" and d["meter"] == "total"]
    assert [(d["revision"], d["value"], d["events"], d["reason"]) for d in closed] == [(1, "7", 1, "closed")]


def test_a_closed_window_of_which_everything_was_taken_back_says_nothing_of_no_events() -> None:
    world = lived()
    world.use(usage("alone", NOON + 7 * MINUTE, "nobody else", n=5, user="u"), at_ms=NOON + 7 * MINUTE)
    for partition in (0, 1):
        world.tick(NOON + 8 * MINUTE + 6 * SECOND, partition)
    other = MeteringProcess(world, 1)
    other.read()
    other.checkpoint()
    spoken(world, 9)
    told(world)
    gone(world, 0, 38)
    heal(world)
    end(world)
    said = {
        (d["meter"], d["revision"]): (d["value"], d["delta"], d["events"])
        for d in world.documents()
        if d["subject"] == "nobody else"
    }
    assert said["total", 1] == ("5", "5", 1) and said["total", 2] == ("0", "-5", 0)
    assert said["highest", 1] == ("5", "5", 1) and said["highest", 2] == ("0", "-5", 0)
    assert said["users", 1] == ("1", "1", 1), "who was there cannot be taken back"


def test_usage_of_the_gap_that_is_sent_again_is_counted_once() -> None:
    """From Capture, or by the producers: their ids are not known, and nothing of them is left in a total."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 48)
    spoken(world, 5)
    told(world)
    gone(world, 0, 42)
    heal(world)
    for record in world.logs[USAGE, 0].records[36:42]:
        world.use(record.value or b"", at_ms=NOON + 48 * 10 * SECOND)
    assert values(end(world)) == values(end(other))


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


def test_a_gap_reaches_beyond_everything_that_was_sent() -> None:
    """Where retention ends within what had been sent ahead: a later share would not overrule what was said."""
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    spoken(world, 8)
    gone(world, 0, 40)
    with pytest.raises(NotMended, match="offsets 36 to 44"):
        do(world, "mend accept-gap metering 0 --to 40")
    assert heal(world) == ["mend accept-gap metering 0 --to 44"]
    assert values(end(world)) == values(end(without(other, 0, 36, 44)))
    assert in_balance(world) and alarms(world) == {}


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


def test_sending_again_is_harmless_at_any_time() -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 48)
    owner = MeteringProcess(world, 0)
    owner.read(5)
    owner.emit()
    for _ in range(2):
        world.mend(resend, "metering", 0)
        world.mend(resend, "metering", 1)
    told(world)
    owner.read()
    owner.checkpoint()
    world.mend(resend, "metering", 0)
    assert end(world) == end(other)
    assert in_balance(world) and alarms(world) == {}


def test_sending_again_carries_every_member_of_a_unique_count() -> None:
    world = lived()
    before = world.logs[PARTIALS, 0].end, world.logs[PARTIALS, 1].end
    world.mend(resend, "metering", 0)
    sent: dict[WindowKey, set[bytes]] = {}
    for target in range(2):
        for record in world.logs[PARTIALS, target].records[before[target] :]:
            message = wire.decode(record.value or b"")
            if not isinstance(message, Watermark):
                for item in message.items:
                    pieces = {item.members[at : at + 16] for at in range(0, len(item.members), 16)}
                    sent.setdefault(item.key, set()).update(pieces)
    table = MeteringProcess(world, 0).table
    assert sent == {key: set(partial.members) for key, partial in table.partials.items()}
    assert any(sent.values())


def foreign_bytes() -> bytes:
    return b"hello"


def unknown_source() -> bytes:
    return wire.encode(Watermark(9, NOON, 5, 5))


def unknown_meter() -> bytes:
    share = Contribution(1, bytes(16), 0, 0, None, None)
    return wire.encode(Partials(0, [Partial("acme", "another", (), NOON, "PT1M", 1, share)]))


@pytest.mark.parametrize("foreign", [foreign_bytes, unknown_source, unknown_meter])
def test_foreign_records_among_the_partials_are_passed_over_and_nothing_is_lost(foreign: Any) -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 48)
        owner = MeteringProcess(one, 0)
        owner.read(6)
        owner.checkpoint()
    log = world.logs[PARTIALS, 1]
    at = log.end
    for _ in range(3):
        log.append(foreign())
    owner = MeteringProcess(world, 0)
    owner.read()
    owner.checkpoint()
    with pytest.raises(PartitionStopped) as stopped:
        ClosingProcess(world, 1).read()
    assert stopped.value.way == "a-foreign-record-among-the-partials"
    assert f"mend accept-gap closing 1 --to {at + 1}" in stopped.value.hint
    assert heal(world) == [f"mend accept-gap closing 1 --to {at + 3}"]
    assert [(gap["from"], gap["to"]) for gap in gaps(world, "closing", 1)] == [(at, at + 3)]
    assert end(world) == end(other)
    assert in_balance(world) and alarms(world) == {}


def test_a_record_that_can_be_joined_is_never_passed_over() -> None:
    world = lived()
    use(world, 36, 40)
    world.logs[PARTIALS, 0].append(b"hello")
    at = world.logs[PARTIALS, 0].end
    owner = MeteringProcess(world, 0)
    owner.read()
    owner.checkpoint()
    with pytest.raises(NotMended, match=f"offsets {at - 1} to {at};"):
        world.mend(accept_gap, "closing", 0, at + 1, "", NOON)


def poisoned(monkeypatch: pytest.MonkeyPatch, world: World, number: int) -> int:
    """A defect: METERING cannot fold the record with this event. Its offset."""
    read = Counting._read

    def failing(self: Counting, records: Any) -> Any:
        if any(b'"id":"0-%d"' % number in (value or b"") for value in records.values):
            raise ArithmeticError("a defect")
        return read(self, records)

    monkeypatch.setattr(Counting, "_read", failing)
    return number


def test_a_record_that_cannot_be_folded_is_passed_over_and_what_is_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, other = lived(), lived()
    for one in (world, other):
        use(one, 36, 60)
    at = poisoned(monkeypatch, world, 41)
    found = look(world, "metering", 0)
    assert found.way == "a-record-that-cannot-be-folded"
    assert "ArithmeticError: a defect" in found.what
    assert f"offset {at}" in found.what
    assert heal(world) == [f"mend accept-gap metering 0 --to {at + 1}"]
    assert [(gap["from"], gap["to"]) for gap in gaps(world, "metering", 0)] == [(at, at + 1)]
    windows = end(world)
    monkeypatch.undo()
    assert windows == end(without(other, 0, at, at + 1))


def test_what_is_rebuilt_up_to_a_record_that_cannot_be_folded_goes_on_behind_the_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decision was lost with the changelog, so it has to be taken again."""
    world, other = lived(), lived()
    at = poisoned(monkeypatch, world, 41)
    for one in (world, other):
        use(one, 36, 60)
    heal(world)
    owner = MeteringProcess(world, 0)
    owner.read()
    owner.checkpoint()
    world.logs["metering-state", 0].begin = world.logs["metering-state", 0].end
    done = world.mend(rebuild, "metering", 0)
    assert world.committed[USAGE, 0] == at
    assert "a defect" in done.then
    assert heal(world) == [f"mend accept-gap metering 0 --to {at + 1}"]
    windows = end(world)
    monkeypatch.undo()
    assert windows == end(without(other, 0, at, at + 1))


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
