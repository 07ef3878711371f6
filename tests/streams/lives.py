"""A deployment that has lived: two usage partitions, two partials partitions, usage that is late, repeated and sealed.

What befalls it then is a test's; `heal` does what a diagnosis says, as somebody with `mend show` would, and `end` brings
everything home, so that it can be compared with a deployment to which nothing happened.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from local.ledger import Key
from streams.deployment import StageName
from streams.diagnosis import Diagnosis, diagnose
from streams.mending import Mended, accept_gap, mend_offset, rebuild, resend
from tests import pictures
from tests.streams.road import assert_revisions, final_windows
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World, to_the_end

DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "none", "correct_for": "PT4M", "revise_every": "PT10S"},
        "meters": [
            meter("total", grace="PT5S"),
            meter("users", "unique_count", value="/user", grace="PT5S"),
            meter("highest", "max", grace="PT5S"),
        ],
    }
)
FAR = NOON + 60 * MINUTE
PLACES: tuple[tuple[StageName, int], ...] = (("metering", 0), ("metering", 1), ("closing", 0), ("closing", 1))
SOURCE = {"metering": USAGE, "closing": PARTIALS}
STATE = {"metering": "metering-state", "closing": "closing-state"}


def event(number: int, at_s: int, partition: int = 0) -> dict[str, Any]:
    """One event: its subject, its user and its quantity follow from its number."""
    subject, user = ("acme", "beta", "cora")[number % 3], f"u{number % 4}"
    return usage(f"{partition}-{number}", NOON + at_s * SECOND, subject, n=number + 1, user=user)


def use(world: World, first: int, last: int) -> None:
    """Events of these numbers in each partition, ten seconds apart; one is late, one is sent twice, one cannot be read."""
    for partition in range(world.sources):
        for number in range(first, last):
            at_ms = NOON + number * 10 * SECOND
            late_s = 100 if number % 5 == 4 else 0
            sent = event(number, number * 10 - late_s, partition)
            again: list[dict[str, Any] | bytes] = [sent, b"no json"] if number % 4 == 3 else []
            world.use(sent, *again, partition=partition, at_ms=at_ms)


def lived(rounds: int = 9, snapshot: int = 5, world: World | None = None) -> World:
    """A deployment with a checkpoint every few records, a snapshot in the middle, and its workers stopped in order."""
    world = world or World(DEFINITIONS, sources=2, targets=2, record=400, snapshot_min=100_000)
    metering = [MeteringProcess(world, partition) for partition in range(world.sources)]
    closing = [ClosingProcess(world, partition) for partition in range(world.targets)]
    for turn in range(rounds):
        use(world, turn * 4, turn * 4 + 4)
        for owner in metering:
            owner.read()
            owner.checkpoint(snapshot_due=turn == snapshot)
        for joiner in closing:
            joiner.read()
            joiner.checkpoint(snapshot_due=turn == snapshot)
            joiner.deliver()
    for joiner in closing:
        joiner.checkpoint()
    return world


def look(world: World, stage: StageName, partition: int) -> Diagnosis:
    """What `mend show` says of one partition; it has neither written nor committed anything."""
    before = _written(world)
    found = world.mend(diagnose, stage, partition)
    assert _written(world) == before
    return found


def _written(world: World) -> tuple[int, dict[tuple[str, int], int]]:
    return sum(log.end for log in world.logs.values()), dict(world.committed)


def do(world: World, command: str) -> Mended:
    """Does what a command of a diagnosis says."""
    words = command.split()
    what, partition = words[1], int(words[3])
    stage: StageName = "metering" if words[2] == "metering" else "closing"
    if what == "accept-gap":
        return world.mend(accept_gap, stage, partition, int(words[5]), "a test", NOON)
    return world.mend(mend_offset if what == "offset" else rebuild, stage, partition)


def heal(world: World) -> list[str]:
    """Follows the diagnoses until every partition is fine; the commands that it took."""
    done: list[str] = []
    for stage, partition in sorted(places(world)):  # CLOSING first
        while (found := look(world, stage, partition)).state == "stopped":
            assert found.commands, f"{found.what}: nothing mends it"
            done.append(found.commands[0])
            do(world, found.commands[0])
            assert len(done) < 20, done
    if any("accept-gap closing" in command for command in done):
        for partition in range(world.sources):
            world.mend(resend, "metering", partition)
    return done


def end(world: World) -> dict[Key, tuple[Decimal, int]]:
    """Seals everything; of every window the last value and its events. Each log was folded as one owner would have."""
    for partition in range(world.sources):
        world.tick(FAR, partition)
    metering, closing = to_the_end(world)
    for owner in metering:
        assert owner.table.ledger.balanced
        if not owner.table.gaps:
            assert pictures.of_metering(world, owner.table) == pictures.plain_metering(
                world, owner.part, owner.table.position
            )
    for joiner in closing:
        assert not joiner.table.windows and not joiner.table.outbox.items
    windows = [final_windows(assert_revisions(world, sink)) for sink in ("cosmos", "servicebus")]
    assert windows[0] == windows[1]
    return windows[0]


def alarms(world: World) -> dict[str, int]:
    """By kind, over all of CLOSING."""
    found: dict[str, int] = {}
    for partition in range(world.targets):
        for kind, count in ClosingProcess(world, partition).table.counters.alarms.items():
            found[kind] = found.get(kind, 0) + count
    return found


def in_balance(world: World) -> bool:
    """Whether CLOSING has joined as many folds of each source as that has ever sent."""
    metering = [MeteringProcess(world, partition) for partition in range(world.sources)]
    return all(
        owner.table.folds[target] == ClosingProcess(world, target).table.sources[owner.part].joined
        for owner in metering
        for target in range(world.targets)
    )


def places(world: World) -> list[tuple[StageName, int]]:
    """Every partition of both stages, METERING's first."""
    metering: list[tuple[StageName, int]] = [("metering", partition) for partition in range(world.sources)]
    return metering + [("closing", partition) for partition in range(world.targets)]
