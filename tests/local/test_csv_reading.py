"""The independent reading of a CSV file agrees with the source stanza, and disagrees with anything else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.csv_reading import events, expectation
from local.ledger import Expected, Key, Ledger
from local.reading import Record, Rules, parse_time
from schemas.hashing import partition_for
from schemas.meters import parse
from schemas.sources import read_events

METERS = """
meters:
  - {slug: tokens, event_type: llm, aggregation: sum, value: /tokens, group_by: {tier: /tier}, windows: [PT1M]}
  - {slug: calls, event_type: llm, aggregation: count, windows: [PT1H]}
sources:
  trace:
    format: csv
    delimiter: ";"
    type: llm
    subject: "tenant {Tenant}"
    id: "{row}"
    time: {from: At, format: "%d.%m.%Y %H:%M:%S.%f", timezone: "+02:00"}
    data: {tokens: {from: Tokens, as: number, default: 0}, tier: {constant: hot}}
"""
ROWS = """At;Tenant;Tokens
01.03.2026 14:00:00.1234567;a;10
01.03.2026 14:00:59.9999999;b;0.25
01.03.2026 14:00:30.0;a;
01.03.2026 14:00:30.0;a;1.75
never;a;5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text(ROWS)
    return file


def sent(path: Path) -> list[dict[str, Any]]:
    """What the stanza makes of the file, as `send` sends it."""
    import orjson

    stanza = parse(METERS).sources["trace"]
    with path.open("rb") as file:
        return [json.loads(orjson.dumps(event)) for _, event in read_events(stanza, file) if isinstance(event, dict)]


def judged(sent_events: list[dict[str, Any]], rules: Rules) -> dict[Key, Expected]:
    ledger = Ledger(rules)
    now_ms = time.time_ns() // 1_000_000
    for offset, event in enumerate(sent_events):
        partition = partition_for(event["subject"], 4)
        ledger.judge(Record(partition, offset, now_ms, json.dumps(event).encode()))
    return ledger.windows()


def test_it_agrees_with_what_the_stanza_sends(path: Path) -> None:
    document = yaml.safe_load(METERS)
    rules = Rules.of(document)
    windows = judged(sent(path), rules)
    assert len(windows) == 4
    assert expectation(document, path, "trace")(rules, windows, 4) == []


def test_it_finds_a_row_that_is_missing_or_different(path: Path) -> None:
    document = yaml.safe_load(METERS)
    rules = Rules.of(document)
    check = expectation(document, path, "trace")
    assert check(rules, judged(sent(path)[1:], rules), 4)
    other = sent(path)
    other[0]["data"]["tokens"] = 11
    assert [found.where for found in check(rules, judged(other, rules), 4)]


def test_times_are_read_in_the_stanzas_zone_and_unreadable_rows_are_left_out(path: Path) -> None:
    stanza = yaml.safe_load(METERS)["sources"]["trace"]
    read = list(events(stanza, "trace", path))
    assert len(read) == 4
    assert parse_time(read[0]["time"]) == parse_time("2026-03-01T12:00:00.123Z")
    assert (read[0]["subject"], read[0]["id"]) == ("tenant a", "2")
