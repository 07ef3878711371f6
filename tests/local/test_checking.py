"""The comparison: what is equal passes, and every single way of being different is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from local.checking import Message, Outcome, compare, compare_counters, compare_dead_letters, first_copies, totals
from local.ledger import Expected, Key
from local.reading import parse_time

START = "2026-03-01T12:00:00Z"
KEY = Key("a", "tokens", (("model", "m"),), parse_time(START), "PT1M")
EXPECTED = {KEY: Expected(Decimal("12.50"), 3)}


def document(revision: int, value: str, delta: str, events: int) -> dict[str, Any]:
    return {
        "id": "tokens~w",
        "window_id": "tokens~w",
        "meter": "tokens",
        "subject": "a",
        "group": {"model": "m"},
        "window_start": START,
        "window_size": "PT1M",
        "revision": revision,
        "value": value,
        "delta": delta,
        "events": events,
        "reason": "closed" if revision == 1 else "late",
    }


def good() -> dict[str, Any]:
    first, second = document(1, "10", "10", 2), document(2, "12.5", "2.5", 3)
    items = [{**first, "id": "tokens~w:1", "_ts": 5}, {**second, "id": "tokens~w:2", "_ts": 6}]
    return {
        "messages": [Message("tokens~w:1", "a", first), Message("tokens~w:2", "a", second)],
        "documents": [[{**second, "_etag": "1"}], [{**second, "_etag": "2"}]],
        "revisions": [items, copy.deepcopy(items)],
        "audit": {},
    }


def test_what_is_equal_passes_whatever_the_database_adds() -> None:
    assert compare(EXPECTED, Outcome(**good())) == []


def _both(outcome: dict[str, Any], **changes: Any) -> None:
    for region in outcome["documents"]:
        region[0].update(changes)


SPOILERS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("final value", lambda o: _both(o, value="12.500000000000000001")),
    ("events", lambda o: _both(o, events=4)),
    ("id of the document", lambda o: _both(o, id="other")),
    ("revisions as messages, in order", lambda o: o["messages"].pop()),
    ("revisions as messages, in order", lambda o: o["messages"].reverse()),
    ("revisions as messages, in order", lambda o: o["messages"].append(o["messages"][1])),
    ("revisions as ledger items", lambda o: [region.pop(0) for region in o["revisions"]]),
    ("sum of the deltas", lambda o: [region[1].update(delta="2.4") for region in o["revisions"]]),
    ("ledger item of revision 1", lambda o: [region[0].update(value="9") for region in o["revisions"]]),
    ("document as its last revision", lambda o: _both(o, reason="seal")),
    ("document in region 2", lambda o: o["documents"][1].clear()),
    ("ledger item in region 2", lambda o: o["revisions"][1][0].update(value="9")),
    ("MessageId", lambda o: o["messages"].__setitem__(0, Message("tokens~w:7", "a", o["messages"][0].body))),
    ("session", lambda o: o["messages"].__setitem__(0, Message("tokens~w:1", "b", o["messages"][0].body))),
    ("document in Cosmos", lambda o: [region.clear() for region in o["documents"]]),
    ("document in Cosmos", lambda o: _both(o, subject="b")),
]


@pytest.mark.parametrize(("what", "spoil"), SPOILERS)
def test_every_difference_is_found(what: str, spoil: Callable[[dict[str, Any]], Any]) -> None:
    outcome = good()
    spoil(outcome)
    assert what in {mismatch.what for mismatch in compare(EXPECTED, Outcome(**outcome))}


def test_a_window_that_nobody_expected_and_one_that_never_came_are_found() -> None:
    other = KEY._replace(subject="b")
    found = compare({other: EXPECTED[KEY]}, Outcome(**good()))
    assert {(mismatch.what, mismatch.expected) for mismatch in found} == {
        ("document in Cosmos", "none: nothing was counted there"),
        ("document in Cosmos", "12.50"),
    }


def _counters(**changes: int) -> dict[str, int]:
    plain = dict.fromkeys(("malformed", "invalid", "future", "too_late", "tick", "tick_refused", "late"), 0)
    return {
        **plain,
        "read": 4,
        "counted": 1,
        "duplicate": 1,
        "unmatched": 1,
        "dead_lettered": 1,
        "invalid": 1,
        **changes,
    }


def _audit(**changes: int) -> dict[str, Any]:
    shown = {name: count for name, count in _counters(**changes).items() if not name.startswith("tick")}
    shown |= {"ticks": 0, "ticks_refused": 0, "dead_lettered_invalid": 1}
    return {"partitions": {"0": shown}, "total": shown, "balanced": True}


def test_the_audit_is_compared_counter_by_counter_and_its_equation_checked() -> None:
    assert compare_counters({0: _counters()}, _audit()) == []
    assert [found.what for found in compare_counters({0: _counters()}, _audit(late=1))] == ["late"]
    assert "read = counted + duplicate + unmatched + dead_lettered" in {
        found.what for found in compare_counters({0: _counters(read=5)}, _audit(read=5))
    }
    assert compare_counters({0: _counters()}, {**_audit(), "balanced": False})[0].what == "balanced"
    assert compare_counters({1: _counters()}, _audit())


def test_the_equation_must_hold_on_each_partition_not_only_in_the_sum() -> None:
    one, other = _counters(read=_counters()["read"] + 1), _counters(read=_counters()["read"] - 1)
    audit = _audit()
    audit["partitions"] = {
        "0": {**audit["partitions"]["0"], "read": one["read"]},
        "1": {**audit["partitions"]["0"], "read": other["read"]},
    }
    audit["total"] = {name: 2 * count for name, count in audit["total"].items()}
    found = compare_counters({0: one, 1: other}, audit)
    assert [(mismatch.where, mismatch.what) for mismatch in found] == [
        ("audit, partition 0", "read = sum of the fates"),
        ("audit, partition 1", "read = sum of the fates"),
    ]


def test_every_copy_of_a_message_must_be_the_first_one_byte_for_byte() -> None:
    copies = [Message("w:1", "a", {}, b"{}"), Message("w:2", "a", {}, b"{1}"), Message("w:1", "a", {}, b"{}")]
    assert first_copies(copies) == (copies[:2], [])
    kept, found = first_copies([*copies, Message("w:1", "a", {}, b"{ }")])
    assert kept == copies[:2]
    assert [(mismatch.where, mismatch.expected, mismatch.found) for mismatch in found] == [("w:1", "{}", "{ }")]


def test_dead_letters_are_compared_by_place_and_reason() -> None:
    assert compare_dead_letters({(0, 1, 2): "invalid"}, {(0, 1, 2): "invalid"}) == []
    found = compare_dead_letters({(0, 1, 2): "invalid", (0, 1, 3): "future"}, {(0, 1, 2): "malformed", (1, 0, 0): "x"})
    assert len(found) == 3


def test_totals_are_exact_sums_as_text() -> None:
    documents = [document(1, value, value, 1) for value in ("0.1", "0.2", "99999999999999999999.700000000000000000")]
    assert totals(documents) == {"tokens": {"PT1M": "100000000000000000000"}}
