"""Ids that end in a counter, where intervals are many: a lane keeps them while they pay, and the answers stay right."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import Integers
from tables import lane_kernels as kernels
from tables.dedupe import KnownIds
from tables.lanes import MOST, LaneShare
from tables.runs import Disk
from tests.tables.ids import HOUR, NOON, count, name_of_lane, of_lane, restore, snapshot, touched


def duplicates(known: KnownIds, counters: Integers, lane: int = 0, time_ms: int = NOON) -> int:
    """How many of them are known already."""
    return sum(count(known, of_lane(counters, lane), time_ms))


def put_in(known: KnownIds, counters: Integers) -> list[bytes]:
    """Batch by batch, none of them a duplicate, with a checkpoint after each; the pieces of those."""
    pieces = []
    for batch in np.array_split(counters, 50):
        assert duplicates(known, batch) == 0
        pieces += touched(known)
    return pieces


def with_gaps(intervals: int, length: int) -> Integers:
    """Counters of so many intervals of that length, a gap of one between them."""
    counters = np.arange(intervals * (length + 1))
    return counters[counters % (length + 1) < length]


def digests(known: KnownIds) -> int:
    """How many are held by their digests."""
    return sum(known._shelves.held.values())


@pytest.mark.parametrize("length", [2, 9])
def test_where_ids_are_missing_a_lane_has_as_many_intervals_as_pay(length: int) -> None:
    counters = with_gaps(3 * MOST, length)
    known = KnownIds(HOUR)
    pieces = put_in(known, counters)
    assert digests(known) == 0 and known.size_bytes < 40 / length * len(counters)
    assert duplicates(known, counters) == len(counters)
    for written in (pieces, snapshot(known)):
        again = restore(KnownIds(HOUR), written)
        more = counters[-1] + 2 + with_gaps(MOST, length)
        assert duplicates(again, np.concatenate((counters, more))) == len(counters)
        assert digests(again) == 0 and len(again) == len(counters) + len(more)


def test_where_two_buckets_of_time_mingle_a_lane_goes_on() -> None:
    """Times that jitter about the end of a bucket: two long intervals become many short ones there."""
    known = KnownIds(HOUR)
    random = np.random.default_rng(1)
    counters = np.arange(100_000)
    times = NOON + counters + random.integers(0, 60_000, len(counters))
    for rows in np.array_split(np.arange(len(counters)), 50):
        assert not known.count(of_lane(counters[rows]), times[rows], np.full(len(rows), NOON)).any()
    list(known.touched())
    assert known._lanes.held(0)[1] > 3 * MOST, "it is what it is about"
    assert digests(known) == 0 and known.size_bytes < 20 * len(counters)
    assert duplicates(known, counters) == len(counters)


def test_intervals_of_one_id_each_pay_no_more() -> None:
    counters = with_gaps(3 * MOST, 1)
    known = KnownIds(HOUR)
    put_in(known, counters)
    assert digests(known) == len(counters) - MOST
    assert duplicates(known, counters) == len(counters)
    again = restore(KnownIds(HOUR), snapshot(known))
    assert duplicates(again, counters) == len(counters)
    assert duplicates(again, np.array([1])) == 0
    assert digests(again) == len(counters) - MOST + 1, "it was closed, and is again"


def test_what_is_too_late_makes_room_for_more() -> None:
    known = KnownIds(HOUR)
    for number in range(5):
        counters = 3 * MOST * number + with_gaps(MOST, 1)
        assert duplicates(known, counters, time_ms=NOON + 2 * number * HOUR) == 0
    assert digests(known) == 0


def test_intervals_of_few_ids_take_half_of_the_memory_for_ids(tmp_path: Path) -> None:
    known = KnownIds(HOUR, Disk(tmp_path, 2_000_000))
    counters = with_gaps(100_000, 2)
    put_in(known, counters)
    assert known._lanes.size_bytes < 0.7 * 2_000_000 and digests(known) > 0
    assert known.size_bytes < 1.5 * 2_000_000
    assert duplicates(known, counters) == len(counters)
    assert duplicates(known, np.arange(1000), lane=1) == 0
    assert known._lanes.slots.keys() == {name_of_lane(0)}, "nor is there memory for another lane"


def test_intervals_of_many_ids_pay_where_there_is_no_memory_for_more_digests(tmp_path: Path) -> None:
    known = KnownIds(HOUR, Disk(tmp_path, 200_000))
    counters = with_gaps(8_000, 30)
    put_in(known, counters)
    assert digests(known) == 0 and known.size_bytes < 2 * len(counters)
    assert duplicates(known, counters) == len(counters)


def test_memory_of_intervals_that_are_too_late_is_given_back(tmp_path: Path) -> None:
    known = KnownIds(HOUR, Disk(tmp_path, 4_000_000))
    assert duplicates(known, with_gaps(60_000, 2)) == 0
    known.evict(NOON + 3 * HOUR)
    list(known.touched())
    assert known._lanes.size_bytes < 50_000
    counters = 1_000_000 + with_gaps(2 * MOST, 2)
    assert duplicates(known, counters, time_ms=NOON + 3 * HOUR) == 0
    assert digests(known) == 0, "there is room for a lane again"


def test_a_lane_at_its_limit_goes_on_in_its_last_interval() -> None:
    known = KnownIds(HOUR, most=10)
    sparse = with_gaps(10, 1)
    assert duplicates(known, sparse) == 0
    assert duplicates(known, sparse[-1] + 1 + np.arange(10_000)) == 0
    assert digests(known) == 0


def test_a_million_intervals_of_all_times_are_restored() -> None:
    """An insertion before all others, for each, would take a quarter of an hour."""
    known = KnownIds(HOUR)
    counters = with_gaps(1_000_000, 2)
    times = NOON + np.arange(len(counters)) * HOUR // len(counters)
    assert not known.count(of_lane(counters), times, np.full(len(counters), NOON)).any()
    again = restore(KnownIds(HOUR), touched(known))
    assert len(again) == len(known) == len(counters)
    assert duplicates(again, counters) == len(counters)


PIECES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=25
)
"""Lane, start, length less one, time."""


@given(PIECES)
def test_of_intervals_that_lie_over_one_another_the_latest_time_holds(pieces: list[tuple[int, int, int, int]]) -> None:
    expected: dict[tuple[int, int], int] = {}
    for lane, start, more, time in pieces:
        for counter in range(start, start + more + 1):
            expected[lane, counter] = max(time, expected.get((lane, counter), -1))
    pieces = sorted(pieces)
    lanes, firsts, lengths, times = (np.array(column, np.int64) for column in zip(*pieces, strict=True))
    heap, found = np.empty(len(pieces), np.int64), np.empty((4, 2 * len(pieces)), np.int64)
    many = kernels.newest_of(lanes, firsts, firsts + lengths, times, heap, found)
    united = [tuple(row) for row in found[:, :many].T.tolist()]
    assert united == sorted(united)
    said = [(lane, at, time) for lane, first, last, time in united for at in range(first, last + 1)]
    assert len(said) == len(expected) and all(expected[lane, at] == time for lane, at, time in said)
    for before, after in pairwise(united):
        assert before[0] != after[0] or before[3] != after[3] or before[2] + 1 < after[1], "they would be one"


def test_a_lane_whose_gaps_are_filled_from_the_front_is_soon_closed() -> None:
    """Each filled gap makes one interval of two, and moves all behind them."""
    counters = with_gaps(50_000, 9)
    known = KnownIds(HOUR)
    assert duplicates(known, counters) == 0
    gaps = np.arange(50_000) * 10 + 9
    assert duplicates(known, gaps) == 0
    moved = np.cumsum(np.arange(50_000, 0, -1) - kernels.EASY)
    assert len(gaps) - digests(known) == pytest.approx(np.argmax(moved > kernels.TOILSOME), abs=2)
    assert duplicates(known, np.concatenate((counters, gaps))) == len(counters) + len(gaps)
    again = restore(KnownIds(HOUR), snapshot(known))
    assert duplicates(again, np.concatenate((counters, gaps))) == len(counters) + len(gaps)


def test_a_snapshot_of_a_lane_in_parts_has_what_changes_between_them() -> None:
    """A gap that is filled joins intervals of two parts, the first of which is written already."""
    known = KnownIds(HOUR)
    counters = with_gaps(10_000, 2)
    assert duplicates(known, counters) == 0
    list(known.touched())
    units = [unit for unit in known.units() if isinstance(unit, LaneShare)]
    assert len(units) == 3 and digests(known) == 0
    written = [entry.value or b"" for entry in known.slice(units[0])]
    assert duplicates(known, np.arange(10_000) * 3 + 2) == 0
    for unit in units[1:]:
        written += [entry.value or b"" for entry in known.slice(unit)]
    again = restore(KnownIds(HOUR), [*written, *touched(known)])
    assert len(again) == 30_000
    assert duplicates(again, np.arange(30_000)) == 30_000
    alone = restore(KnownIds(HOUR), written)
    assert duplicates(alone, counters) == len(counters), "what was there when the snapshot began is in it"


def test_lanes_of_all_sizes_are_in_a_snapshot_once() -> None:
    known = KnownIds(HOUR)
    sizes = (9000, 10, 4000)
    for lane, many in enumerate(sizes):
        assert duplicates(known, with_gaps(many, 2), lane) == 0
    pieces = snapshot(known)
    assert sum(len(piece) for piece in pieces) < 10 * sum(sizes)
    again = restore(KnownIds(HOUR), pieces)
    assert len(again) == 2 * sum(sizes)
    for lane, many in enumerate(sizes):
        assert duplicates(again, with_gaps(many, 2), lane) == 2 * many
