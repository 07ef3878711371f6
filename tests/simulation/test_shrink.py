"""A broken promise comes with as few faults as it takes, and one command that tells it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulation.plan import Fault, Plan
from simulation.shrink import report, shrink
from simulation.world import Ending

FAULTS = tuple(Fault("kill", float(at)) for at in range(12))
BROKEN = Ending(7, "L2", "L2: a wrong number", Plan(FAULTS), 1, 1.0, "", {}, 0, 0, [], [])


def only_with(needed: set[int], tellings: list[Sequence[int]]):  # type: ignore[no-untyped-def]
    def again(seed: int, numbers: Sequence[int]) -> Ending:
        assert seed == 7
        tellings.append(numbers)
        return BROKEN if needed <= set(numbers) else replace(BROKEN, promise=None)

    return again


def test_only_the_faults_it_takes_are_left() -> None:
    tellings: list[Sequence[int]] = []
    kept, ending = shrink(BROKEN, only_with({2, 9}, tellings))
    assert kept == [2, 9]
    assert ending.promise == "L2"
    assert len(tellings) < 60


def test_another_promise_broken_is_no_smaller_story() -> None:
    kept, _ = shrink(BROKEN, lambda seed, numbers: replace(BROKEN, promise="L7"))
    assert kept == list(range(12))


def test_the_report_has_seed_faults_difference_and_one_command() -> None:
    said = report(BROKEN, [2, 9], BROKEN)
    assert "seed 7: L2: a wrong number" in said
    assert "2: 2.0 s: kill (0)" in said
    assert "python -m simulation 7 --faults 2,9 --tell" in said
