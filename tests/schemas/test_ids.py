"""Ids as columns: the digest of each, and which of them end in a counter (design §4)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import event_id_digest
from schemas.ids import Ids, digests_of, ids_of
from schemas.texts import Texts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LONG = st.integers(0, 400).map("é".__mul__) | st.sampled_from([126, 127, 128, 129, 255, 256, 257]).map("x".__mul__)
COUNTING = st.builds(
    "{}{}".format, st.sampled_from(["run-", "run", "r_", "lane a ", "", "ü"]), st.integers(0, 10**19)
) | st.builds("{}{}".format, st.sampled_from(["x-", "x"]), st.sampled_from(["0", "00", "01", "12"]))
PAIRS = st.lists(st.tuples(st.sampled_from(["/a", "/b", "long" * 40]) | TEXTS | LONG, TEXTS | LONG | COUNTING))

LANE = re.compile(r"(.*[^0-9A-Fa-f])(0|[1-9][0-9]{0,17})", re.DOTALL)


def lanes(ids: Ids) -> list[tuple[bytes, int] | None]:
    """Of each id its lane's name and its counter there."""
    return [
        None if lane < 0 else (ids.names[lane], counter)
        for lane, counter in zip(ids.lanes.tolist(), ids.counters.tolist(), strict=True)
    ]


def expected(pairs: Sequence[tuple[str, str]]) -> list[tuple[bytes, int] | None]:
    found = [(source, LANE.fullmatch(id)) for source, id in pairs]
    return [match and (event_id_digest(source, match[1]), int(match[2])) for source, match in found]


@given(PAIRS)
def test_each_id_has_its_digest_whatever_its_length_and_its_sources(pairs: list[tuple[str, str]]) -> None:
    assert digests_of(Ids.of(pairs).words) == [event_id_digest(*pair) for pair in pairs]


@given(PAIRS)
def test_each_id_has_the_lane_and_the_counter_that_it_says(pairs: list[tuple[str, str]]) -> None:
    found = Ids.of(pairs)
    assert lanes(found) == expected(pairs)
    assert len(set(found.names)) == len(found.names)


@pytest.mark.parametrize(
    ("id", "counter"),
    [
        ("run-0-12", 12),
        ("run-0-0", 0),
        ("n7", 7),
        ("x-123456789012345678", 123456789012345678),
        ("x-1234567890123456789", None),  # 19 digits
        ("x-012", None),  # another text than x-12
        ("x-", None),
        ("12", None),  # nothing before it
        ("abc12", None),  # the c may be a digit, too
        ("", None),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", None),
    ],
)
def test_what_ends_in_a_counter(id: str, counter: int | None) -> None:
    found = Ids.of([("/s", id)])
    assert (found.counters[0], found.lanes[0]) == ((-1, -1) if counter is None else (counter, 0))


def test_one_text_of_two_sources_is_two_lanes() -> None:
    found = Ids.of([("/a", "n-1"), ("/b", "n-1"), ("/a", "n-2"), ("/b", "n-3")])
    assert found.lanes.tolist() == [0, 1, 0, 1]


def test_ten_thousand_lanes_at_once_are_told_apart() -> None:
    pairs = [("/s", f"lane {number % 10_000}:{number}") for number in range(30_000)]
    found = Ids.of(pairs)
    assert len(found.names) == 10_000
    assert found.lanes.tolist() == [number % 10_000 for number in range(30_000)]


@given(PAIRS, st.lists(st.integers(0, 100)))
def test_some_of_them_are_what_they_were(pairs: list[tuple[str, str]], rows: list[int]) -> None:
    rows = [row for row in rows if row < len(pairs)]
    some = Ids.of(pairs).only(np.array(rows, np.int64))
    assert digests_of(some.words) == [event_id_digest(*pairs[row]) for row in rows]
    assert lanes(some) == expected([pairs[row] for row in rows])


@given(st.lists(PAIRS, max_size=4))
def test_joined_they_are_as_if_they_had_come_together(parts: list[list[tuple[str, str]]]) -> None:
    pairs = [pair for part in parts for pair in part]
    found = Ids.joined([Ids.of(part) for part in parts])
    assert digests_of(found.words) == [event_id_digest(*pair) for pair in pairs]
    assert lanes(found) == expected(pairs)
    assert len(set(found.names)) == len(found.names)


def test_texts_may_lie_anywhere_and_be_of_any_memory() -> None:
    letters = np.frombuffer(bytearray(b'{"id":"n-17"},{"id":"n-18"}'), np.uint8)
    texts = Texts(letters, np.array([7, 21])[::-1], np.array([11, 25])[::-1])
    found = ids_of(texts, np.zeros(2, np.int64), ["/s"])
    assert lanes(found) == expected([("/s", "n-18"), ("/s", "n-17")])
