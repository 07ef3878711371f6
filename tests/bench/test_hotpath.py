"""What the parts of the hot path take adds up to what the whole takes, and all events are counted."""

from __future__ import annotations

import time

import pytest

from bench import hotpath
from bench.field.meterline import meters_yaml
from schemas.meters import parse


def test_a_part_is_timed_without_the_parts_inside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(time, "thread_time", lambda: now_s)
    watch = hotpath.Stopwatch()

    def outer() -> None:
        pass_time(1)
        watch.timed("inner", lambda: pass_time(10))
        pass_time(2)
        watch.timed("inner", lambda: pass_time(20))

    watch.timed("outer", outer)
    assert watch.spent_s == {"outer": 3.0, "inner": 30.0}


@pytest.mark.parametrize("envelopes", [False, True])
def test_everything_is_counted_and_every_part_is_in_the_table(envelopes: bool) -> None:
    given = hotpath.fetches(1_000, 60_000, envelopes=envelopes)
    run = hotpath.measure("some events", given, parse(meters_yaml()))
    assert 0 < run.events < 61_000
    assert 0 < hotpath.measure("the last of them", given, parse(meters_yaml()), 0.9).events < run.events / 2
    assert {
        hotpath.UNPACK,
        hotpath.SHAPES,
        hotpath.COLUMNS,
        hotpath.IDS,
        hotpath.FOLD,
        hotpath.REST,
        hotpath.JOIN,
    } <= set(run.us)
    text = hotpath.section([run], "here")
    assert all(part in text for part in run.us) and f"Some events: {run.events:,} events" in text
