"""The simulator's Service Bus and Cosmos DB keep the services' promises, and production's sinks keep theirs over them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ServiceRequestError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient as SdkClient
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from local.cosmos.faults import Fault
from schemas.windows import Revision
from settings import Settings
from simulation.cosmos import TwoRegions
from simulation.cosmos_client import CosmosClient, service
from simulation.loop import HOST, Host, VirtualLoop
from simulation.servicebus import Consumer, ServiceBus
from simulation.wire import FairWeather, Kind, Misfortune, Weather, Wire
from sinks.contract import DELIVERED, Sink
from sinks.cosmos import CosmosSink
from sinks.cosmos_account import CONFLICT_POLICY
from sinks.servicebus import ServiceBusSink
from tests.local.cosmos_account import KEY, REGIONS, running

FIRST, SECOND = REGIONS
SETTINGS = Settings(
    servicebus_connection_string="Endpoint=sb://simulated/;SharedAccessKeyName=k;SharedAccessKey=a2V5;",
    cosmos_endpoint="https://simulated/",
    cosmos_key="a2V5",
)


class Script:
    """Befalls the next calls of an operation, in turn. asked: every call, as (service, operation)."""

    def __init__(self, operation: str = "", *misfortunes: Misfortune | None) -> None:
        self.asked: list[tuple[str, str]] = []
        self._operation = operation
        self._misfortunes = list(misfortunes)

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        self.asked.append((service, operation))
        return self._misfortunes.pop(0) if operation == self._operation and self._misfortunes else None


class Storm:
    """Everything that can befall a call does, to one call in three, until `calm`."""

    def __init__(self, seed: int) -> None:
        self.calm = False
        self._rng = random.Random(seed)

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        rng = self._rng
        if self.calm or rng.random() > 0.33:
            return None
        return Misfortune(
            rng.choice(list(Kind)),
            wait_s=rng.choice([None, rng.uniform(0, 5)]),
            late_s=rng.uniform(0, 60),
            retry_after_s=rng.uniform(0.1, 5),
        )


def tell(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a story in virtual time."""
    loop = VirtualLoop(1_800_000_000.0)
    loop.run(story())
    assert loop.errors == []


def wire(weather: Weather | None = None, seed: int = 7) -> Wire:
    return Wire(random.Random(seed), weather or FairWeather())


def revision(number: int, window: str = "calls~PT1H~a", subject: str = "acme", **more: Any) -> Revision:
    document = {"id": window, "window_id": window, "subject": subject, "revision": number, "value": f"{number}.5"}
    return Revision(window, number, subject, orjson.dumps({**document, **more}))


async def deliver(sink: Sink, revisions: Sequence[Revision], pause_s: float = 1.0) -> int:
    """Hands over until all of it is delivered, as a courier does, the whole batch each time; how many turns it took."""
    for turn in range(1, 500):
        outcomes = await sink.deliver(revisions)
        assert {outcome.kind for outcome in outcomes} <= {"delivered", "retry"}, outcomes
        if outcomes == [DELIVERED] * len(revisions):
            return turn
        await asyncio.sleep(max([pause_s, *(outcome.retry_after_s or 0 for outcome in outcomes)]))
    raise AssertionError("it was never delivered")


# -- the wire


def test_a_request_takes_effect_though_its_sender_is_cancelled_frozen_or_killed_meanwhile() -> None:
    async def story() -> None:
        applied: list[str] = []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def ask(name: str) -> None:
            await wire().ask("s", "o", partial(applied.append, name))
            applied.append(f"{name} answered")

        task = asyncio.ensure_future(ask("cancelled"))
        await asyncio.sleep(0)
        task.cancel()
        hosts = {}
        for name in ("frozen", "killed"):
            hosts[name] = host = Host(name)
            token = HOST.set(host)
            host.tasks.append(loop.create_task(ask(name)))
            HOST.reset(token)
        await asyncio.sleep(0)
        hosts["frozen"].freeze()
        hosts["killed"].kill()
        await asyncio.sleep(100)
        assert sorted(applied) == ["cancelled", "frozen", "killed"]
        hosts["frozen"].thaw(loop)
        await asyncio.sleep(1)
        assert applied[-1] == "frozen answered" and len(applied) == 4

    tell(story)


