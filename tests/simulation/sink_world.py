"""A story in virtual time over the simulator's Service Bus and Cosmos DB: its weather, what is delivered, and the account."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import orjson
from azure.cosmos import PartitionKey

from schemas.windows import Revision
from settings import Settings
from simulation.cosmos import TwoRegions
from simulation.cosmos_client import CosmosClient
from simulation.loop import VirtualLoop
from simulation.wire import FairWeather, Kind, Misfortune, Weather, Wire
from sinks.contract import DELIVERED, Sink
from sinks.cosmos_account import CONFLICT_POLICY
from tests.local.cosmos_account import REGIONS

FIRST, SECOND = REGIONS
SETTINGS = Settings(
    servicebus_connection_string="Endpoint=sb://simulated/;SharedAccessKeyName=k;SharedAccessKey=a2V5;",
    cosmos_endpoint="https://simulated/",
    cosmos_key="a2V5",
)
OPTIONS: dict[str, Any] = {
    "multiple_write_locations": True,
    "read_timeout": 10,
    "retry_throttle_total": -1,
    "retry_connect": 1,
    "retry_read": 1,
    "no_response_on_write": True,
}
"""As `sinks.cosmos_account` has them."""


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


def account(seed: int = 11, replication_s: tuple[float, float] = (0.1, 2.0), **more: Any) -> TwoRegions:
    return TwoRegions(random.Random(seed), (FIRST, SECOND), replication_s, **more)


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
