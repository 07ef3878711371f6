"""The judge finds what is lost, doubled, false and unclosed, window by window."""

from __future__ import annotations

from decimal import Decimal

from bench.field.inputs import Place, Total
from bench.field.judge import Found, Verdict, judge

ONE, OTHER = Place("a/llm.input", 0), Place("b/llm.input", 0)
EXPECTED = {ONE: Total(10, Decimal("2.5")), OTHER: Total(4, Decimal(8))}
RIGHT = {ONE: Found(10, Decimal("2.50"), True), OTHER: Found(4, Decimal(8), True)}


def told(**changes: Found | None) -> Verdict:
    found = {**RIGHT, **{{"one": ONE, "other": OTHER}[name]: value for name, value in changes.items()}}
    return judge(EXPECTED, {place: value for place, value in found.items() if value is not None}, closing=True)


def test_what_is_right_is_right() -> None:
    assert told() == Verdict(2, 0, 0, 0, 0, 0)
    assert told().right


def test_a_lost_event_is_found_and_not_made_up_for_by_a_doubled_one_elsewhere() -> None:
    verdict = told(one=Found(9, Decimal(2), True), other=Found(5, Decimal(9), True))
    assert (verdict.lost, verdict.doubled) == (1, 1)
    assert not verdict.right


def test_a_window_that_is_missing_has_lost_all_and_is_unclosed() -> None:
    verdict = told(one=None)
    assert (verdict.lost, verdict.unclosed) == (10, 1)


def test_a_doubled_window_is_found() -> None:
    assert told(other=Found(8, Decimal(16), True)).doubled == 4


def test_a_false_sum_is_found_where_the_count_is_right() -> None:
    verdict = told(one=Found(10, Decimal("2.25"), True))
    assert (verdict.false_sums, verdict.lost, verdict.doubled, verdict.right) == (1, 0, 0, False)


def test_an_unclosed_window_is_found_whatever_it_adds_up_to_and_is_nothing_where_nothing_is_due() -> None:
    unclosed = {**RIGHT, ONE: Found(10, Decimal("2.5"), False)}
    assert judge(EXPECTED, unclosed, closing=True).unclosed == 1
    assert not judge(EXPECTED, unclosed, closing=True).right
    assert judge(EXPECTED, unclosed, closing=False) == Verdict(2, 0, 0, 0, None, 0)


def test_a_window_that_nobody_sent_is_foreign_but_probes_and_closers_are_not() -> None:
    extra = {**RIGHT, Place("z/llm.input", 0): Found(1, Decimal(1), False)}
    extra[Place("probe-1/llm.input", 0)] = extra[Place("closing-1/llm.input", 0)] = Found(1, Decimal(1), False)
    verdict = judge(EXPECTED, extra, closing=True)
    assert verdict.foreign == 1
    assert not verdict.right