@pytest.mark.parametrize(
    ("kind", "applied_at_once", "applied_in_the_end"),
    [
        (Kind.LOST_REQUEST, 0, 0),
        (Kind.LATE_REQUEST, 0, 1),
        (Kind.LOST_ANSWER, 1, 1),
        (Kind.TWICE, 1, 2),
        (Kind.THROTTLED, 0, 0),
        (Kind.DOWN, 0, 0),
        (Kind.UNAVAILABLE, 0, 0),
        (Kind.UNSURE, 1, 1),
    ],
)
def test_each_misfortune_applies_what_it_says_when_it_says(
    kind: Kind, applied_at_once: int, applied_in_the_end: int
) -> None:
    async def story() -> None:
        applied: list[int] = []
        asking = wire(Script("o", Misfortune(kind, late_s=30.0))).ask(
            "s", "o", partial(applied.append, 1), patience_s=5
        )
        [result] = await asyncio.gather(asking, return_exceptions=True)
        assert (result is None) == (kind is Kind.TWICE)
        assert len(applied) == applied_at_once
        await asyncio.sleep(60)
        assert len(applied) == applied_in_the_end

    tell(story)


# -- Service Bus


async def send(bus: ServiceBus, *ids: str, weather: Weather | None = None, session: str | None = "acme") -> None:
    client = bus.client(wire(weather)).from_connection_string(
        SETTINGS.servicebus_connection_string or "", retry_total=0
    )
    sender = client.get_queue_sender("invoicing")
    batch = await sender.create_message_batch()
    for one in ids:
        batch.add_message(ServiceBusMessage(b"{}", message_id=one, session_id=session))
    await sender.send_messages(batch, timeout=20)


def test_a_message_id_is_dropped_within_the_detection_window_and_forgotten_after_it() -> None:
    async def story() -> None:
        bus = ServiceBus(detection_window_s=600)
        await send(bus, "w:1", "w:1")
        await asyncio.sleep(500)
        await send(bus, "w:1", "w:2")
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2"]
        await asyncio.sleep(101)
        await send(bus, "w:1", "w:2")
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2", "w:1"]

    tell(story)


def test_a_batch_is_stored_whole_or_not_at_all() -> None:
    async def story() -> None:
        bus = ServiceBus()
        client = bus.client(wire()).from_connection_string(SETTINGS.servicebus_connection_string or "", retry_total=0)
        sender = client.get_queue_sender("invoicing")
        batch = await sender.create_message_batch()
        batch.add_message(ServiceBusMessage(b"{}", message_id="w:1", session_id="acme"))
        batch.add_message(ServiceBusMessage(b"{}", message_id="w:2"))
        with pytest.raises(ServiceBusError, match="SessionId"):
            await sender.send_messages(batch, timeout=20)
        assert bus.messages == []
        with pytest.raises(ServiceBusError):
            await send(bus, "w:1", "w:2", weather=Script("send", Misfortune(Kind.LOST_ANSWER)))
        assert [message.message_id for message in bus.messages] == ["w:1", "w:2"]

    tell(story)


@pytest.mark.parametrize(
    ("misfortune", "raised"),
    [
        (Misfortune(Kind.LOST_ANSWER), OperationTimeoutError),
        (Misfortune(Kind.LOST_REQUEST), OperationTimeoutError),
        (Misfortune(Kind.LOST_REQUEST, wait_s=1), ServiceBusConnectionError),
        (Misfortune(Kind.DOWN), ServiceBusConnectionError),
        (Misfortune(Kind.THROTTLED), ServiceBusServerBusyError),
        (Misfortune(Kind.UNAVAILABLE), ServiceBusCommunicationError),
        (Misfortune(Kind.UNSURE), ServiceBusError),
    ],
)
def test_the_bus_client_raises_what_the_sdk_raises(misfortune: Misfortune, raised: type[Exception]) -> None:
    async def story() -> None:
        with pytest.raises(raised) as caught:
            await send(ServiceBus(), "w:1", weather=Script("send", misfortune))
        assert type(caught.value) is raised

    tell(story)


def test_nobody_reaches_a_bus_that_is_down_and_nothing_is_received_from_it() -> None:
    async def story() -> None:
        bus = ServiceBus()
        consumer = Consumer(bus, random.Random(3))
        receiving = asyncio.ensure_future(consumer.run())
        bus.set_down(True)
        with pytest.raises(ServiceBusConnectionError):
            await send(bus, "w:1")
        bus.set_down(False)
        assert bus.send([("w:1", "acme", b"{}")]) is None
        bus.set_down(True)
        await asyncio.sleep(100)
        assert consumer.seen == {} and not receiving.done()
        bus.set_down(False)
        await asyncio.sleep(1)
        assert list(consumer.seen) == ["w:1"] and bus.is_empty

    tell(story)


