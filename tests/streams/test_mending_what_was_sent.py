"""What METERING had sent: taken back where its usage is gone, sent again at any time, and counted once."""

from __future__ import annotations

import pytest

from schemas import partials as wire
from schemas.errors import NotMended
from schemas.partials import Watermark
from schemas.windows import WindowKey
from streams.mending import resend
from tests.streams.lives import alarms, do, end, heal, in_balance, lived, use
from tests.streams.losses import gone, spoken, told, values, with_events, without
from tests.usage import MINUTE, NOON, SECOND, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess


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
