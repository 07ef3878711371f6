"""METERING counts what the client sends: each event once, whatever was sent twice, none keyless, none refused."""

from __future__ import annotations

import ast
import asyncio
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from meterline_client import Producer, TransportError
from schemas.meters import load as load_meters
from tests.client.doubles import SOURCE, ManualClock, Recorder
from tests.usage import NOON, definitions, meter
from tests.world import MeteringProcess, World

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "PT30S", "future_tolerance": "PT5M", "correct_for": "PT1H"},
        "meters": [meter("total", windows=["PT1H"])],
    }
)


class Unsure(Recorder):
    """It stores what it is given, and half of the time says that it did not."""

    def __init__(self) -> None:
        super().__init__(1)
        self.draw = random.Random(5)

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        offset = await super().send(partition, key, value)
        if self.draw.random() < 0.5:
            raise TransportError("the answer was lost", retryable=True)
        return offset


async def test_each_event_is_counted_once_though_half_of_the_envelopes_arrive_twice(tmp_path: Path) -> None:
    hub, clock = Unsure(), ManualClock()
    number = 0
    for _ in range(3):  # three lives of a service, each ending in an outage
        producer = Producer(hub, SOURCE, max_bytes=20_000, spool_dir=tmp_path, clock=clock)
        await producer.start()
        hub.away = False
        for _ in range(20):
            for _ in range(50):
                await producer.send("use", f"tenant-{number % 7}", {"n": 1}, time=NOON + number)
                number += 1
            await clock.pass_s(3)
        hub.away = True
        closing = asyncio.create_task(producer.close(timeout_s=1))
        await clock.pass_s(1)
        await closing
    hub.away = False
    last = asyncio.create_task(_rest(hub, tmp_path, clock))
    while not last.done():
        await clock.pass_s(20)
    await last
    world = World(DEFINITIONS)
    process = MeteringProcess(world)
    for key, value in zip(hub.keys[0], hub.records[0], strict=True):
        world.use(value, key=key)
    process.read()
    counts = process.table.ledger.describe()
    assert counts["counted"] == number == 3000
    assert counts["duplicate"] == counts["read"] - number > 500
    assert counts["keyless"] == counts["dead_lettered"] == counts["unmatched"] == 0


async def _rest(hub: Recorder, directory: Path, clock: ManualClock) -> None:
    producer = Producer(hub, SOURCE, spool_dir=directory, clock=clock)
    await producer.start()
    await producer.flush()
    await producer.close()


def told(file: str, pattern: str) -> str:
    """What a file of the client says in one place."""
    found = re.search(pattern, (ROOT / file).read_text())
    assert found is not None, pattern
    return found[1]


@pytest.mark.parametrize(
    ("meters", "type", "data"),
    [
        ("meters.yaml", "api.request", ast.literal_eval(told("docs/client.md", r'"tenant-7", (\{.*\})'))),
        ("meters.yaml", "api.request", ast.literal_eval(told("client/README.md", r'"tenant-7", (\{.*\})'))),
        (
            "meters.yaml",
            told("client/meterline_client/load.py", r'"--type", default="(.*?)"'),
            dict.fromkeys(
                re.findall(r'"(\w+_tokens)": draw', (ROOT / "client/meterline_client/load.py").read_text()), 5
            ),
        ),
        (
            "client/examples/meters.yaml",
            told("client/examples/service.py", 'TYPE = "(.*?)"'),
            dict.fromkeys(
                re.findall(r'"(\w+)": (?:request|response)', (ROOT / "client/examples/service.py").read_text()), 5
            ),
        ),
    ],
)
async def test_what_the_samples_send_is_metered_by_the_meters_that_come_with_them(
    meters: str, type: str, data: dict[str, Any]
) -> None:
    hub = Recorder()
    async with Producer(hub, SOURCE) as producer:
        await producer.send(type, "tenant-7", data)
    world = World(load_meters(ROOT / meters))
    process = MeteringProcess(world)
    for _, value in hub.attempts:
        world.use(value, at_ms=int(time.time() * 1000))
    process.read()
    assert (process.table.ledger.counted, len(data) > 1) == (1, True), process.table.ledger
