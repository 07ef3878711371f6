"""What a contestant says, against what its input adds up to. Knows no contestant and no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from bench.field.inputs import Place, Total
from bench.field.job import CLOSER, PROBE


class Found(NamedTuple):
    """What a contestant shows of one window."""

    events: int
    sum: Decimal
    closed: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """lost, doubled: events too few and too many, added up over the windows. false_sums: windows whose count is right and
    whose sum is not. unclosed: windows that are due and were not given as closed; None where closing was not asked for.
    foreign: windows that nobody sent. windows: how many there are."""

    windows: int
    lost: int
    doubled: int
    false_sums: int
    unclosed: int | None
    foreign: int

    @property
    def right(self) -> bool:
        """Every total equals the ledger's, and all that was due has closed."""
        return not (self.lost or self.doubled or self.false_sums or self.unclosed or self.foreign)


def judge(expected: Mapping[Place, Total], found: Mapping[Place, Found], *, closing: bool) -> Verdict:
    """Each window by itself: what one window has too many does not make up for what another has lost.

    closing: every window is due, and has to be closed; a contestant that closed a window is taken at its last word.
    """
    lost = doubled = false_sums = unclosed = 0
    for place, total in expected.items():
        shown = found.get(place)
        count = shown.events if shown is not None else 0
        lost += max(0, total.events - count)
        doubled += max(0, count - total.events)
        false_sums += shown is not None and count == total.events and shown.sum != total.sum
        unclosed += shown is None or not shown.closed
    foreign = sum(place not in expected and not place.key.startswith((PROBE, CLOSER)) for place in found)
    return Verdict(len(expected), lost, doubled, false_sums, unclosed if closing else None, foreign)
