"""What is due is given in time, once, and nothing else is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables.agenda import Agenda

times = st.lists(st.integers(-5, 5), max_size=6)


@given(st.lists(st.one_of(st.tuples(st.just("add"), times), st.tuples(st.just("take"), st.integers(-6, 6)))))
def test_what_is_due_is_given_once_in_order_of_its_time(acts: list[tuple[str, list[int] | int]]) -> None:
    agenda, waiting, slots = Agenda(), list[tuple[int, int]](), 0
    for _, given_ms in acts:
        if isinstance(given_ms, list):
            some = np.arange(slots, slots + len(given_ms))
            slots += len(given_ms)
            agenda.add(np.array(given_ms, np.int64), some)
            waiting += zip(given_ms, some.tolist(), strict=True)
            continue
        due = agenda.take(given_ms).tolist()
        assert due == [slot for time_ms, slot in sorted(waiting) if time_ms <= given_ms]
        waiting = [place for place in waiting if place[0] > given_ms]


def test_a_window_may_be_put_back_at_the_time_it_was_taken_at() -> None:
    agenda = Agenda()
    agenda.add(np.array([5]), np.array([1]))
    assert agenda.take(7).tolist() == [1]
    agenda.add(np.array([5]), np.array([1]))
    assert agenda.take(4).tolist() == []
    assert agenda.take(5).tolist() == [1]
    assert agenda.take(99).tolist() == []
