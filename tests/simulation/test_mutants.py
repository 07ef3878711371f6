"""The mutants fit production as it is: each edits a text that is there exactly once, and what comes of it is a module."""

from __future__ import annotations

import pytest

from simulation.bent import BENT
from simulation.mutants import MUTANTS, Mutant, Verdict, mutated, table
from simulation.world import tell


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_an_edit_of_what_is_there(mutant: Mutant) -> None:
    compile(mutated(mutant), mutant.path, "exec")


def test_there_are_at_least_twenty_of_different_names() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


def test_a_mutant_whose_text_is_gone_says_so() -> None:
    with pytest.raises(LookupError, match="has 0 times, not once"):
        mutated(Mutant("gone", "", "tables/dedupe.py", (("no such line", ""),)))


def test_the_table_tells_a_survivor_from_the_killed() -> None:
    verdicts = [Verdict(MUTANTS[0], "L4", 3), Verdict(MUTANTS[1], None, 200)]
    said = table(verdicts)
    assert "SURVIVED" in said and "1 of 2 mutants killed" in said
    assert [verdict.killed for verdict in verdicts] == [True, False]


@pytest.mark.parametrize("worlds", sorted({mutant.worlds for mutant in MUTANTS}))
def test_unbroken_production_keeps_its_promises_wherever_mutants_are_hunted(worlds: str) -> None:
    for seed in range(12):
        ending = tell(seed, **BENT[worlds](seed))
        assert ending.promise is None, f"seed {seed} of the {worlds} worlds: {ending.what}"
