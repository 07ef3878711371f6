"""The generator: seeded, exact in number, and everything that can go wrong does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any

from local.generator import TENANTS, Planned, compressed, live
from local.ledger import DEAD, Ledger
from local.reading import Record, Rules, parse_time
from schemas.hashing import partition_for

NOW = parse_time("2026-03-03T00:30:00Z")
START = parse_time("2026-03-01T22:30:00Z")
HOUR = 3_600_000
RULES = Rules.of(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "api.request",
                "aggregation": "sum",
                "value": "/usage/tokens",
                "group_by": {"model": "/model"},
                "windows": ["PT1M", "PT1H", "P1D"],
                "minimum": 0,
            },
            {
                "slug": "users",
                "event_type": "api.request",
                "aggregation": "unique_count",
                "value": "/user",
                "windows": ["PT1H"],
            },
            {
                "slug": "storage",
                "event_type": "storage.sampled",
                "aggregation": "avg",
                "value": "/gigabytes",
                "windows": ["PT1H"],
            },
            {"slug": "calls", "event_type": "page.served", "aggregation": "count", "windows": ["PT1M"]},
        ]
    }
)


def plan(events: int = 6000, **changes: Any) -> list[Planned]:
    arguments = {"seed": 7, "partitions": 4, "start_ms": START, "span_ms": 3 * HOUR, "now_ms": NOW}
    return list(compressed(RULES, events=events, **{**arguments, **changes}))


def judge(planned: Iterable[Planned]) -> Ledger:
    ledger = Ledger(RULES)
    offsets: Counter[int] = Counter()
    for record in planned:
        fates = ledger.judge(Record(record.partition, offsets[record.partition], NOW, record.value, record.headers))
        assert len(fates) == record.events
        offsets[record.partition] += 1
    return ledger


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    assert plan() == plan()
    assert plan() != plan(seed=8)


def test_exactly_as_many_events_as_asked_for_are_read() -> None:
    for events in (1, 37, 6000):
        assert judge(plan(events)).total()["read"] == events


def test_everything_that_can_go_wrong_does() -> None:
    total = judge(plan()).total()
    assert all(total[fate] > 0 for fate in ("counted", "duplicate", "unmatched", "late", *DEAD)), total
    assert total["counted"] > 0.9 * total["read"]


def test_usage_has_fractions_and_every_meter_gets_some() -> None:
    windows = judge(plan()).windows()
    assert {key.meter for key in windows} == {"tokens", "users", "storage", "calls"}
    assert any(expected.value % 1 for key, expected in windows.items() if key.meter == "storage")


def test_records_are_keyed_by_subject_and_on_the_partition_of_their_key() -> None:
    planned = plan()
    assert {record.key.decode() for record in planned} <= {*TENANTS, ""}
    assert all(record.partition == partition_for(record.key.decode(), 4) for record in planned if record.events == 1)


def test_single_records_envelopes_and_binary_mode_are_mixed_and_bounded() -> None:
    planned = plan()
    assert {1} < {record.events for record in planned}
    assert any(record.headers for record in planned)
    assert max(len(record.value) for record in planned) <= 64 * 1024


def test_tenants_are_of_very_different_size_and_reach_every_partition_of_a_default_topic() -> None:
    events = Counter(key.subject for key in judge(plan()).windows() if key.size == "PT1M")
    assert events[TENANTS[0]] > events[TENANTS[-1]] > 0
    assert {partition_for(tenant, 4) for tenant in TENANTS} == {0, 1, 2, 3}


def test_the_partition_is_the_one_every_kafka_client_chooses() -> None:
    # The vectors of Apache Kafka's own UtilsTest.testMurmur2.
    assert [partition_for(subject, 1000) for subject in ("21", "foobar")] == [
        (-973932308 & 0x7FFFFFFF) % 1000,
        (-790332482 & 0x7FFFFFFF) % 1000,
    ]


def test_live_usage_begins_with_the_last_minutes_at_once_and_goes_on_at_its_rate() -> None:
    planned = list(islice(live(RULES, seed=1, partitions=4, now_ms=NOW, rate=20), 4000))
    at_once = [record for record in planned if record.due_ms == 0]
    due = [record.due_ms for record in planned[len(at_once) :]]
    assert due == sorted(due) and due[0] >= NOW
    assert judge(at_once).total()["read"] == 1800
    events = sum(record.events for record in planned[len(at_once) :])
    assert abs(events - (due[-1] - NOW) / 1000 * 20) < 20
