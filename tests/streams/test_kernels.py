"""What the fold's kernels write is what everybody else reads: where a subject's partials go, and the keys of windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.blocks import still
from schemas.texts import Texts
from schemas.windows import WindowKey, encode_key
from streams.kernels import bucketed, gathered, window_keys

texts = st.lists(st.text(max_size=70), min_size=1, max_size=8)


@pytest.mark.parametrize("size", [1, 31, 32, 255, 256, 512])
def test_a_key_is_written_as_its_window_is_encoded(size: int) -> None:
    keys = [
        WindowKey(subject, "calls", group, start_ms, "PT1M")
        for subject in ("x" * size, "\u00fc")
        for group in ((), (("model", "gpt-4o"),))
        for start_ms in (0, 1_767_268_800_000)
    ]
    subjects = Texts.of([b"x" * size, "\u00fc".encode()])
    tails = Texts.of([encode_key(key._replace(subject=""))[2:] for key in keys])
    written = np.empty(len(keys) * (size + 100), np.uint8)
    begins, ends = np.empty((2, len(keys)), np.int64)
    window_keys(
        still(subjects.letters, np.uint8), subjects.starts, subjects.stops, np.arange(len(keys)) // 4,
        tails.letters, np.append(0, tails.stops), np.arange(len(keys)), written, begins, ends,
    )  # fmt: skip
    assert Texts(written, begins, ends).tolist() == [encode_key(key) for key in keys]


rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(-2, 3)), min_size=1, max_size=40)


@given(rows)
def test_rows_are_numbered_by_what_they_are_in_their_order(found: list[tuple[int, int, int]]) -> None:
    subjects, groups, steps = np.array(found).T.copy()
    buckets, group, start, subject = np.empty((4, len(found)), np.int64)
    many = bucketed(subjects, groups, steps * 60_000, 60_000, buckets, group, start, subject)
    expected = [*dict.fromkeys(found)]
    assert [*zip(subject[:many], group[:many], start[:many] // 60_000, strict=True)] == expected
    assert buckets.tolist() == [expected.index(row) for row in found]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_what_rows_come_to_is_what_python_says(found: list[tuple[int, int, int, int]]) -> None:
    buckets, units, times, offsets = np.array(found).T.copy()
    number = np.unique(buckets, return_inverse=True)[1]
    moments = np.array([times, offsets, np.arange(len(found))])
    totals, chosen = np.empty((2, number.max() + 1), np.int64)
    wholes: list[Callable[[list[int]], int]] = [sum, min, max]
    for kind, whole in enumerate(wholes):
        gathered(kind, number, units, np.empty((3, 0), np.int64), totals, chosen)
        assert totals.tolist() == [whole(units[number == n].tolist()) for n in range(len(totals))]
    gathered(3, number, units, moments, totals, chosen)
    latest = [max((*moments[:, row].tolist(), row) for row in np.flatnonzero(number == n)) for n in range(len(totals))]
    assert chosen.tolist() == [row for *_, row in latest]
    assert totals.tolist() == [units[row] for *_, row in latest]
