"""How an id is held decides nothing: as intervals or digests, in memory or on disk, restored or not, a dictionary agrees."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import Ids
from tables import dedupe, shelves
from tables.dedupe import KnownIds
from tables.runs import Disk
from tests.tables.ids import BUCKET, HOUR, MINUTE, NOON, Pair, Plain, knows, restore, snapshot, touched

LANES = ("a-", "b-", "ab-")


@pytest.fixture(autouse=True)
def small_shelves() -> Iterator[None]:
    """So that some ids are enough for shelves to be split, and some intervals for a lane to be in several shares."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shelves.Shelves.__init__, "__defaults__", (None, 60))
        patched.setattr(shelves, "_LITTLE", 32)
        patched.setattr(dedupe, "_SHARE", 5)
        yield


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*LANES, "a-", "a-", "other "]),
        st.sampled_from([1, 1, 1, 1, 1, 2, 3, -1, -4, 0]),  # from the counter before, of that lane
        st.sampled_from([0, 0, 0, 0, 1, BUCKET // 3, 5 * BUCKET, 40 * BUCKET]),  # the watermark moves on
        st.sampled_from([0, 0, 0, 1, BUCKET, HOUR // 2, HOUR, -MINUTE]),  # behind it
    ),
    max_size=40,
)
"""A batch."""
STEPS = st.lists(
    st.tuples(
        EVENTS,
        st.integers(1, 4),  # how often it is repeated: counters go on
        st.sampled_from(
            ["go on", "go on", "evict", "checkpoint", "restart", "restart from a snapshot", "restart twice"]
        ),
    ),
    max_size=12,
)


@given(STEPS, st.sampled_from([None, 1000, 6000]), st.sampled_from([1, 4, 4096]))
@settings(max_examples=200)
def test_whatever_the_batches_and_restarts_the_answers_are_those_of_a_dictionary(
    steps: list[tuple[list[tuple[str, int, int, int]], int, str]], memory: int | None, most: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = None if memory is None else Disk(Path(directory), memory)
        _judge(steps, disk, most)


def _judge(steps: list[tuple[list[tuple[str, int, int, int]], int, str]], disk: Disk | None, most: int) -> None:
    known, plain = KnownIds(HOUR, disk, most), Plain()
    watermark_ms = NOON
    counters = dict.fromkeys((*LANES, "other "), 50)
    written: list[bytes] = []
    for events, repeated, then in steps:
        batch: list[tuple[Pair, int, int]] = []
        for lane, step, later_ms, behind_ms in events * repeated:
            counters[lane] = max(0, counters[lane] + step)
            watermark_ms += later_ms
            id = f"{lane}{counters[lane]}" + ("." if lane == "other " else "")
            batch.append((("/s", id), watermark_ms - behind_ms, watermark_ms))
        expected = [plain.count(*event) for event in batch]
        ids = Ids.of([pair for pair, _, _ in batch])
        times_ms, before_ms = (np.array([event[at] for event in batch], np.int64) for at in (1, 2))
        assert known.count(ids, times_ms, before_ms).tolist() == expected
        if then != "go on":
            known.evict(watermark_ms)
        if then not in ("go on", "evict"):
            written += touched(known)
        if then.startswith("restart"):
            if then == "restart from a snapshot":
                written = snapshot(known)
            known = restore(KnownIds(HOUR, disk, most), written[::-1])
            if then == "restart twice":  # a piece may come twice, and later ones after those before
                known = restore(known, written)
            known.evict(watermark_ms)
        pairs = list(plain.counted)
        said = knows(known, Ids.of(pairs), watermark_ms)
        assert said == [plain.knows(pair, watermark_ms) for pair in pairs]
        held = sum(said)
        assert held <= len(known) if then == "go on" else held == len(known)


def test_owners_who_held_them_otherwise_are_united() -> None:
    """One had a lane, the other saw its ids one by one; what is left of both is a changelog, and then the lane goes on."""
    together, singly = KnownIds(HOUR), KnownIds(HOUR)
    pairs = [("/s", f"lane-{number}") for number in range(40)]
    at = np.full(40, NOON)
    assert not together.count(Ids.of(pairs[:20]), at[:20], at[:20]).any()
    for number in range(40):
        assert not singly.count(Ids.of(pairs[number : number + 1]), at[:1], at[:1]).any()
    both = restore(KnownIds(HOUR), [*touched(together), *touched(singly)])
    assert both.count(Ids.of(pairs), at, at).all()


def test_what_came_of_a_lane_before_it_began_is_a_duplicate_of_it() -> None:
    known = KnownIds(HOUR)
    at = np.full(100, NOON)
    pairs = [("/s", f"lane-{number}") for number in range(100)]
    for number in range(0, 50, 7):
        assert not known.count(Ids.of(pairs[number : number + 7]), at[:7], at[:7]).any()
    assert known.count(Ids.of(pairs), at, at).tolist() == [True] * 56 + [False] * 44
    assert known.count(Ids.of(pairs), at, at).all()


def test_a_lane_of_too_many_intervals_of_an_id_each_takes_no_more_and_forgets_nothing() -> None:
    known = KnownIds(HOUR, most=10)
    at = np.full(100, NOON)
    gaps = Ids.of([("/s", f"lane-{number * 2}") for number in range(100)])
    assert not known.count(gaps, at, at).any()
    assert known.count(gaps, at, at).all()
    again = restore(KnownIds(HOUR, most=10), touched(known))
    assert again.count(gaps, at, at).all()
    assert len(again) == len(known) == 100
