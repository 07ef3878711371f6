"""The oracle is short and shares no code; its windows, values and shares are as worked out by hand from design.md §3 to §5."""

from __future__ import annotations

import ast
import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from simulation import oracle
from simulation.oracle import Expected, Share
from tests.simulation.oracle_logs import MINUTE, NOON, Logs, digest, meter, tick, use


def test_it_is_short_and_shares_no_code_with_the_product() -> None:
    text = Path(oracle.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_a_window_begins_at_a_multiple_of_its_size_and_does_not_hold_its_end() -> None:
    logs = Logs()
    logs.read(use("1", NOON - 1), use("2", NOON), use("3", NOON + MINUTE - 1), at_ms=NOON + MINUTE)
    logs.read(use("4", NOON + MINUTE), at_ms=NOON + MINUTE)
    counted = {window[3]: expected.events for window, expected in logs.oracle.windows().items()}
    assert counted == {NOON - MINUTE: 1, NOON: 2, NOON + MINUTE: 1}


def test_an_event_folds_into_every_window_of_every_meter_of_its_type() -> None:
    logs = Logs(meter(slug="a", windows=["PT1M", "PT2M"]), meter("count", slug="b"), meter(slug="c", event_type="x"))
    logs.read(use("1"), use("1"))
    sizes = {(window[1], window[4]) for window in logs.oracle.windows()}
    assert sizes == {("a", "PT1M"), ("a", "PT2M"), ("b", "PT1M")}
    assert [logs.oracle.folds(0, position) for position in (0, 1)] == [0, 3]


def test_a_group_is_a_window_of_its_own_and_what_is_missing_is_the_empty_text() -> None:
    logs = Logs(meter("count", group_by={"where": "/at/region", "model": "/model"}))
    logs.read(use("1", data={"model": "x", "at": {"region": "eu"}}), use("2", data={"model": None}))
    assert {window[2] for window in logs.oracle.windows()} == {
        (("model", "x"), ("where", "eu")),
        (("model", ""), ("where", "")),
    }


def test_a_window_lives_until_its_sources_own_watermark_seals_it() -> None:
    logs = Logs(sources=2)
    logs.read(use("1"))
    logs.read(tick(NOON + 6 * MINUTE - 1), at_ms=NOON + 6 * MINUTE)
    logs.read(tick(NOON + 6 * MINUTE), at_ms=NOON + 6 * MINUTE)
    alive = [logs.oracle.live(0, position) for position in range(4)]
    assert alive == [set(), {logs.window()}, {logs.window()}, set()]
    assert logs.oracle.live(1, 0) == set()


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("sum", "6.25"), ("count", "3"), ("min", "-0.25"), ("max", "4.5"), ("latest", "-0.25"), ("unique_count", "3")],
)
def test_each_aggregation_of_two_four_and_a_half_and_minus_a_quarter(aggregation: str, value: str) -> None:
    logs = Logs(meter(aggregation))
    logs.read(use("1", NOON, 2), use("2", NOON + 1, 4.5), use("3", NOON + 2, "-0.25"))
    assert logs.value() == Decimal(value)


def test_an_average_is_rounded_once_at_34_digits_half_even() -> None:
    logs = Logs(meter("avg"))
    logs.read(use("1", n=1), use("2", n=1), use("3", n=0))
    assert str(logs.value()) == "0." + "6" * 33 + "7"


def test_a_sum_is_exact_far_beyond_floats() -> None:
    logs = Logs()
    logs.read(use("1", n="9" * 20 + "." + "9" * 18), use("2", n="0.000000000000000001"))
    assert logs.value() == Decimal(10**20)


def test_members_are_distinct_by_type_and_value() -> None:
    logs = Logs(meter("unique_count"))
    members = ["1", 1, True, False, "true", 1.0, "a", "a"]
    logs.read(*(use(str(number), n=member) for number, member in enumerate(members)))
    assert logs.value() == 6
    assert logs.read(use("x", n=None), use("y", n={}), use("z", n=[])) == ["invalid"] * 3


def test_the_latest_is_by_event_time_and_then_by_source_offset_and_index() -> None:
    logs = Logs(meter("latest"), sources=2)
    logs.read(use("1", NOON, 1), source=1)
    logs.read(use("2", NOON, 2), use("3", NOON, 3), source=1)
    logs.read(use("4", NOON, 4), source=0)
    logs.read(use("5", NOON - 1, 5), source=1)
    assert logs.oracle.windows()[logs.window()].value == 3
    assert logs.oracle.value(logs.window(), {0: 0, 1: 0}) == 1
    assert logs.oracle.value(logs.window(), {0: 0}) == 4


# --- shares -----------------------------------------------------------------------------------------------------------


def test_a_share_is_what_one_source_gave_in_records_up_to_through() -> None:
    logs = Logs(sources=2)
    logs.read(use("0", NOON - MINUTE))
    logs.read(use("1", n=1), use("2", n=2))
    logs.read(None)
    logs.read(use("3", n=3))
    logs.read(use("3", n=3), source=1)
    one, two, three = (("app", id) for id in "123")
    assert [logs.oracle.share(logs.window(), 0, through) for through in range(4)] == [
        None,
        Share(2, digest(one, two), 1, 1),
        Share(2, digest(one, two), 1, 1),
        Share(3, digest(one, two, three), 1, 3),
    ]
    assert logs.oracle.share(logs.window(), 1, 0) == Share(1, digest(three), 0, 0)
    assert logs.oracle.share(logs.window(size="PT2M"), 0, 3) is None
    assert logs.oracle.windows()[logs.window()] == Expected(Decimal(9), 4, digest(one, two, three, three))


def test_a_value_counts_the_sources_named_each_through_its_own_offset() -> None:
    logs = Logs(sources=2)
    for source in (0, 1):
        logs.read(use("1", n=1), source=source)
        logs.read(use("2", n=10), source=source)
    values = [logs.oracle.value(logs.window(), throughs) for throughs in ({0: 0}, {0: 1, 1: 0}, {0: 1, 1: 9})]
    assert values == [1, 12, 22]


def test_answers_hold_for_logs_with_gaps() -> None:
    logs = Logs()
    for offset in (10, 20):
        logs.oracle.read(0, offset, NOON, b"k", json.dumps(use(str(offset))).encode())
    counted = [logs.oracle.counters(0, position)["counted"] for position in (10, 11, 20, 21)]
    assert counted == [0, 1, 1, 2]
    assert logs.oracle.share(logs.window(), 0, 15) == Share(1, digest(("app", "10")), 10, 10)
