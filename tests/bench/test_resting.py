"""What many new keys ask for besides is waited for, and no longer than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from bench.field import inputs, measure
from bench.field.contestants import Running
from bench.field.peers import PEERS


class Working:
    """CPU time as it is read, one reading after the other. read: how often it was."""

    def __init__(self, readings: Iterator[float]) -> None:
        self._readings = readings
        self.read = 0

    def cpu_s(self) -> float:
        self.read += 1
        return next(self._readings)

    def check(self) -> None:
        """It runs."""


@pytest.mark.parametrize(
    ("readings", "read"),
    [([5.0, 5.1], 2), ([5.0, 6.0, 6.5, 6.6, 9.9], 4), ([5.0, 5.31, 5.4], 3)],
    ids=["it rests already", "it works for a while", "a little is work, too"],
)
async def test_a_contestant_is_rested_when_it_has_hardly_worked_between_two_readings(
    monkeypatch: pytest.MonkeyPatch, readings: list[float], read: int
) -> None:
    async def at_once(_: float) -> None:
        """No test waits."""

    monkeypatch.setattr("bench.field.measure.asyncio.sleep", at_once)
    working = Working(iter(readings))
    await measure.rested(cast(Running, working))
    assert working.read == read


def test_a_window_of_many_is_closed_where_nothing_is_told_of_it_before() -> None:
    many, few = inputs.Input("many", [], [], 0, closes=False), inputs.Input("few", [], [], 0)
    told = {peer.name: [measure.closed_in_the_end(peer, given) for given in (few, many)] for peer in PEERS}
    assert told["quix"] == [True, True] and told["kafka-streams"] == [True, False] and told["faust"] == [False, False]


async def test_one_that_never_rests_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESTED_MOST_S", 0.0)
    working = Working(iter([5.0]))
    await measure.rested(cast(Running, working))
    assert working.read == 1
