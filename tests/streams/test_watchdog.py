"""A worker that is in no group for longer than any join takes starts over; one that is in and out does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from settings import Settings
from streams.watchdog import longest_join_s, watch


class Ended(Exception):
    """The clock has run out of looks."""


class Seen:
    """A clock whose seconds are the looks of the watchdog, and what it sees at each: `#` in the group, `.` not."""

    def __init__(self, looks: Iterable[str]) -> None:
        self._looks = iter(looks)
        self.now = ""
        self.reasons: list[str] = []

    def now_ms(self) -> int:
        raise AssertionError("the wall clock is none of its business")

    def monotonic_s(self) -> float:
        raise AssertionError("only looks count")

    async def sleep(self, seconds: float) -> None:
        assert seconds == 1
        self.now = next(self._looks, "")
        if not self.now:
            raise Ended


async def looked(looks: str, limit_s: float) -> list[str]:
    seen = Seen(looks)
    try:
        await watch(seen, limit_s, lambda: seen.now == "#", seen.reasons.append)
    except Ended:
        assert seen.reasons == []
    return seen.reasons


@pytest.mark.parametrize("looks", ["....", "##....", "#.#..#...."])
async def test_so_long_without_a_group_is_the_end_of_waiting(looks: str) -> None:
    assert await looked(looks, 4) == ["in no consumer group for 4 s, longer than any rebalance takes"]


@pytest.mark.parametrize("looks", ["...", "...#...#...", "#" * 9, "..#" * 9])
async def test_rebalances_one_after_the_other_are_none(looks: str) -> None:
    assert await looked(looks, 4) == []


def test_a_join_may_take_what_the_group_waits_for_its_members() -> None:
    settings = Settings(session_timeout_s=30, rebalance_timeout_s=60)
    assert longest_join_s(settings) == 150
