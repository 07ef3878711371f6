"""Production's sinks keep their promises over the simulator's Service Bus and Cosmos DB, whatever befalls their calls."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.windows import Revision
from simulation.cosmos_client import CosmosClient
from simulation.servicebus import Consumer, ServiceBus
from simulation.wire import Kind, Misfortune, Wire
from sinks.contract import Sink
from sinks.cosmos import CosmosSink
from sinks.servicebus import ServiceBusSink
from tests.local.cosmos_account import REGIONS
from tests.simulation.sink_world import FIRST, SECOND, SETTINGS, Script, Storm, account, deliver, revision, tell, wire


@pytest.mark.parametrize("seed", range(12))
def test_in_any_weather_every_revision_is_delivered_once_in_effect(seed: int) -> None:
    """Two workers, each with its own region and its own share of the windows; the second resends part of the first's."""
    revisions = [revision(n, f"calls~{w}", f"s{w % 3}") for n in range(1, 5) for w in range(12)]

    async def story() -> None:
        rng, storm = random.Random(seed), Storm(seed)
        bus, cosmos = ServiceBus(detection_window_s=rng.choice([20.0, 600.0])), account(seed)
        consumer = Consumer(bus, rng)
        receiving = asyncio.ensure_future(consumer.run())
        roads = [Wire(random.Random(seed + n), storm) for n in range(2)]
        buses = [ServiceBusSink(SETTINGS, client=bus.client(road)) for road in roads]
        stores = [
            CosmosSink(SETTINGS, order, client=partial(CosmosClient, cosmos, road))
            for road, order in zip(roads, (REGIONS, REGIONS[::-1]), strict=True)
        ]

        async def worker(sinks: Sequence[Sink], mine: list[Revision]) -> None:
            for sink in sinks:
                for at in range(0, len(mine), 10):
                    await deliver(sink, mine[at : at + 10])

        async def outages() -> None:
            for name in (FIRST, SECOND):
                await asyncio.sleep(rng.uniform(5, 60))
                cosmos.take_down(name, rng.choice(["refused", "unavailable"]))
                bus.set_down(True)
                await asyncio.sleep(rng.uniform(5, 60))
                cosmos.bring_up(name)
                bus.set_down(False)

        shares = revisions[:32], revisions[24:]
        working = asyncio.gather(
            outages(),
            *(worker(pair, share) for pair, share in zip(zip(buses, stores), shares, strict=True)),  # noqa: B905
        )
        await asyncio.sleep(600)
        storm.calm = True
        await working
        await asyncio.sleep(600)

        assert not receiving.done() and consumer.conflicts == [] and bus.is_empty
        assert consumer.seen == {one.message_id: one.body for one in revisions}
        assert cosmos.converged()
        for region in cosmos.regions.values():
            assert region.container("windows") == {
                one.window_id: orjson.loads(one.body) for one in revisions if one.revision == 4
            }
            assert region.container("revisions") == {
                one.message_id: {**orjson.loads(one.body), "id": one.message_id} for one in revisions
            }
            shown: dict[str, int] = {}
            for write in cosmos.history:
                if write.region == region.name and write.container == "windows":
                    assert write.revision >= shown.get(write.id, 0), write
                    shown[write.id] = write.revision
        sinks: list[ServiceBusSink | CosmosSink] = [*buses, *stores]
        for sink in sinks:
            await sink.close()

    tell(story)


def test_a_resend_after_the_detection_window_is_a_second_message_with_the_same_content() -> None:
    async def story() -> None:
        bus = ServiceBus(detection_window_s=600)
        sink = ServiceBusSink(SETTINGS, client=bus.client(wire()))
        await deliver(sink, [revision(1)])
        await asyncio.sleep(599)
        await deliver(sink, [revision(1)])
        assert len(bus.messages) == 1
        await asyncio.sleep(10)
        await deliver(sink, [revision(1)])
        first, second = bus.messages
        assert first.message_id == second.message_id and first.body == second.body == revision(1).body

    tell(story)


