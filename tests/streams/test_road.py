"""The whole road: whatever is torn, lost, late, repeated or restarted, what is delivered in the end is what was used.

Small worlds of lists, each by its seed; thousands of larger ones are told by `simulation/`. `local/ledger.py`, which shares
no code with the stages, judges them.
"""

from __future__ import annotations

import pytest

from tests.streams.road import Road

WORLDS, AT_ONCE = 200, 50


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_final_values_events_and_counters_are_the_independent_ledgers(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        try:
            Road(seed).run()
        except Exception as error:
            error.add_note(f"in the world of seed {seed}")
            raise
