"""Production's METERING and the oracle, written apart from one design, judge the same usage alike after every record."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest

from schemas.partials import Contribution
from schemas.windows import WindowKey
from simulation.oracle import Expected, Oracle, Share
from simulation.usage import document, usage
from tables.aggregates import events_and_digest, value
from tests.usage import definitions
from tests.world import USAGE, MeteringProcess, World

START_MS = 1_767_268_800_000
SOURCES = 3


def agree(oracle: Oracle, source: int, process: MeteringProcess) -> None:
    """Everything that both know of one source partition at its position."""
    table = process.table
    at = table.position
    reasons = {f"dead_lettered_{reason}": 0 for reason in ("malformed", "invalid", "future", "too_late")}
    assert reasons | table.ledger.describe() == oracle.counters(source, at)
    assert oracle.watermark_ms(source, at) in (table.watermark_ms, None)
    assert sum(table.folds) == oracle.folds(source, at)
    assert {(letter.offset, letter.index, letter.reason) for letter in process.stage.dead_letters} == (
        oracle.dead_letters(source, at)
    )
    assert set(table.partials) == oracle.live(source, at)
    for key, held in table.partials.items():
        share = held.share
        assert Share(share.events, share.digest, share.first, share.through) == oracle.share(key, source, at - 1)


@pytest.mark.parametrize("seed", range(50))
def test_both_judge_every_record_of_drawn_usage_alike(seed: int) -> None:
    rng = random.Random(f"agreement {seed}")
    drawn = document(rng)
    world, oracle = World(definitions(drawn), SOURCES), Oracle(drawn, SOURCES)
    processes = [MeteringProcess(world, source) for source in range(SOURCES)]
    last: defaultdict[WindowKey, dict[int, Contribution]] = defaultdict(dict)
    members: defaultdict[WindowKey, set[bytes]] = defaultdict(set)
    for sent in usage(rng, drawn, SOURCES, START_MS, 900_000, 120):
        process = processes[sent.source]
        offset = world.logs[USAGE, sent.source].append(sent.value, sent.key, sent.at_ms)
        oracle.read(sent.source, offset, sent.at_ms, sent.key, sent.value)
        process.read()
        agree(oracle, sent.source, process)
        for key, held in process.table.dirty.items():  # a record's own tick may have sealed what it has just changed
            last[key][sent.source] = msgspec.convert(msgspec.to_builtins(held.share.contribution()), Contribution)
            members[key] |= held.members
        process.table.take_changed()
    aggregations = {meter["slug"]: meter["aggregation"] for meter in drawn["meters"]}
    assert oracle.windows() == {
        key: Expected(
            value(aggregations[key.meter], shares, len(members[key])),
            events_and_digest(shares)[0],
            int.from_bytes(events_and_digest(shares)[1], "big"),
        )
        for key, shares in last.items()
    }
