"""The whole road again, in small worlds drawn from a seed: in the middle, what proves the state of some partitions is lost.

Everything stops, somebody does what `mend` says, everything goes on; the independent ledger judges as if nothing had been.
"""

from __future__ import annotations

import pytest

from tests.streams.lives import heal, places
from tests.streams.road import Road
from tests.streams.test_mending_without_loss import EVERY
from tests.world import ClosingProcess, MeteringProcess

WORLDS, AT_ONCE = 300, 50
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
