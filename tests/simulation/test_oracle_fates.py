"""The oracle: one event, one fate, against cases worked out by hand from design.md §4."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from simulation import oracle
from tests.simulation.oracle_logs import BUCKET_MS, MINUTE, NOON, Logs, digest, meter, tick, use, without


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


# --- duplicates -------------------------------------------------------------------------------------------------------


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


# --- counters ---------------------------------------------------------------------------------------------------------


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
