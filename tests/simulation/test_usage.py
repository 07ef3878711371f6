"""Drawn usage: every trouble comes in some seeds and is missing in others, and a seed is one story in any process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest

from schemas.meters import parse
from simulation.oracle import COUNTERS, Oracle
from simulation.usage import AGGREGATIONS, CORRECT_FOR_MS, RECORD_TROUBLES, SIZES_MS, TROUBLES, Sent, document, usage

START_MS = 1_767_268_800_000
SEEDS = range(200)
SOURCES = 3


def draw(seed: int, records: int = 120, **more: Any) -> tuple[dict[str, Any], list[Sent]]:
    rng = random.Random(seed)
    drawn = document(rng)
    return drawn, usage(rng, drawn, SOURCES, START_MS, 900_000, records, **more)


def judged(drawn: dict[str, Any], sent: list[Sent]) -> tuple[Oracle, list[list[str]]]:
    oracle, ends, fates = Oracle(drawn, SOURCES), [0] * SOURCES, []
    for record in sent:
        fates.append(oracle.read(record.source, ends[record.source], record.at_ms, record.key, record.value))
        ends[record.source] += 1
    return oracle, fates


def seen(drawn: dict[str, Any], sent: list[Sent]) -> set[str]:
    """Which kinds of trouble a story has, told from its records and the fates in them."""
    oracle, fates = judged(drawn, sent)
    kinds = {fate for record in fates for fate in record}
    kinds |= {name for source in range(SOURCES) for name, n in oracle.counters(source, 1 << 40).items() if n}
    kinds |= {"envelope" if len(record) > 1 else "single" for record in fates}
    kinds |= {"mixed fates" for record in fates if len(set(record)) > 2}
    kinds |= {f"{len({record.source for record in sent})} partitions used"}
    counted: dict[tuple[str, str], tuple[int, int]] = {}
    places: dict[tuple[str, str], set[int]] = {}
    highest: Counter[int] = Counter()
    envelopes: dict[tuple[int, bytes | None], int] = {}
    for record, record_fates in zip(sent, fates, strict=True):
        for kind, raw in {"none": None, "empty": b"", "no elements": b"[]", "no text": b"\xff\xfe"}.items():
            kinds |= {f"{kind} record"} if record.value == raw else set()
        if "malformed" in record_fates and len(record_fates) == 1:
            continue
        kinds |= _counting(record, elements := json.loads(record.value or b"null"), envelopes)
        for event, fate in zip(elements if isinstance(elements, list) else [elements], record_fates, strict=True):
            if fate in ("tick", "tick_refused"):
                kinds |= {"tick in an envelope" if len(record_fates) > 1 else "tick alone"}
            if fate in ("counted", "duplicate"):
                pair = (event["source"], event["id"])
                before_ms, source = counted.get(pair, (0, -1))
                if source == record.source:
                    kinds |= {"near duplicate"} if fate == "duplicate" and record.at_ms - before_ms < 2_000 else set()
                    kinds |= {"far duplicate"} if fate == "duplicate" and record.at_ms - before_ms >= 60_000 else set()
                    kinds |= {"counted again"} if fate == "counted" else set()
                if fate == "counted":
                    counted[pair] = (record.at_ms, record.source)
                places.setdefault(pair, set()).add(record.source)
        position = highest[record.source] = highest[record.source] + 1
        kinds |= {"event ahead of its record"} if _ahead(oracle, record, position) else set()
    kinds |= {"an id in two partitions"} if any(len(place) > 1 for place in places.values()) else set()
    by_subject: dict[str, set[int]] = {}
    for window in oracle.windows():
        by_subject.setdefault(window[0], set()).update(
            source for source in range(SOURCES) if oracle.share(window, source, 1 << 40)
        )
    kinds |= {"a subject on several partitions"} if any(len(s) > 1 for s in by_subject.values()) else set()
    return kinds


def _counting(record: Sent, elements: Any, envelopes: dict[tuple[int, bytes | None], int]) -> set[str]:
    """What an envelope of a producer whose ids end in counters has. envelopes: when those before it were sent."""
    runs = re.findall(r"run(\d+)-(\d+)-(\d+)", json.dumps(elements))
    if len(runs) < 6:
        return set()
    counters = [int(counter) for _, _, counter in runs]
    kinds = {"ids that count"} | ({"a producer began anew"} if any(int(run) for run, _, _ in runs) else set())
    kinds |= (
        {"a gap between counters"}
        if counters == sorted(counters) and counters[-1] - counters[0] >= len(counters)
        else set()
    )
    before_ms = envelopes.setdefault((record.source, record.value), record.at_ms)
    if before_ms < record.at_ms:
        kinds |= {"an envelope again, late" if record.at_ms - before_ms > 60_000 else "an envelope again"}
    return kinds


def _ahead(oracle: Oracle, record: Sent, position: int) -> bool:
    known = oracle.known(record.source, position)
    return any(bucket * oracle.bucket_ms > record.at_ms for bucket in known.values())


@cache
def stories() -> dict[int, tuple[dict[str, Any], set[str]]]:
    drawn = {seed: draw(seed) for seed in SEEDS}
    return {seed: (document, seen(document, sent)) for seed, (document, sent) in drawn.items()}


COMMON = ["counted", "read", "single", "envelope", "late", "too_late", "malformed", "duplicate", "mixed fates"]
SOMETIMES = [
    *("invalid", "future", "unmatched", "keyless", "ticks", "ticks_refused", "tick in an envelope", "tick alone"),
    *("near duplicate", "far duplicate", "counted again", "an id in two partitions", "event ahead of its record"),
    *("ids that count", "a gap between counters", "a producer began anew"),
    *("an envelope again", "an envelope again, late"),
    *("none record", "empty record", "no elements record", "no text record"),
    *("a subject on several partitions", "2 partitions used", "3 partitions used"),
]


@pytest.mark.parametrize("kind", [*COMMON, *SOMETIMES])
def test_each_kind_of_trouble_comes_in_some_seeds(kind: str) -> None:
    assert sum(kind in kinds for _, kinds in stories().values()) >= 2


@pytest.mark.parametrize("kind", [*SOMETIMES, "late", "too_late", "malformed", "duplicate"])
def test_and_is_missing_in_others(kind: str) -> None:
    assert any(kind not in kinds for _, kinds in stories().values())


def test_every_counter_of_the_ledger_is_moved_by_some_seed() -> None:
    assert set(COUNTERS) <= set().union(*(kinds for _, kinds in stories().values()))


def test_every_document_is_a_meters_file() -> None:
    for seed in SEEDS:
        drawn, _ = stories()[seed]
        parse(json.dumps(drawn))


def test_documents_differ_in_everything_that_is_drawn() -> None:
    drawn = [document for document, _ in stories().values()]
    meters = [meter for document in drawn for meter in document["meters"]]
    assert {meter["aggregation"] for meter in meters} == set(AGGREGATIONS)
    assert {size for meter in meters for size in meter["windows"]} == set(SIZES_MS)
    assert {document["stream"]["correct_for"] for document in drawn} == set(CORRECT_FOR_MS)
    assert {len(document["meters"]) for document in drawn} == {1, 2, 3, 4}
    assert {len({meter["event_type"] for meter in document["meters"]}) for document in drawn} == {1, 2}
    assert {len(meter.get("group_by", {})) for meter in meters} == {0, 1, 2}
    assert {"minimum" in meter for meter in meters} == {True, False}
    assert len({meter["grace"] for meter in meters}) == 4


def test_records_come_in_the_order_of_their_time_within_the_span() -> None:
    for seed in SEEDS:
        _, sent = draw(seed)
        moments = [record.at_ms for record in sent]
        assert moments == sorted(moments)
        assert len(sent) == 120
        assert moments[0] >= START_MS and moments[-1] < START_MS + 900_000
        assert all(0 <= record.source < SOURCES for record in sent)


def test_tame_usage_has_no_trouble() -> None:
    troubles = {"duplicate", "dead_lettered", "unmatched", "ticks", "ticks_refused", "keyless"}
    for seed in range(50):
        assert not seen(*draw(seed, wildness=0.0)) & troubles


def test_a_partition_alone_is_enough() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        sent = usage(rng, document(rng), 1, START_MS, 60_000, 30)
        assert {record.source for record in sent} == {0}


def test_there_is_a_rate_for_every_kind_of_trouble() -> None:
    assert all(0 < most <= 1 for most in (TROUBLES | RECORD_TROUBLES).values())


FINGERPRINT = """
import hashlib, random, sys
from simulation.usage import document, usage
for seed in range(200):
    rng = random.Random(seed)
    drawn = document(rng)
    sent = usage(rng, drawn, 3, 1_767_268_800_000, 900_000, 40)
    print(hashlib.sha256(repr((drawn, sent)).encode()).hexdigest())
"""


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_a_seed_gives_the_same_bytes_in_any_process(hash_seed: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FINGERPRINT],
        env=os.environ
        | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
        capture_output=True,
        text=True,
    )
    mine = [hashlib.sha256(repr(draw(seed, 40)).encode()).hexdigest() for seed in SEEDS]
    assert told.stdout.split() == mine
    assert len(set(mine)) == len(SEEDS)
