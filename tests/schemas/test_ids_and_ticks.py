"""What stands for an event in the memory of duplicates, and the clock as a record (design §3, §4)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import DEFINITIONS_TYPE, RESERVED_PREFIX, TICK_TYPE, event_id_digest, tick
from tests.schemas.samples import one

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_only_equal_pairs_have_one_digest(source: str, id: str, other_source: str, other_id: str) -> None:
    same = (source, id) == (other_source, other_id)
    assert (event_id_digest(source, id) == event_id_digest(other_source, other_id)) == same


def test_moving_the_border_between_source_and_id_changes_the_digest() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("1:a", "b"), ("1", ":ab"), ("é", "x"), ("Ã©", "x")]
    assert len({event_id_digest(*pair) for pair in pairs}) == len(pairs)


def test_a_digest_has_128_bits_and_is_stable_between_releases_because_state_holds_it() -> None:
    assert event_id_digest("/shop", "e-1").hex() == "eb5f75337a754722a04f745ce5f84224"


def test_a_tick_is_an_event_of_its_own_reserved_type() -> None:
    event = one(tick(1769860800250, "/meterline/usage/3", "3-17"))
    assert (event.type, event.time) == (TICK_TYPE, "2026-01-31T12:00:00.250Z")
    assert (event.source, event.id) == ("/meterline/usage/3", "3-17")
    assert TICK_TYPE.startswith(RESERVED_PREFIX)
    assert DEFINITIONS_TYPE.startswith(RESERVED_PREFIX)
