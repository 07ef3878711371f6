"""What is due is given in time, once, and nothing else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.windows import WindowKey
from tables.timetable import Timetable


def key(number: int) -> WindowKey:
    return WindowKey(f"s{number}", "m", (), 0, "PT1M")


@given(
    st.lists(st.one_of(st.tuples(st.just("add"), st.integers(-5, 5)), st.tuples(st.just("take"), st.integers(-6, 6))))
)
def test_what_is_due_is_given_once_in_order_of_its_time(acts: list[tuple[str, int]]) -> None:
    timetable, waiting = Timetable(), list[tuple[int, WindowKey]]()
    for number, (act, time_ms) in enumerate(acts):
        if act == "add":
            timetable.add(time_ms, key(number))
            waiting.append((time_ms, key(number)))
            continue
        due = timetable.take(time_ms)
        assert [at for at, _ in due] == sorted(at for at, _ in due)
        assert sorted(due) == sorted(place for place in waiting if place[0] <= time_ms)
        waiting = [place for place in waiting if place[0] > time_ms]


def test_a_window_may_be_put_back_at_the_time_it_was_taken_at() -> None:
    timetable = Timetable()
    timetable.add(5, key(1))
    assert timetable.take(7) == [(5, key(1))]
    timetable.add(5, key(1))
    assert timetable.take(4) == []
    assert timetable.take(5) == [(5, key(1))]
    assert timetable.take(99) == []
