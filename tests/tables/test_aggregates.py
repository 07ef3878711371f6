"""Seven aggregations: the join of any shares is what adding everything up at once gives (design §5)."""

from __future__ import annotations

import hashlib
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.numbers import SUM, format_quantity, quantity
from schemas.partials import Contribution
from schemas.written import SMALL
from tables.aggregates import Share, events_and_digest, value
from tables.share_kernels import VERSION
from tables.shares import Shares, Sums
from tests.streams.stage import AGGREGATIONS

PLAIN = [name for name in AGGREGATIONS if name != "unique_count"]


class Counted(NamedTuple):
    """One counted event: where it lay, when it was, how much."""

    source: int
    time_ms: int
    amount: Decimal


amounts = st.decimals(min_value=-(10**20) + 1, max_value=10**20 - 1, places=18, allow_nan=False) | st.integers(
    -3, 3
).map(Decimal)
events = st.lists(
    st.builds(Counted, st.integers(0, 3), st.integers(0, 3), amounts.map(quantity)), min_size=1, max_size=12
)


def fold(shares: Shares, slot: int, aggregation: str, counted: list[tuple[int, Counted]]) -> None:
    """Folds numbered events: as one batch of machine words where they fit, else one by one."""
    slots = np.full(len(counted), slot)
    offsets = np.array([number // 2 for number, _ in counted])
    digests = [int.from_bytes(hashlib.blake2b(b"%d" % n, digest_size=16).digest(), "big") for n, _ in counted]
    words = np.array([[d >> 64 for d in digests], [d & (1 << 64) - 1 for d in digests]], np.uint64)
    shares.count(slots, Sums(np.ones(len(counted), np.int64), words, offsets, offsets))
    if aggregation == "count":
        return
    moments = np.array([(event.time_ms, number // 2, number % 2) for number, event in counted]).T
    places = max(max(0, -int(event.amount.as_tuple().exponent)) for _, event in counted)
    units = [int(event.amount.scaleb(places, SUM)) for _, event in counted]
    if max(map(abs, units)) < SMALL:
        shares.fold(aggregation, slots, np.array(units), places, moments if aggregation == "latest" else None)
        return
    for number, event in counted:
        shares.fold_exactly(aggregation, slot, event.amount, (event.time_ms, number // 2, number % 2))


def shares_of(aggregation: str, counted: list[Counted], batches: int = 3) -> dict[int, Contribution]:
    """Folded per source, in the order of the log: offsets are places in the list, two events to a record."""
    shares = Shares()
    shares.clear(np.arange(8), 8, 1)
    for at in range(0, len(counted), batches):
        by_source: dict[int, list[tuple[int, Counted]]] = {}
        for number, event in enumerate(counted[at : at + batches], start=at):
            by_source.setdefault(event.source, []).append((number, event))
        for source, some in by_source.items():
            fold(shares, source, aggregation, some)
    return {source: shares.share(source).contribution() for source in {event.source for event in counted}}


def directly(aggregation: str, counted: list[Counted]) -> Decimal | Fraction:
    """The definition, in rational numbers: nothing is rounded."""
    exact = [Fraction(event.amount) for event in counted]
    if aggregation == "latest":
        ranked = [(e.time_ms, e.source, number, e.amount) for number, e in enumerate(counted)]
        return Fraction(max(ranked)[3])
    return {
        "sum": sum(exact, Fraction(0)),
        "count": Fraction(len(exact)),
        "min": min(exact),
        "max": max(exact),
        "avg": sum(exact, Fraction(0)) / len(exact),
    }[aggregation]


@pytest.mark.parametrize("aggregation", PLAIN)
@settings(max_examples=200, deadline=None)
@given(counted=events)
@example(counted=[Counted(0, 0, Decimal("99999999999999999999.999999999999999999"))] * 3)
@example(counted=[Counted(0, 0, Decimal("1")), Counted(1, 0, Decimal("-1"))])
def test_the_join_of_any_split_over_sources_is_the_direct_computation(aggregation: str, counted: list[Counted]) -> None:
    joined = value(aggregation, shares_of(aggregation, counted), 0)
    expected = directly(aggregation, counted)
    if aggregation == "avg":
        expected = rounded(Fraction(expected))
    assert Fraction(joined) == expected
    assert "E" not in format_quantity(joined)


def rounded(exact: Fraction) -> Fraction:
    """To 34 digits, half to even, once."""
    context = Context(prec=34, rounding=ROUND_HALF_EVEN)
    return Fraction(context.divide(Decimal(exact.numerator), Decimal(exact.denominator)))


@pytest.mark.parametrize("aggregation", PLAIN)
@settings(max_examples=60, deadline=None)
@given(counted=events)
def test_a_share_is_the_same_after_a_checkpoint(aggregation: str, counted: list[Counted]) -> None:
    """Each event folded into a share that was written and read again."""
    kept: dict[int, Contribution] = {}
    for number, event in enumerate(counted):
        shares = Shares()
        shares.clear(np.zeros(1, np.int64), 1, 1)
        if event.source in kept:
            shares.put(0, Share.of(kept[event.source]))
        fold(shares, 0, aggregation, [(number, event)])
        kept[event.source] = shares.share(0).contribution()
    assert kept == shares_of(aggregation, counted)


@pytest.mark.parametrize("aggregation", PLAIN)
@settings(max_examples=60, deadline=None)
@given(counted=events, batches=st.integers(1, 12))
def test_a_share_is_the_same_whatever_was_folded_together(
    aggregation: str, counted: list[Counted], batches: int
) -> None:
    """Word by word or as decimals: what leaves is the same, and has the same bytes."""
    assert shares_of(aggregation, counted, batches) == shares_of(aggregation, counted, 1)
    written = [msgspec.msgpack.encode(share) for share in shares_of(aggregation, counted, batches).values()]
    assert written == [msgspec.msgpack.encode(share) for share in shares_of(aggregation, counted, 1).values()]


def test_a_slot_that_is_taken_anew_has_nothing_of_its_former_window() -> None:
    shares = Shares()
    for amount in (Decimal(10) ** 19 + Decimal("0.1"), Decimal(7)):
        shares.clear(np.zeros(1, np.int64), 1, 1)
        for aggregation in ("sum", "latest"):
            shares.clear(np.zeros(1, np.int64), 1, 1)
            fold(shares, 0, aggregation, [(4, Counted(0, 1, amount))])
            assert shares.share(0) == Share(
                2, 1, shares.share(0).digest, 2, amount, (1, 2, 0) if aggregation == "latest" else None
            )


def test_shares_stay_what_they_are_while_room_is_made_for_more() -> None:
    shares = Shares()
    shares.clear(np.arange(4), 4, 7)
    for slot, (aggregation, amount) in enumerate([("latest", 3), ("sum", 10**19), ("sum", 5), ("count", 0)]):
        fold(shares, slot, aggregation, [(slot, Counted(0, 1, Decimal(amount))), (9, Counted(0, 2, Decimal(amount)))])
    before = [shares.share(slot) for slot in range(4)]
    shares.clear(np.arange(4, 5_000), 5_000, 8)
    assert [shares.share(slot) for slot in range(4)] == before
    assert [share.amount for share in before] == [3, 2 * 10**19, 10, None]
    assert shares.rows[[0, 3, 4, 4_999], VERSION].tolist() == [7, 7, 8, 8]
    assert shares.in_words(np.arange(5)).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("amount", [Decimal(7), Decimal(10) ** 19 + Decimal("0.1")])
def test_the_first_latest_may_be_of_any_slot_however_many_there_are(amount: Decimal) -> None:
    shares = Shares()
    shares.clear(np.arange(5_000), 5_000, 1)
    fold(shares, 3_000, "sum", [(1, Counted(0, 1, Decimal(2)))])
    assert shares.in_words(np.arange(5_000)).all()
    fold(shares, 4_999, "latest", [(4, Counted(0, 6, amount))])
    assert (shares.share(4_999).amount, shares.share(4_999).at) == (amount, (6, 2, 0))
    assert np.flatnonzero(~shares.in_words(np.arange(5_000))).tolist() == [4_999]
    again = Shares()
    again.clear(np.arange(5_000), 5_000, 1)
    again.put(4_999, shares.share(4_999))
    assert again.share(4_999) == shares.share(4_999)


def test_a_unique_count_is_the_size_of_the_united_set() -> None:
    assert value("unique_count", {0: Contribution(9, bytes(16), 0, 9)}, 4) == Decimal(4)


def test_sums_are_exact_where_binary_floats_are_not() -> None:
    counted = [Counted(number % 3, 0, Decimal("0.1")) for number in range(1000)]
    assert value("sum", shares_of("sum", counted), 0) == Decimal("100")


def test_latest_breaks_ties_by_time_then_source_then_offset_then_index() -> None:
    tied = [Counted(0, 5, Decimal(1)), Counted(1, 5, Decimal(2)), Counted(1, 5, Decimal(3)), Counted(0, 5, Decimal(4))]
    assert value("latest", shares_of("latest", tied), 0) == Decimal(3), "source 1, its last"
    assert value("latest", shares_of("latest", tied[:1] + tied[3:]), 0) == Decimal(4), "the later offset"
    within = [Counted(0, 5, Decimal(1)), Counted(0, 5, Decimal(2))]
    assert value("latest", shares_of("latest", within), 0) == Decimal(2), "the later place in the envelope"
    earlier = [Counted(0, 5, Decimal(1)), Counted(0, 4, Decimal(2))]
    assert value("latest", shares_of("latest", earlier), 0) == Decimal(1)


def test_an_average_of_thirds_has_34_digits() -> None:
    counted = [Counted(0, 0, Decimal(amount)) for amount in (1, 0, 0)]
    assert format_quantity(value("avg", shares_of("avg", counted), 0)) == "0." + "3" * 34


@settings(max_examples=100, deadline=None)
@given(events, st.integers(0, 1 << 30))
def test_events_and_digests_add_up_over_any_split(counted: list[Counted], salt: int) -> None:
    moved = [event._replace(source=(event.source + salt) % 5) for event in counted]
    assert events_and_digest(shares_of("count", counted)) == events_and_digest(shares_of("count", moved))
    assert events_and_digest(shares_of("count", counted))[0] == len(counted)


def test_a_digest_tells_which_events_were_counted_and_how_often() -> None:
    counted = [Counted(0, 0, Decimal(1))] * 3
    assert events_and_digest(shares_of("count", counted))[1] != events_and_digest(shares_of("count", counted[:2]))[1]
    shares, one = Shares(), np.ones(1, np.int64)
    shares.clear(one, 2, 1)
    for high, low in ((1, (1 << 64) - 1), (0, 1), ((1 << 64) - 1, 0)):
        shares.count(one, Sums(one, np.array([[high], [low]], np.uint64), one, one))
    assert shares.share(1).digest == 1 << 64, "added with a carry, modulo 2^128, not XORed: a pair does not vanish"