def test_a_lost_answer_from_the_bus_is_one_message_after_the_resend() -> None:
    async def story() -> None:
        bus = ServiceBus()
        sink = ServiceBusSink(SETTINGS, client=bus.client(wire(Script("send", Misfortune(Kind.LOST_ANSWER)))))
        assert await deliver(sink, [revision(1), revision(2)]) == 2
        assert [message.message_id for message in bus.messages] == ["calls~PT1H~a:1", "calls~PT1H~a:2"]

    tell(story)


def test_a_create_whose_answer_was_lost_meets_its_own_item_and_is_delivered_in_one_call() -> None:
    """The SDK itself resends it, and is told 409 (azure.md §4.4)."""

    async def story() -> None:
        cosmos = account()
        weather = Script("create", Misfortune(Kind.LOST_ANSWER, wait_s=0.1), None, Misfortune(Kind.LOST_ANSWER))
        sink = CosmosSink(SETTINGS, client=partial(CosmosClient, cosmos, wire(weather)))
        assert await deliver(sink, [revision(1)]) == 1
        asked = [operation for _, operation in weather.asked if operation in ("create", "read", "replace")]
        assert asked == ["create", "create", "read", "create", "create", "read"]
        await asyncio.sleep(10)
        assert [(write.how, write.region) for write in cosmos.history[:2]] == [("create", FIRST)] * 2

    tell(story)


def test_throttling_passes_on_how_long_to_wait() -> None:
    async def story() -> None:
        cosmos, bus = account(), ServiceBus()
        throttled = Misfortune(Kind.THROTTLED, retry_after_s=2.5)
        sink = CosmosSink(SETTINGS, client=partial(CosmosClient, cosmos, wire(Script("create", throttled))))
        [outcome] = await sink.deliver([revision(1)])
        assert (outcome.kind, outcome.retry_after_s) == ("retry", 2.5)
        other = ServiceBusSink(SETTINGS, client=bus.client(wire(Script("send", throttled))))
        [outcome] = await other.deliver([revision(1)])
        assert (outcome.kind, outcome.retry_after_s) == ("retry", 2.0)

    tell(story)


def test_windows_are_read_from_the_double_as_from_the_service() -> None:
    async def story() -> None:
        sink = CosmosSink(SETTINGS, client=partial(CosmosClient, account(), wire()))
        await deliver(sink, [revision(1, f"calls~{n}") for n in range(5)] + [revision(1, "calls~9", "beta")])
        document = orjson.loads(revision(1, "calls~3").body)
        assert await sink.read_window("calls~3", "acme") == document == await sink.read_window("calls~3", None)
        assert await sink.read_window("none", None) is None
        found = await sink.read_subject("acme", None, None, after="calls~0", limit=2)
        assert [one["id"] for one in found] == ["calls~1", "calls~2"]

    tell(story)


# -- one seed, one story

_STORY = Path(__file__)


def story_of(seed: int) -> str:
    """A digest of all that a stormy story leaves: every message, every write, and when."""
    kept: list[Any] = []

    async def story() -> None:
        storm = Storm(seed)
        bus, cosmos, road = ServiceBus(), account(seed), Wire(random.Random(seed), storm)
        sinks: list[Sink] = [
            ServiceBusSink(SETTINGS, client=bus.client(road)),
            CosmosSink(SETTINGS, client=partial(CosmosClient, cosmos, road)),
        ]
        batch = [revision(n, f"calls~{w}", f"s{w}") for n in (1, 2) for w in range(8)]
        calm = asyncio.get_running_loop().call_later(300, setattr, storm, "calm", True)
        await asyncio.gather(*(deliver(sink, batch) for sink in sinks))
        calm.cancel()
        kept.extend([bus.messages, cosmos.history])

    tell(story)
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def test_one_seed_is_one_story_in_another_process_too() -> None:
    command = "from tests.simulation.test_sinks_in_any_weather import story_of; print(story_of(5))"
    told = [
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=_STORY.parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert told == [story_of(5)] * 2 and story_of(6) != story_of(5)