def test_a_consumer_handles_each_message_id_once_in_the_order_of_its_session_though_locks_are_lost() -> None:
    async def story() -> None:
        bus = ServiceBus()
        consumers = [Consumer(bus, random.Random(seed), lost_lock=0.3) for seed in range(2)]
        tasks = [asyncio.ensure_future(consumer.run()) for consumer in consumers]
        await send(bus, *(f"w:{number}" for number in range(1, 31)))
        await asyncio.sleep(60)
        assert bus.is_empty and not any(task.done() for task in tasks)
        seen = [number for consumer in consumers for number in consumer.orders.get("w", [])]
        assert sorted(set(seen)) == list(range(1, 31))
        assert all(order == sorted(order) for consumer in consumers for order in consumer.orders.values())
        assert sum(consumer.repeats for consumer in consumers) > 0

    tell(story)


def test_a_second_content_under_one_message_id_is_kept_as_a_conflict() -> None:
    async def story() -> None:
        bus = ServiceBus(detection_window_s=20)
        consumer = Consumer(bus, random.Random(3))
        receiving = asyncio.ensure_future(consumer.run())
        sink = ServiceBusSink(SETTINGS, client=bus.client(wire()))
        first, second = revision(1), revision(1, value="9")
        await deliver(sink, [first])
        await asyncio.sleep(30)
        await deliver(sink, [second])
        await asyncio.sleep(1)
        assert not receiving.done() and consumer.conflicts == [(first.message_id, first.body, second.body)]

    tell(story)


# -- Cosmos DB


def account(seed: int = 11, replication_s: tuple[float, float] = (0.1, 2.0), **more: Any) -> TwoRegions:
    return TwoRegions(random.Random(seed), (FIRST, SECOND), replication_s, **more)


OPTIONS = {
    "multiple_write_locations": True,
    "read_timeout": 10,
    "retry_throttle_total": -1,
    "retry_connect": 1,
    "retry_read": 1,
    "no_response_on_write": True,
}
"""As `sinks.cosmos_account` has them."""


async def container_of(client: Any) -> Any:
    """The container of documents of a client, created where it is missing."""
    database = await client.create_database_if_not_exists("meterline")
    return await database.create_container_if_not_exists(
        "windows",
        PartitionKey("/subject"),
        indexing_policy={
            "indexingMode": "consistent",
            "automatic": True,
            "includedPaths": [],
            "excludedPaths": [{"path": "/*"}],
        },
        conflict_resolution_policy=CONFLICT_POLICY,
    )


async def opened(cosmos: TwoRegions, *preferred: str, weather: Weather | None = None) -> Any:
    """The container as a client in the first of the preferred regions has it."""
    client = CosmosClient(
        cosmos, wire(weather), "https://simulated/", "a2V5", preferred_locations=preferred or REGIONS, **OPTIONS
    )
    await client.__aenter__()
    return await container_of(client)


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"id": "w", "subject": "acme", "revision": number, **more}


def test_an_item_that_exists_in_that_region_is_409_another_etag_412_and_a_missing_one_404() -> None:
    async def story() -> None:
        cosmos = account()
        here = await opened(cosmos)
        with pytest.raises(CosmosResourceNotFoundError):
            await here.read_item("w", "acme")
        await here.create_item(item(1))
        stored = await here.read_item("w", "acme")
        with pytest.raises(CosmosResourceExistsError) as caught:
            await here.create_item(item(1))
        assert caught.value.status_code == 409
        condition = {"match_condition": MatchConditions.IfNotModified}
        await here.replace_item("w", item(2), etag=stored["_etag"], **condition)
        with pytest.raises(CosmosAccessConditionFailedError) as failed:
            await here.replace_item("w", item(3), etag=stored["_etag"], **condition)
        assert failed.value.status_code == 412
        assert (await here.read_item("w", "acme"))["revision"] == 2
        with pytest.raises(CosmosResourceNotFoundError):
            await here.read_item("w", "beta")

    tell(story)


