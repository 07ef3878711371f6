"""The oracle against cases worked out by hand from design.md §3, §4 and §5."""

from __future__ import annotations

import ast
import json
import sys
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from schemas.times import format_rfc3339
from simulation import oracle
from simulation.oracle import Expected, Oracle, Share

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z, where a window of every size begins."""
SECOND, MINUTE = 1_000, 60_000
STREAM = {"max_delay": "PT30S", "future_tolerance": "PT1M", "correct_for": "PT5M", "revise_every": "PT10S"}
BUCKET_MS = 5 * MINUTE // 96
"""Ids are known by buckets of time, so many in `correct_for`."""


def meter(aggregation: str = "sum", **more: Any) -> dict[str, Any]:
    value = {} if aggregation == "count" else {"value": "/n"}
    plain = {"slug": "m", "event_type": "use", "aggregation": aggregation, "windows": ["PT1M"], "grace": "PT0S"}
    return plain | value | more


def use(id: str, time_ms: int | str = NOON, n: Any = 1, **more: Any) -> dict[str, Any]:
    time = time_ms if isinstance(time_ms, str) else format_rfc3339(time_ms)
    head = {"specversion": "1.0", "id": id, "source": "app", "type": "use", "subject": "acme", "time": time}
    return head | {"data": {"n": n}} | more


def tick(time_ms: int | str) -> dict[str, Any]:
    return use("tick", time_ms, type="meterline.tick")


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def digest(*pairs: tuple[str, str]) -> int:
    texts = (b"%d:%b%b" % (len(source), source.encode(), id.encode()) for source, id in pairs)
    return sum(int.from_bytes(blake2b(text, digest_size=16).digest(), "big") for text in texts) % 2**128


class Logs:
    """An oracle and the ends of its logs, so that a case is a line per record."""

    def __init__(self, *meters: dict[str, Any], sources: int = 1, **stream: str) -> None:
        self.oracle = Oracle({"stream": STREAM | stream, "meters": list(meters or [meter()])}, sources)
        self.ends = [0] * sources

    def read(self, *events: Any, source: int = 0, at_ms: int = NOON, key: bytes | None = b"acme") -> list[str]:
        """One record: one event as it is, several as an envelope, bytes or None as they are."""
        raw = len(events) == 1 and (events[0] is None or isinstance(events[0], bytes))
        value = events[0] if raw else json.dumps(events[0] if len(events) == 1 else events).encode()
        self.ends[source] += 1
        return self.oracle.read(source, self.ends[source] - 1, at_ms, key, value)

    def window(self, start_ms: int = NOON, slug: str = "m", group: Any = (), size: str = "PT1M") -> oracle.Window:
        return ("acme", slug, group, start_ms, size)

    def value(self) -> Decimal:
        [expected] = self.oracle.windows().values()
        return expected.value


# --- the house --------------------------------------------------------------------------------------------------------


def test_it_is_short_and_shares_no_code_with_the_product() -> None:
    text = Path(oracle.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


# --- one event, one fate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{", b"\xff", b"42", b'"use"', b"null", b"{}\xff"])
def test_a_record_that_holds_no_event_is_one_malformed_event(value: bytes | None) -> None:
    logs = Logs()
    assert logs.read(value) == ["malformed"]
    assert logs.oracle.dead_letters(0, 1) == {(0, 0, "malformed")}
    assert logs.oracle.counters(0, 1)["read"] == 1


@pytest.mark.parametrize(
    "event",
    [
        *(without(use("1"), name) for name in ("specversion", "id", "source", "type")),
        *(use("1") | {name: ""} for name in ("id", "source", "type")),
        *(use("1") | {name: 7} for name in ("specversion", "id", "source", "type", "subject", "time")),
        use("1", specversion="0.3"),
        "use",
        None,
        7,
        [],
        {},
    ],
)
def test_an_element_that_is_no_cloudevent_is_malformed_alone(event: Any) -> None:
    assert Logs().read(use("2"), event, use("3")) == ["counted", "malformed", "counted"]


def test_a_number_that_is_none_in_json_makes_the_record_undecodable() -> None:
    record = json.dumps(use("1", n=float("nan"))).encode()
    assert b"NaN" in record
    assert Logs().read(record) == ["malformed"]


def test_a_type_that_no_meter_reads_is_unmatched_whatever_else_is_wrong_with_it() -> None:
    assert Logs().read(use("1", "yesterday", type="other")) == ["unmatched"]


@pytest.mark.parametrize(
    "time",
    ["yesterday", "2026-01-01T12:00:00", "2026-02-30T12:00:00Z", "2026-01-01", "", "2026-01-01T12:00:00+00:60"],
)
def test_an_unreadable_time_is_invalid(time: str) -> None:
    assert Logs().read(use("1", time)) == ["invalid"]


def test_a_time_before_1970_is_invalid() -> None:
    assert Logs().read(use("1", "1969-12-31T23:59:59.999Z")) == ["invalid"]


@pytest.mark.parametrize("name", ["time", "subject"])
def test_a_missing_time_or_subject_is_invalid(name: str) -> None:
    assert Logs(meter("count")).read(without(use("1"), name), use("2") | {name: None}) == ["invalid"] * 2


def test_a_subject_may_have_512_bytes_and_no_more() -> None:
    subjects = ["é" * 256, "é" * 256 + "e", ""]
    events = [use(f"{number}", subject=subject) for number, subject in enumerate(subjects)]
    assert Logs().read(*events) == ["counted", "invalid", "invalid"]


@pytest.mark.parametrize("n", [None, "many", "", "1,5", True, {}, [1], "NaN", "1" * 21, "0." + "1" * 19])
def test_what_is_no_quantity_is_invalid(n: Any) -> None:
    assert Logs().read(use("1", n=n)) == ["invalid"]


@pytest.mark.parametrize("n", [0, -1, 1.5, "1.5", "-0.000000000000000001", "9" * 20 + "." + "9" * 18])
def test_a_number_or_a_decimal_in_a_text_is_a_quantity(n: Any) -> None:
    logs = Logs()
    assert logs.read(use("1", n=n)) == ["counted"]
    assert logs.value() == Decimal(str(n))


def test_data_that_is_no_object_is_invalid_where_a_value_is_read_and_fine_where_none_is() -> None:
    events = [without(use("1"), "data"), use("2", data=7), use("3", data=None)]
    assert Logs(meter("sum")).read(*events) == ["invalid"] * 3
    assert Logs(meter("count")).read(*events) == ["counted"] * 3


def test_less_than_the_minimum_is_invalid() -> None:
    assert Logs(meter(minimum=1)).read(use("1", n=1), use("2", n="0.9")) == ["counted", "invalid"]


def test_what_is_invalid_for_one_of_its_meters_is_counted_in_none() -> None:
    logs = Logs(meter("count", slug="a"), meter("sum", slug="b"))
    assert logs.read(use("1", n="many")) == ["invalid"]
    assert logs.oracle.windows() == {}


def test_an_event_further_ahead_of_its_record_than_the_tolerance_is_future() -> None:
    assert Logs().read(use("1", NOON + MINUTE), use("2", NOON + MINUTE + 1)) == ["counted", "future"]


def test_an_event_further_behind_the_watermark_than_correct_for_is_too_late() -> None:
    logs = Logs()
    logs.read(tick(NOON))
    assert logs.read(use("1", NOON - 5 * MINUTE), use("2", NOON - 5 * MINUTE - 1)) == ["counted", "too_late"]


def test_before_the_first_watermark_nothing_is_too_late() -> None:
    assert Logs().read(use("1", 0)) == ["counted"]


def test_the_same_source_and_id_is_a_duplicate_in_its_own_partition_only() -> None:
    logs = Logs(sources=2)
    assert logs.read(use("1"), use("1"), use("1", source="other")) == ["counted", "duplicate", "counted"]
    assert logs.read(use("1"), source=1) == ["counted"]


def test_names_that_run_into_ids_are_two_events() -> None:
    assert Logs().read(use("11", source="/p"), use("1", source="/p1")) == ["counted", "counted"]


def test_only_counted_ids_are_known() -> None:
    logs = Logs()
    assert logs.read(use("1", n="bad"), use("1", NOON + 2 * MINUTE), use("1")) == ["invalid", "future", "counted"]


def test_an_id_is_known_until_the_end_of_its_bucket_of_time_is_too_late() -> None:
    logs = Logs()
    bucket = (NOON - MINUTE) // BUCKET_MS
    last_ms = (bucket + 1) * BUCKET_MS - 1 + 5 * MINUTE
    assert logs.read(use("1", NOON - MINUTE)) == ["counted"]
    logs.read(tick(last_ms), at_ms=last_ms)
    assert logs.read(use("1", last_ms), at_ms=last_ms) == ["duplicate"]
    logs.read(tick(last_ms + 1), at_ms=last_ms + 1)
    assert logs.oracle.known(0, 3) == {digest(("app", "1")).to_bytes(16, "big"): bucket}
    assert logs.oracle.known(0, 4) == {}
    assert logs.read(use("1", last_ms + 1), at_ms=last_ms + 1) == ["counted"]


def test_an_id_that_is_counted_again_is_known_with_its_new_time() -> None:
    logs = Logs()
    logs.read(use("1", NOON - MINUTE))
    logs.read(tick(NOON + 5 * MINUTE), at_ms=NOON + 5 * MINUTE)
    logs.read(use("1", NOON + 5 * MINUTE), at_ms=NOON + 5 * MINUTE)
    assert list(logs.oracle.known(0, 3).values()) == [(NOON + 5 * MINUTE) // BUCKET_MS]


def test_an_id_may_be_forgotten_and_counted_again_inside_one_envelope() -> None:
    logs = Logs()
    old, new = NOON - 6 * MINUTE, NOON
    assert logs.read(use("1", old), tick(NOON), use("1", new), use("1", new)) == [
        "counted",
        "tick",
        "counted",
        "duplicate",
    ]
    assert list(logs.oracle.known(0, 1).values()) == [new // BUCKET_MS]


def test_a_duplicate_does_not_prolong_what_is_known() -> None:
    logs = Logs()
    assert logs.read(use("1", NOON - MINUTE), use("1", NOON)) == ["counted", "duplicate"]
    assert list(logs.oracle.known(0, 1).values()) == [(NOON - MINUTE) // BUCKET_MS]


def test_the_counters_balance_and_know_every_reason() -> None:
    logs = Logs()
    logs.read(None, key=None)
    logs.read(
        use("1"),
        use("1"),
        use("2", type="other"),
        use("3", n="bad"),
        use("4", NOON + 2 * MINUTE),
        use("5", NOON - 6 * MINUTE),
        tick(NOON - 1),
        tick("soon"),
        key=None,
    )
    assert logs.oracle.counters(0, 0) == dict.fromkeys(oracle.COUNTERS, 0)
    assert logs.oracle.counters(0, 2) == {
        "read": 7,
        "counted": 1,
        "duplicate": 1,
        "unmatched": 1,
        "dead_lettered": 4,
        "dead_lettered_malformed": 1,
        "dead_lettered_invalid": 1,
        "dead_lettered_future": 1,
        "dead_lettered_too_late": 1,
        "late": 0,
        "ticks": 1,
        "ticks_refused": 1,
        "keyless": 7,
    }
    assert logs.oracle.dead_letters(0, 1) == {(0, 0, "malformed")}
    assert logs.oracle.dead_letters(0, 2) == {
        (0, 0, "malformed"),
        (1, 3, "invalid"),
        (1, 4, "future"),
        (1, 5, "too_late"),
    }
    assert logs.oracle.fates[0, 1, 1] == "duplicate"
    assert (0, 1, 6) not in logs.oracle.fates


def test_records_are_read_in_the_order_of_their_log() -> None:
    logs = Logs()
    logs.oracle.read(0, 5, NOON, None, b"[]")
    with pytest.raises(AssertionError, match="offset order"):
        logs.oracle.read(0, 5, NOON, None, b"[]")


# --- the clock --------------------------------------------------------------------------------------------------------


def test_an_event_raises_the_watermark_to_its_records_time_at_most() -> None:
    logs = Logs()
    logs.read(use("1", NOON - SECOND))
    logs.read(use("2", NOON + MINUTE))
    assert [logs.oracle.watermark_ms(0, position) for position in range(3)] == [None, NOON - SECOND, NOON]


def test_a_watermark_never_falls() -> None:
    logs = Logs()
    logs.read(use("1"), use("2", NOON - MINUTE), tick(NOON - MINUTE))
    assert logs.oracle.watermark_ms(0, 1) == NOON


def test_a_duplicate_raises_the_watermark_too() -> None:
    logs = Logs()
    logs.read(use("1", NOON - MINUTE), use("1", NOON))
    assert logs.oracle.watermark_ms(0, 1) == NOON


def test_dead_letters_and_unmatched_events_raise_no_watermark() -> None:
    logs = Logs()
    logs.read(use("1", n="bad"), use("2", NOON + 2 * MINUTE), use("3", type="other"), None)
    assert logs.oracle.watermark_ms(0, 1) is None


def test_a_tick_raises_the_watermark_to_its_own_time_even_ahead_of_its_record() -> None:
    logs = Logs()
    assert logs.read(tick(NOON + MINUTE)) == ["tick"]
    assert logs.oracle.watermark_ms(0, 1) == NOON + MINUTE


@pytest.mark.parametrize("time", [NOON + MINUTE + 1, "soon", None])
def test_a_tick_too_far_ahead_or_unreadable_is_refused_and_does_nothing(time: Any) -> None:
    logs = Logs()
    assert logs.read(without(tick("soon"), "time") if time is None else tick(time)) == ["tick_refused"]
    assert logs.oracle.watermark_ms(0, 1) is None


def test_an_event_in_an_envelope_is_judged_by_the_watermark_that_those_before_it_left() -> None:
    logs = Logs()
    assert logs.read(use("1", NOON - 6 * MINUTE), tick(NOON), use("2", NOON - 6 * MINUTE)) == [
        "counted",
        "tick",
        "too_late",
    ]


def test_each_partition_has_its_own_clock() -> None:
    logs = Logs(sources=2)
    logs.read(tick(NOON), source=1)
    assert logs.read(use("1", NOON - 6 * MINUTE)) == ["counted"]
    assert logs.oracle.watermark_ms(1, 1) == NOON


def test_an_event_is_late_once_the_watermark_is_at_the_end_and_grace_of_one_of_its_windows() -> None:
    logs = Logs(meter(windows=["PT1M", "PT2M"], grace="PT10S"))
    logs.read(tick(NOON + 69_999), at_ms=NOON + 2 * MINUTE)
    logs.read(use("1"), at_ms=NOON + 2 * MINUTE)
    assert logs.oracle.counters(0, 2)["late"] == 0
    logs.read(tick(NOON + 70_000), at_ms=NOON + 2 * MINUTE)
    logs.read(use("2"), at_ms=NOON + 2 * MINUTE)
    assert logs.oracle.counters(0, 4)["late"] == 1


def test_what_a_duplicate_or_a_dead_letter_is_late_for_is_not_tallied() -> None:
    logs = Logs()
    logs.read(use("1"), tick(NOON + MINUTE), use("1"), use("2", n="bad"))
    assert logs.oracle.counters(0, 1)["late"] == 0


def test_every_way_to_write_an_instant_is_the_same_instant() -> None:
    logs = Logs()
    for time in ("2026-01-01T12:00:00.0019Z", "2026-01-01T17:30:00.001+05:30", "2026-01-01t04:00:00.001-08:00"):
        logs.read(use(time, time), at_ms=NOON + SECOND)
        assert logs.oracle.watermark_ms(0, logs.ends[0]) == NOON + 1
    assert logs.oracle.windows()[logs.window()].events == 3


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
