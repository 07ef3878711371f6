"""The conservation ledger: every event read meets exactly one fate, and crashes change no count (design §4)."""

from __future__ import annotations

import pytest

from tables.ledger import Ledger
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import MeteringProcess, World

DEFINITIONS = definitions(
    {"stream": {"max_delay": "none", "correct_for": "PT1H"}, "meters": [meter("total"), meter("calls", "count")]}
)


def world() -> World:
    made = World(DEFINITIONS)
    made.use(usage("a", n=1), usage("a", n=1), usage("b", NOON - 30 * MINUTE, n=1))
    made.use(usage("c", type="unheard.of"), key=None)
    made.use(usage("d"), b"{}", usage("e", NOON - 90 * MINUTE, n=1), usage("f", NOON + 10 * MINUTE, n=1))
    made.tick(NOON + MINUTE)
    made.tick(NOON + 20 * MINUTE, at_ms=NOON)
    made.use(b"[]", key=None)
    return made


EXPECTED = {
    "read": 9, "counted": 2, "duplicate": 1, "unmatched": 1, "dead_lettered": 5, "late": 1, "ticks": 1, "ticks_refused": 1,
    "keyless": 2, "dead_lettered_malformed": 2, "dead_lettered_invalid": 1, "dead_lettered_too_late": 1,
    "dead_lettered_future": 1,
}  # fmt: skip


def test_each_event_is_counted_once_however_many_meters_it_feeds() -> None:
    process = MeteringProcess(world())
    process.read()
    assert process.table.ledger.describe() == EXPECTED
    assert process.table.ledger.balanced
    assert process.table.folds == [4], "two events, two meters"


@pytest.mark.parametrize("at", range(8))
def test_the_counters_survive_a_crash_exactly_wherever_the_checkpoint_was(at: int) -> None:
    made = world()
    process = MeteringProcess(made)
    process.read(at)
    process.checkpoint()
    process.read(2)
    process.emit()
    again = MeteringProcess(made)
    again.read()
    assert again.table.ledger.describe() == EXPECTED


@pytest.mark.parametrize("name", ["read", "counted", "duplicate", "unmatched", "dead_lettered"])
def test_one_event_too_many_or_too_few_is_an_imbalance(name: str) -> None:
    ledger = Ledger(read=4, counted=1, duplicate=1, unmatched=1, dead_lettered=1, reasons={"future": 1})
    assert ledger.balanced
    setattr(ledger, name, getattr(ledger, name) + 1)
    assert not ledger.balanced


def test_a_dead_letter_without_its_reason_is_an_imbalance() -> None:
    ledger = Ledger(read=1)
    ledger.dead("invalid")
    assert ledger.balanced
    ledger.reasons["invalid"] = 2
    assert not ledger.balanced