@pytest.mark.parametrize("seed", range(20))
def test_both_regions_come_to_the_highest_revision_and_no_region_ever_goes_down(seed: int) -> None:
    async def story() -> None:
        cosmos = account(seed)
        containers = [await opened(cosmos, FIRST, SECOND), await opened(cosmos, SECOND, FIRST)]
        rng = random.Random(seed)
        await asyncio.gather(containers[0].create_item(item(rng.randint(1, 3))), containers[1].create_item(item(3)))
        for number in range(4, 12):
            there = rng.choice(containers)
            stored = await there.read_item("w", "acme")
            await asyncio.sleep(rng.uniform(0, 1))
            try:
                await there.replace_item(
                    "w", item(number), etag=stored["_etag"], match_condition=MatchConditions.IfNotModified
                )
            except CosmosAccessConditionFailedError:
                pass
        await asyncio.sleep(10)
        assert cosmos.converged()
        shown = [region.container("windows")["w"]["revision"] for region in cosmos.regions.values()]
        assert shown == [max(write.revision for write in cosmos.history)] * 2
        for name in cosmos.regions:
            revisions = [write.revision for write in cosmos.history if write.region == name]
            assert revisions == sorted(revisions)

    tell(story)


def test_a_tie_between_regions_is_resolved_alike_in_both() -> None:
    async def story() -> None:
        cosmos = account()
        for name, value in ((FIRST, "a"), (SECOND, "b")):
            await (await opened(cosmos, name)).create_item(item(1, value=value))
        assert not cosmos.converged()
        await asyncio.sleep(10)
        assert cosmos.converged()

    tell(story)


def test_what_a_region_wrote_before_it_went_down_arrives_when_it_is_back_and_not_before() -> None:
    async def story() -> None:
        cosmos = account(replication_s=(5.0, 9.0))
        here = await opened(cosmos)
        await here.create_item(item(1))
        cosmos.take_down(FIRST)
        await asyncio.sleep(1000)
        assert cosmos.regions[SECOND].container("windows") == {} and not cosmos.converged()
        cosmos.bring_up(FIRST)
        await asyncio.sleep(10)
        assert cosmos.regions[SECOND].container("windows") == {"w": item(1)} and cosmos.converged()

    tell(story)


def test_a_client_writes_to_the_next_region_while_the_first_is_down_and_comes_back_after_its_health_check() -> None:
    async def story() -> None:
        cosmos = account()
        weather = Script()
        here = await opened(cosmos, weather=weather)

        async def region_of_a_write(number: int) -> str:
            weather.asked.clear()
            await here.create_item({**item(1), "id": f"w{number}"})
            return cosmos.history[-1].region if cosmos.history[-1].how == "create" else ""

        assert await region_of_a_write(1) == FIRST
        await asyncio.sleep(10)
        cosmos.take_down(FIRST)
        assert await region_of_a_write(2) == SECOND
        assert weather.asked == [(service(FIRST), "create")] * 2 + [(service(SECOND), "create")]
        cosmos.bring_up(FIRST)
        assert await region_of_a_write(3) == SECOND
        assert weather.asked == [(service(SECOND), "create")]
        await asyncio.sleep(301)
        await region_of_a_write(4)
        await asyncio.sleep(5)
        assert await region_of_a_write(5) == FIRST
        for name in REGIONS:
            cosmos.take_down(name)
        with pytest.raises(ServiceRequestError):
            await region_of_a_write(6)

    tell(story)


def test_a_region_that_is_behind_the_clients_own_writes_is_not_read_from() -> None:
    async def story() -> None:
        cosmos, weather = account(replication_s=(500.0, 600.0)), Script()
        here = await opened(cosmos, weather=weather)
        await here.create_item(item(1))
        cosmos.take_down(FIRST)
        with pytest.raises(ServiceRequestError):
            await here.read_item("w", "acme")
        cosmos.bring_up(FIRST)
        weather.asked.clear()
        assert (await here.read_item("w", "acme"))["revision"] == 1
        assert weather.asked == [(service(SECOND), "read"), (service(FIRST), "read")]

    tell(story)


# -- the double beside the SDK, which speaks to laptop mode's Cosmos DB

BESIDE = [
    (Fault("drop_before"), Misfortune(Kind.LOST_REQUEST, wait_s=0.0)),
    (Fault("drop_after"), Misfortune(Kind.LOST_ANSWER, wait_s=0.0)),
    (Fault("timeout_before"), Misfortune(Kind.LOST_REQUEST)),
    (Fault("timeout_after"), Misfortune(Kind.LOST_ANSWER)),
    (Fault("throttle", retry_after_ms=2500), Misfortune(Kind.THROTTLED, retry_after_s=2.5)),
    (Fault("unavailable"), Misfortune(Kind.UNAVAILABLE)),
    (Fault("status", status=408), Misfortune(Kind.UNSURE)),
]


