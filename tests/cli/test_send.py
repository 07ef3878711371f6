"""`send`: every good row arrives once, in order, with its subject's key; every bad one is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.feeding import feed, final_ms
from cli.main import group
from local.readback import UsageLog
from local.reading import Record, parse_time
from local.stack import Stack
from schemas.hashing import partition_for
from schemas.meters import parse

METERS = """
meters: [{slug: tokens, event_type: llm, aggregation: sum, value: /tokens, windows: [PT1M, PT1H]}]
sources:
  trace:
    format: csv
    type: llm
    subject: "{Tenant}"
    id: "{row}"
    time: {from: At}
    data: {tokens: {from: Tokens, as: number}}
"""
ROWS = "At,Tenant,Tokens\n" + "".join(f"2026-03-01T12:{n % 60:02d}:00Z,tenant-{n % 7},{n}.5\n" for n in range(2000))
BAD = ROWS.replace(",100.5\n", ",x\n").replace("tenant-3,101.5\n", "tenant-3\n")


class Kept:
    """A producer that keeps what it is given."""

    def __init__(self, partitions: int = 3) -> None:
        self.partitions = partitions
        self.records: list[tuple[int, bytes | None, bytes]] = []

    async def send(self, partition: int, key: bytes | None, value: bytes, headers: Any = ()) -> None:
        self.records.append((partition, key, value))

    async def flush(self) -> None:
        pass

    async def tick(self, time_ms: int, source: str) -> None:
        pass


def numbers(values: list[bytes]) -> dict[str, list[str]]:
    """Subject -> the rows' ids in the order they lie there."""
    found: dict[str, list[str]] = {}
    for value in values:
        body = json.loads(value)
        for event in body if isinstance(body, list) else [body]:
            found.setdefault(event["subject"], []).append(event["id"])
    return found


async def test_rows_are_packed_in_order_on_the_partition_of_their_subject() -> None:
    producer = Kept()
    told = 0

    def advance(size: int) -> None:
        nonlocal told
        told += size

    fed = await feed(
        producer, parse(METERS).sources["trace"], [line.encode() for line in ROWS.splitlines(True)], advance
    )
    assert (fed.events, fed.bad_rows, told) == (2000, 0, len(ROWS))
    assert fed.records == len(producer.records) < 20
    found = numbers([value for _, _, value in producer.records])
    assert {subject: [int(row) for row in rows] for subject, rows in found.items()} == {
        f"tenant-{n}": list(range(n + 2, 2002, 7)) for n in range(7)
    }
    for partition, key, value in producer.records:
        subjects = {event["subject"] for event in json.loads(value)}
        assert {partition_for(subject, 3) for subject in subjects} == {partition}
        assert (key or b"").decode() in subjects


async def test_bad_rows_are_told_and_stop_nobody() -> None:
    fed = await feed(Kept(), parse(METERS).sources["trace"], [line.encode() for line in BAD.splitlines(True)])
    assert (fed.events, fed.bad_rows) == (1998, 2)
    assert [row for row, _ in fed.bad] == [102, 103]
    assert "Tokens" in fed.bad[0][1]


def test_final_ticks_close_every_window_but_are_never_from_the_future() -> None:
    definitions = parse(METERS)
    latest_ms = parse_time("2026-03-01T12:59:00Z")
    after_ms = parse_time("2026-03-01T13:01:05Z")
    assert final_ms(definitions, {"llm": latest_ms, "other": latest_ms * 2}, latest_ms * 2) == after_ms
    assert final_ms(definitions, {"llm": latest_ms}, after_ms - 1) == after_ms - 1
    assert final_ms(definitions, {"other": latest_ms}, after_ms) is None


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    (tmp_path / "meters.yaml").write_text(METERS)
    (tmp_path / "usage.csv").write_text(BAD)
    async with Stack(tmp_path / "data", only=("broker", "servicebus"), usage_partitions=3) as stack:
        yield stack


@pytest.mark.parametrize("over", [[], ["--amqp"]])
async def test_the_command_sends_over_kafka_and_over_amqp(stack: Stack, tmp_path: Path, over: list[str]) -> None:
    import asyncio

    environment = {**stack.environment, "METERLINE_METERS": str(tmp_path / "meters.yaml")}
    command = ["send", str(tmp_path / "usage.csv"), "--source", "trace", "--final", *over]
    shown = await asyncio.to_thread(CliRunner().invoke, group, command, env=environment)
    assert shown.exit_code == 1, shown.stderr
    assert "1,998 events" in shown.stderr and "row 102" in shown.stderr and "2026-03-01T13:01:05Z" in shown.stderr
    assert shown.stdout == ""
    records: list[Record] = []
    async with UsageLog(stack.settings, stack.settings.usage_topic, 3) as log:
        records += [record async for record in log.read()]
    ticks = [json.loads(record.value or b"") for record in records if b"meterline.tick" in (record.value or b"")]
    assert len(ticks) == 3
    usage = [record for record in records if b"meterline.tick" not in (record.value or b"")]
    found = numbers([record.value or b"" for record in usage])
    assert sum(len(rows) for rows in found.values()) == 1998
    assert all(rows == sorted(rows, key=int) for rows in found.values())
    for record in usage:
        assert {partition_for(subject, 3) for subject in numbers([record.value or b""])} == {record.partition}


async def test_an_unknown_source_is_told_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "meters.yaml").write_text(METERS)
    (tmp_path / "usage.csv").write_text(ROWS)
    command = ["send", str(tmp_path / "usage.csv"), "--source", "other"]
    shown = CliRunner().invoke(group, command, env={"METERLINE_METERS": str(tmp_path / "meters.yaml")})
    assert shown.exit_code == 2
    assert "other" in shown.stderr and "trace" in shown.stderr
