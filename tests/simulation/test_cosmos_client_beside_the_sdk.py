"""The simulator's Cosmos client side by side with the SDK, which speaks to laptop mode's Cosmos DB."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos.aio import CosmosClient as SdkClient

from local.cosmos.faults import Fault
from simulation.cosmos_client import CosmosClient, service
from simulation.wire import Kind, Misfortune
from tests.local.cosmos_account import KEY, REGIONS, running
from tests.simulation.sink_world import FIRST, OPTIONS, SECOND, Script, account, container_of, item, opened, tell, wire

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


OUTAGE: list[str | tuple[str, str | None]] = [
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
