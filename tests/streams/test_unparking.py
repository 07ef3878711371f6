"""What a sink refused for good is delivered once somebody has mended what it refused, and only then."""

from __future__ import annotations

from schemas.windows import Revision
from sinks.contract import DELIVERED, Outcome
from streams.mending import unpark
from tests.streams.lives import DEFINITIONS, in_balance, use
from tests.world import SINKS, ClosingProcess, MeteringProcess, World


def refused(revision: Revision) -> Outcome:
    return Outcome("refused", "too large")


def parked() -> World:
    """Cosmos has refused every second revision of partition 0, Service Bus the first."""
    world = World(DEFINITIONS, sources=1, targets=1)
    use(world, 0, 20)
    owner = MeteringProcess(world)
    owner.read()
    owner.checkpoint()
    closing = ClosingProcess(world)
    closing.read()
    closing.checkpoint()
    assert len(closing.table.outbox.waiting("cosmos", 99)) > 6
    closing.deliver("cosmos", outcome=lambda r: refused(r) if r.revision % 2 else DELIVERED)
    closing.deliver("servicebus", most=1, outcome=refused)
    closing.deliver("servicebus")
    closing.checkpoint()
    for sink in SINKS:
        world.received[sink].clear()
    return world


def names(world: World, sink: str) -> list[str]:
    return [name for kind, revision, _ in ClosingProcess(world).table.outbox.parked() if kind == sink
            for name in [revision.message_id]]  # fmt: skip


def deliver(world: World) -> dict[str, list[str]]:
    """What the next owner hands over, by sink."""
    for sink in SINKS:
        world.received[sink].clear()
    closing = ClosingProcess(world)
    closing.deliver()
    closing.checkpoint()
    return {sink: [revision.message_id for revision in world.received[sink]] for sink in SINKS}


def test_parked_revisions_stay_parked_until_somebody_says_otherwise() -> None:
    world = parked()
    assert deliver(world) == {"cosmos": [], "servicebus": []}
    assert len(names(world, "cosmos")) > 3 and len(names(world, "servicebus")) == 1


def test_unparked_they_are_delivered_in_their_order_each_to_who_refused_it() -> None:
    world = parked()
    expected = {sink: names(world, sink) for sink in SINKS}
    done = world.mend(unpark, "closing", 0, None)
    assert done.what.startswith(f"{len(expected['cosmos']) + 1} parked revisions")
    assert deliver(world) == expected
    assert deliver(world) == {"cosmos": [], "servicebus": []}
    assert ClosingProcess(world).table.outbox.items == {}
    assert in_balance(world)


def test_one_sink_alone_is_unparked() -> None:
    world = parked()
    expected = names(world, "servicebus")
    world.mend(unpark, "closing", 0, "servicebus")
    assert deliver(world) == {"cosmos": [], "servicebus": expected}
    assert len(names(world, "cosmos")) > 3


def test_what_is_refused_again_is_parked_again() -> None:
    world = parked()
    expected = names(world, "cosmos")
    world.mend(unpark, "closing", 0, "cosmos")
    closing = ClosingProcess(world)
    closing.deliver("cosmos", outcome=refused)
    closing.checkpoint()
    assert names(world, "cosmos") == expected


def test_where_nothing_is_parked_nothing_is_written() -> None:
    world = parked()
    world.mend(unpark, "closing", 0, None)
    deliver(world)
    length = world.logs["closing-state", 0].end
    assert world.mend(unpark, "closing", 0, None).what.startswith("0 parked")
    assert world.logs["closing-state", 0].end == length
