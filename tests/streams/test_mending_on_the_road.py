"""The whole road again, in small worlds drawn from a seed: in the middle, what proves the state of some partitions is lost.

Everything stops, somebody does what `mend` says, everything goes on; the independent ledger judges as if nothing had been.
Where records are gone for good there is nothing to judge by, but the stages themselves: they must hold the same.
"""

from __future__ import annotations

import pytest

from schemas.hashing import partition_for
from tests.streams.lives import heal, places
from tests.streams.road import Road
from tests.streams.test_mending_without_loss import EVERY
from tests.usage import MINUTE
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess

WORLDS, AT_ONCE = 100, 50
BEGUN = [
    misfortune for misfortune in EVERY if "chain" not in misfortune.__name__ and "moved" not in misfortune.__name__
]
"""Those that can befall a partition however far it is."""


class MendedRoad(Road):
    """A road on which everything stops once and some partitions lose what proves their state."""

    def run(self) -> MendedRoad:
        self._live(25)
        self._lose()
        self._live(25)
        self._end()
        return self

    def _lose(self) -> None:
        world, rng = self.world, self.rng
        self.zombies.clear()
        while world.late:
            world.arrive()
        for place in range(len(self.owners)):
            self._replace(place)
        every = places(world)
        for stage, partition in rng.sample(every, rng.randint(1, len(every) - 1)):
            rng.choice(BEGUN)(world, stage, partition)
        self.commands = heal(world)
        for place, old in enumerate(self.owners):
            process = MeteringProcess if isinstance(old, MeteringProcess) else ClosingProcess
            self.owners[place] = process(world, old.part)
            self._replace(place)


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_what_is_lost_and_mended_on_the_way_changes_nothing_at_its_end(first: int) -> None:
    mended = 0
    for seed in range(first, first + AT_ONCE):
        try:
            mended += len(MendedRoad(seed).run().commands)
        except Exception as error:
            error.add_note(f"in the world of seed {seed}")
            raise
    assert mended > AT_ONCE


class RoadWithGaps(Road):
    """A road on which retention takes usage, partials, or both, of partitions that were killed at any place."""

    def run(self) -> RoadWithGaps:
        self.commands: list[str] = []
        self._live(40)
        for _ in range(3):
            self._cut()
            self._go_on()
            self._live(20)
        return self

    def _cut(self) -> None:
        world, rng = self.world, self.rng
        self.zombies.clear()
        for partition in range(world.sources):
            self._write_usage(partition, 3)
        while world.late:
            world.arrive()
        for partition in range(world.sources):
            log, committed = world.logs[USAGE, partition], world.committed[USAGE, partition]
            log.begin = max(log.begin, rng.choice([0, committed, rng.randint(committed, log.end), log.end]))
        for partition in range(world.targets):
            log, committed = world.logs[PARTIALS, partition], world.committed[PARTIALS, partition]
            if rng.random() < 0.4:
                log.begin = max(log.begin, rng.randint(0, log.end))
        self.commands += heal(world)

    def _replace(self, place: int) -> None:
        """A new owner. What it restores is more than what the log says now."""
        old = self.owners[place]
        self.owners[place] = type(old)(self.world, old.part)

    def _go_on(self) -> None:
        """New owners read to the end: of each window that is alive, CLOSING holds exactly what METERING does."""
        world = self.world
        for partition in range(world.sources):
            self._write_usage(partition, 4)
        metering = [MeteringProcess(world, partition) for partition in range(world.sources)]
        for owner in metering:
            for _ in range(3):
                owner.read(3)
                owner.emit()
            owner.read()
            owner.checkpoint()
            assert owner.table.ledger.balanced
        for partition in range(world.targets):
            joiner = ClosingProcess(world, partition)
            joiner.read()
            joiner.checkpoint()
            assert "partial_of_sealed_window" not in joiner.table.counters.alarms
            for owner in metering:
                held = {key: window.shares[owner.part] for key, window in joiner.table.windows.items()
                        if owner.part in window.shares and window.shares[owner.part].events}  # fmt: skip
                for key, partial in owner.table.partials.items():
                    if partition_for(key.subject, world.targets) == partition:
                        share, known = partial.share.contribution(), held.pop(key)
                        assert (known.events, known.digest, known.amount) == (share.events, share.digest, share.amount)
                assert all(  # the rest METERING has sealed; the others' watermarks hold it open
                    key.start_ms + MINUTE + world.definitions.stream.correct_for_ms <= owner.table.watermark_ms
                    for key in held
                    if key.size == "PT1M"
                )
        for place in range(len(self.owners)):
            self._replace(place)


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_behind_any_gap_the_stages_hold_the_same(first: int) -> None:
    accepted = 0
    for seed in range(first, first + AT_ONCE):
        try:
            accepted += len(RoadWithGaps(seed).run().commands)
        except Exception as error:
            error.add_note(f"in the world of seed {seed}")
            raise
    assert accepted > AT_ONCE
