"""Faults on purpose: what the SDK makes of them, and what was and was not applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceExistsError

from local.cosmos.clock import ManualClock, SystemClock
from local.cosmos.faults import Fault, Faults
from local.cosmos.server import CosmosServer
from tests.local.cosmos_account import REGIONS, client, request, running, windows

ITEM = {"id": "w1", "subject": "acme", "revision": 1}
FIRST, SECOND = REGIONS


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CosmosServer]:
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
async def container(server: CosmosServer) -> AsyncIterator[ContainerProxy]:
    async with client(server) as account:
        yield await windows(account)


@pytest.fixture
async def impatient(server: CosmosServer, container: ContainerProxy) -> AsyncIterator[ContainerProxy]:
    """For answers that never come: the SDK waits a minute a try, and tries again."""
    async with client(server, read_timeout=0.3) as account:
        yield await windows(account)


async def items(server: CosmosServer, region: int) -> int:
    _, state = await request(server.endpoints[region], "GET", "/_local/state")
    return int(state["regions"][region]["items"]["meterline/windows"])


async def test_a_throttled_request_is_a_429_that_says_when_to_come_back(
    server: CosmosServer, container: ContainerProxy
) -> None:
    server.faults.add(Fault("throttle", operation="create", retry_after_ms=1234))
    with pytest.raises(CosmosHttpResponseError) as throttled:
        await container.create_item(ITEM)
    assert throttled.value.status_code == 429 and throttled.value.sub_status == 3200
    assert throttled.value.headers["x-ms-retry-after-ms"] == "1234"
    assert await items(server, 0) == 0
    await container.create_item(ITEM)


async def test_the_sdks_own_patience_outlasts_a_few_429s(server: CosmosServer) -> None:
    async with client(server, retry_throttle_total=5) as account:
        container = await windows(account)
        server.faults.add(Fault("throttle", operation="create", count=3, retry_after_ms=1))
        await container.create_item(ITEM)
        assert server.faults.waiting() == []


async def test_a_503_in_one_region_sends_the_sdk_to_the_other(server: CosmosServer, container: ContainerProxy) -> None:
    server.faults.add(Fault("unavailable", region=FIRST, operation="create", count=None))
    await container.create_item(ITEM)
    assert (await items(server, 0), await items(server, 1)) == (0, 1)


@pytest.mark.parametrize("status", [403, 408, 413, 449, 500])
async def test_any_status_can_be_answered(server: CosmosServer, container: ContainerProxy, status: int) -> None:
    server.faults.add(Fault("status", operation="replace", status=status, substatus=7))
    await container.create_item(ITEM)
    with pytest.raises(CosmosHttpResponseError) as refused:
        await container.replace_item("w1", ITEM)
    assert refused.value.status_code == status and refused.value.sub_status == 7


async def test_a_timeout_before_leaves_nothing_behind(server: CosmosServer, impatient: ContainerProxy) -> None:
    server.faults.add(Fault("timeout_before", operation="create", count=None))
    with pytest.raises(AzureError):
        await impatient.create_item(ITEM)
    assert (await items(server, 0), await items(server, 1)) == (0, 0)


async def test_after_a_timeout_that_came_too_late_the_sdks_own_retry_finds_the_item(
    server: CosmosServer, impatient: ContainerProxy
) -> None:
    """The write happened, its answer never came: a create meets itself as 409, an upsert happens once more, the same."""
    server.faults.add(Fault("timeout_after", operation="create"))
    with pytest.raises(CosmosResourceExistsError):
        await impatient.create_item(ITEM)
    server.faults.add(Fault("timeout_after", operation="upsert"))
    await impatient.upsert_item(ITEM | {"revision": 2})
    assert (await impatient.read_item("w1", "acme"))["revision"] == 2
    assert await items(server, 0) == 1


@pytest.mark.parametrize(("kind", "stored"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_dropped_connection_has_or_has_not_stored_the_item(
    server: CosmosServer, container: ContainerProxy, kind: Any, stored: int
) -> None:
    server.faults.add(Fault(kind, region=FIRST, operation="batch", count=None))
    server.faults.add(Fault("status", region=SECOND, operation="batch", count=None, status=403))
    with pytest.raises(AzureError):
        await container.execute_item_batch([("upsert", (ITEM,))], "acme")
    assert await items(server, 0) == stored


async def test_a_fault_strikes_its_region_its_operation_and_its_count_only(
    server: CosmosServer, container: ContainerProxy
) -> None:
    server.faults.add(Fault("status", region=FIRST, operation="read", count=2, status=400))
    await container.create_item(ITEM)
    for _ in range(2):
        with pytest.raises(CosmosHttpResponseError):
            await container.read_item("w1", "acme")
    await container.read_item("w1", "acme")
    server.faults.add(Fault("status", region=SECOND, status=400))
    await container.read_item("w1", "acme")
    assert len(server.faults.waiting()) == 1
    server.faults.clear()
    assert server.faults.waiting() == []


async def test_a_fault_without_an_operation_leaves_the_account_alone() -> None:
    faults = Faults(REGIONS)
    faults.add(Fault("unavailable", count=None))
    assert faults.take(FIRST, "account") is None
    assert faults.take(FIRST, "read") is not None
    faults.add(Fault("unavailable", operation="account"))
    assert faults.take(FIRST, "account") is not None


async def test_faults_are_added_and_cleared_over_the_control_endpoint(
    server: CosmosServer, container: ContainerProxy
) -> None:
    endpoint = server.endpoints[1]
    one = {"kind": "throttle", "region": FIRST, "operation": "create", "count": 1, "retry_after_ms": 5}
    status, state = await request(
        endpoint, "POST", "/_local/faults", [one, {"kind": "unavailable", "operation": "patch"}]
    )
    assert status == 200 and [fault["kind"] for fault in state["faults"]] == ["throttle", "unavailable"]
    with pytest.raises(CosmosHttpResponseError) as throttled:
        await container.create_item(ITEM)
    assert throttled.value.status_code == 429
    status, state = await request(endpoint, "DELETE", "/_local/faults")
    assert status == 200 and state["faults"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "meteor"},
        {"kind": "throttle", "operation": "dance"},
        {"kind": "throttle", "region": "Nowhere"},
        {"kind": "throttle", "count": 0},
        {"kind": "throttle", "colour": "red"},
        {},
        5,
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused(server: CosmosServer, body: Any) -> None:
    status, said = await request(server.endpoints[0], "POST", "/_local/faults", body)
    assert status == 400 and said["code"] == "BadRequest"
    assert server.faults.waiting() == []


async def test_a_container_with_a_limit_throttles_by_request_units_per_second(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_ms() // 1000 * 1000 + 250)
    async with running(tmp_path, clock=clock, throughput_rus=12) as server, client(server) as account:
        container = await windows(account)
        for n in range(3):
            await container.create_item(ITEM | {"id": f"w{n}"})
        with pytest.raises(CosmosHttpResponseError) as throttled:
            await container.create_item(ITEM | {"id": "w3"})
        assert throttled.value.status_code == 429
        wait_ms = int(throttled.value.headers["x-ms-retry-after-ms"])
        assert wait_ms == 750
        clock.advance(wait_ms)
        await container.create_item(ITEM | {"id": "w3"})


async def test_a_server_with_hanging_requests_closes(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server, read_timeout=60) as account:
        container = await windows(account)
        server.faults.add(Fault("timeout_before", operation="create"))
        hanging = asyncio.ensure_future(container.create_item(ITEM))
        while server.faults.waiting():
            await asyncio.sleep(0)
        await server.close()
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