async def attempted(container: Any, operation: str) -> tuple[str, int | None, str | None]:
    """How a call ends: the exception, its status and what it says of coming again."""
    try:
        match operation:
            case "create":
                await container.create_item({**item(1), "id": "other"})
            case "read":
                await container.read_item("w", "acme")
            case _:
                await container.replace_item("w", item(2))
    except Exception as error:
        headers = getattr(error, "headers", None) or {}
        return type(error).__name__, getattr(error, "status_code", None), headers.get("x-ms-retry-after-ms")
    return "", None, None


class Struck(Script):
    """Strikes an operation so many times. struck: how often it did, per service."""

    def __init__(self, operation: str, misfortune: Misfortune, times: int) -> None:
        super().__init__(operation)
        self.struck: list[str] = []
        self._misfortune = misfortune
        self._times = times

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        if operation != self._operation or len(self.struck) == self._times:
            return None
        self.struck.append(service)
        return self._misfortune


@pytest.mark.parametrize("operation", ["create", "read", "replace"])
@pytest.mark.parametrize(("fault", "misfortune"), BESIDE, ids=lambda value: getattr(value, "kind", None))
async def test_the_cosmos_client_asks_as_often_and_ends_as_the_sdk_does(
    tmp_path: Path, fault: Fault, misfortune: Misfortune, operation: str
) -> None:
    """Unlucky in both regions, without end: as many tries in each, and the same exception.

    A create whose answer is lost is unlucky once only: told 409 the second time, laptop mode does answer.
    """
    times = 1 if fault.after and operation == "create" else 50
    given = {**OPTIONS, "preferred_locations": list(REGIONS), "read_timeout": 0.2}
    async with running(tmp_path) as server:
        async with SdkClient(server.endpoints[0], KEY, **given) as client:
            container = await container_of(client)
            await container.create_item(item(1))
            await server.drain()
            for name in REGIONS[: 1 if times == 1 else 2]:
                server.faults.add(replace(fault, region=name, operation=operation, count=times))
            end = await attempted(container, operation)
            left = {waiting["region"]: waiting["count"] for waiting in server.faults.waiting()}
            expected = end, [times - left.get(name, 0) if name == FIRST or times > 1 else 0 for name in REGIONS]
    found: list[Any] = []

    async def story() -> None:
        weather = Struck("", misfortune, times)
        client = CosmosClient(account(), wire(weather), "https://simulated/", "a2V5", **given)
        await client.__aenter__()
        container = await container_of(client)
        await container.create_item(item(1))
        await asyncio.sleep(10)
        weather._operation = operation
        found.append(await attempted(container, operation))
        found.append([weather.struck.count(service(name)) for name in REGIONS])

    tell(story)
    assert tuple(found) == expected


OUTAGE = [
    (FIRST, "refused"), "read", "create", "replace", (FIRST, None), "read", "replace",
    (FIRST, "refused"), (SECOND, "refused"), "read", "create",
    (FIRST, None), (SECOND, None), "read", "create",
    (FIRST, "unavailable"), "read", "replace", "create",
    (SECOND, "unavailable"), "read", "create",
]  # fmt: skip
"""What comes of the regions, and what is asked of the account meanwhile, when nothing crosses between them."""


async def test_the_cosmos_client_goes_through_outages_of_regions_as_the_sdk_does(tmp_path: Path) -> None:
    """Without sessions: laptop mode sends no `x-ms-alt-content-path`, and without that the SDK keeps none."""
    given = {**OPTIONS, "preferred_locations": list(REGIONS)}

    async def ends(container: Any, switch: Callable[[str, Any], Any]) -> list[Any]:
        found = []
        await container.create_item(item(1))
        for step in OUTAGE:
            if isinstance(step, tuple):
                await switch(*step)
            else:
                found.append((step, await attempted(container, step)))
        return found

    async with running(tmp_path) as server, SdkClient(server.endpoints[0], KEY, **given) as client:

        async def switch(name: str, how: Any) -> None:
            await (server.regions.take_down(name, how) if how else server.regions.bring_up(name))

        expected = await ends(await container_of(client), switch)
    found: list[Any] = []

    async def story() -> None:
        cosmos = account(replication_s=(1e6, 1e6), sessions=False)

        async def switch(name: str, how: Any) -> None:
            if how:
                cosmos.take_down(name, how)
            else:
                cosmos.bring_up(name)

        found.extend(await ends(await opened(cosmos), switch))

    tell(story)
    assert found == expected
    assert {end[0] for _, end in found} >= {"", "ServiceRequestError", "CosmosHttpResponseError"}


# -- production's sinks over both


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
        for sink in (*buses, *stores):
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
        sinks = [
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
    command = "from tests.simulation.test_sink_doubles import story_of; print(story_of(5))"
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
