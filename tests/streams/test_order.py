"""Revisions of one window leave in order, whoever wrote the outbox (design §2.6)."""

from __future__ import annotations

import pytest

from schemas.errors import BrokerError
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import ClosingProcess, MeteringProcess, World

DEFINITIONS = definitions({"stream": {"max_delay": "none", "correct_for": "PT1H"}, "meters": [meter("total")]})


def told(world: World, *events: dict[str, object], now_ms: int) -> None:
    """Usage, and METERING's word on it."""
    for event in events:
        world.use(event, at_ms=now_ms)
    world.tick(now_ms)
    metering = MeteringProcess(world)
    metering.read()
    metering.checkpoint()


def test_a_zombies_late_chunk_does_not_turn_the_line_around() -> None:
    world = World(DEFINITIONS)
    for number in range(5):
        told(world, usage(f"before-{number}", NOON + number * MINUTE, n=1), now_ms=NOON + (number + 2) * MINUTE)
    zombie = ClosingProcess(world)
    zombie.read()
    zombie.checkpoint()
    zombie.deliver()
    zombie.checkpoint()
    owner = ClosingProcess(world)
    told(world, usage("on time", NOON + 10 * MINUTE, n=1), now_ms=NOON + 12 * MINUTE)
    owner.read()
    owner.checkpoint()
    zombie.read()
    with pytest.raises(BrokerError):
        zombie.checkpoint()
    told(world, usage("late", NOON + 10 * MINUTE + SECOND, n=1), now_ms=NOON + 20 * MINUTE)
    owner.read()
    owner.checkpoint()
    successor = ClosingProcess(world)
    waiting = successor.table.outbox.waiting("cosmos", 9)
    assert [revision.revision for revision in waiting] == [1, 2]


def test_an_empty_outbox_does_not_forget_how_far_the_line_is() -> None:
    world = World(DEFINITIONS)
    told(world, usage("a", NOON, n=1), now_ms=NOON + 2 * MINUTE)
    first = ClosingProcess(world)
    first.read()
    first.checkpoint()
    first.deliver()
    first.checkpoint()
    told(world, usage("b", NOON + 1, n=1), now_ms=NOON + 10 * MINUTE)
    second = ClosingProcess(world)
    second.read()
    assert second.table.outbox.waiting("cosmos", 9) == [], "not before its checkpoint is accepted"
    second.checkpoint()
    assert [revision.revision for revision in second.table.outbox.waiting("cosmos", 9)] == [2]
