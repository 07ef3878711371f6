"""A plan of misfortunes: drawn from a seed, of every kind, and never at a moment in which it could not be survived."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from local.misfortunes import FIRST_WORKERS, LAST_WORKERS, MOST_WORKERS, What, plan

KINDS = set(get_args(What))


def test_the_same_seed_brings_the_same_misfortunes_and_another_seed_others() -> None:
    assert plan(7, 60, broker=True) == plan(7, 60, broker=True)
    assert plan(7, 60, broker=True) != plan(8, 60, broker=True)


@pytest.mark.parametrize("seed", range(50))
def test_every_kind_happens_in_order_of_their_moments(seed: int) -> None:
    found = plan(seed, 5, broker=True)
    assert {misfortune.what for misfortune in found} == KINDS
    moments = [misfortune.at for misfortune in found]
    assert moments == sorted(moments)
    assert all(0 <= moment < 1 for moment in moments)


def test_a_broker_that_keeps_its_log_in_memory_is_not_killed() -> None:
    assert {misfortune.what for misfortune in plan(1, 600, broker=False)} == KINDS - {"kill broker"}


@pytest.mark.parametrize("seed", range(50))
def test_one_worker_becomes_three_before_one_is_frozen_and_two_remain(seed: int) -> None:
    found = plan(seed, 60, broker=True)
    sizes = [(misfortune.at, misfortune.number) for misfortune in found if misfortune.what == "scale"]
    assert [size for _, size in sizes] == [MOST_WORKERS, LAST_WORKERS]
    assert FIRST_WORKERS < LAST_WORKERS < MOST_WORKERS
    frozen = [misfortune.at for misfortune in found if misfortune.what == "freeze worker"]
    assert min(frozen) > sizes[0][0], "somebody must be there to say that the frozen one is out"


def test_the_longer_it_goes_on_the_more_happens() -> None:
    short, long = (Counter(misfortune.what for misfortune in plan(1, s, broker=True)) for s in (30, 300))
    for what in KINDS - {"scale", "rolling restart"}:
        assert long[what] > short[what]
