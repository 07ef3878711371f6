"""Every promise holds in every story told: thousands of seeds, each a world of its own with faults of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from simulation import crowd
from simulation.plan import CUTS, PLACED, TIMED
from simulation.shrink import report, shrink
from simulation.world import tell

SEEDS = 2000


@pytest.fixture(scope="module")
def tally() -> crowd.Tally:
    return crowd.many(range(SEEDS))


@pytest.mark.timeout(1500)
def test_two_thousand_stories_break_no_promise(tally: crowd.Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{tally.describe()}")
    endings = [tell(seed) for seed, _, _ in tally.broken[:2]]
    shown = [report(ending, *shrink(ending)) for ending in endings]
    assert tally.broken == [], "\n".join(shown)
    assert tally.stories == SEEDS


def test_they_had_every_kind_of_fault_and_worlds_without_any(tally: crowd.Tally) -> None:
    for kind in (*TIMED, *PLACED):
        assert tally.kinds[kind] >= (20 if kind in CUTS else 300), kind
    assert tally.quiet > 100
    assert tally.recoveries > 5 * SEEDS and tally.checks > 50 * SEEDS
    assert 0 < tally.stopped < tally.cut


def test_one_seed_is_one_story_to_the_byte_in_any_process() -> None:
    seeds = range(890, 905)
    code = f"from simulation.world import tell; print(*(tell(seed).digest for seed in {seeds}))"
    told = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    first, second = (process.communicate()[0].split() for process in told)
    assert first == second and len(set(first)) == len(seeds)


def test_leaving_out_faults_leaves_the_world_as_it_was() -> None:
    """What is sent and who works does not depend on the faults, so a shrunk story is of the same world.

    Offsets do: workers write their ticks into the usage log, too."""
    with_all, with_none = tell(4), tell(4, only=[])
    sent = [
        [line.rpartition(" ")[0] for line in ending.lines if re.match(r" *[\d.]+ usage\[", line)]
        for ending in (with_all, with_none)
    ]
    assert sent[0] == sent[1] != []
    assert with_none.faults.faults == () != with_all.faults.faults
