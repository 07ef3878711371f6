"""A record that cannot be folded or joined is passed over, it alone, and nothing else is lost."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import partials as wire
from schemas.errors import NotMended, PartitionStopped
from schemas.partials import Contribution, Partial, Partials, Watermark
from streams.counting import Counting
from streams.mending import accept_gap, rebuild
from tests.streams.lives import alarms, end, heal, in_balance, lived, look, use
from tests.streams.losses import gaps, without
from tests.usage import NOON
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World


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
