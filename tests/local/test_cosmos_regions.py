"""Two write regions: replication, who wins, sessions, and a region that is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ServiceRequestError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosAccessConditionFailedError, CosmosResourceNotFoundError

from local.cosmos.clock import ManualClock, SystemClock
from local.cosmos.server import CosmosServer
from tests.local.cosmos_account import REGIONS, both, client, request, running, windows

FIRST, SECOND = REGIONS


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CosmosServer]:
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
async def sides(server: CosmosServer) -> AsyncIterator[list[ContainerProxy]]:
    """The same container, as clients pinned to each region see it."""
    async with AsyncExitStack() as stack:
        async with client(server) as account:
            await windows(account)
        accounts = [await stack.enter_async_context(account) for account in await both(server)]
        yield [account.get_database_client("meterline").get_container_client("windows") for account in accounts]


def item(revision: int, **more: Any) -> dict[str, Any]:
    return {"id": "w1", "subject": "acme", "revision": revision, **more}


async def shown(sides: list[ContainerProxy]) -> list[int | None]:
    """The revision that each region shows, None for no item."""
    seen: list[int | None] = []
    for side in sides:
        try:
            seen.append((await side.read_item("w1", "acme"))["revision"])
        except CosmosResourceNotFoundError:
            seen.append(None)
    return seen


async def test_a_write_is_in_its_region_at_once_and_in_the_other_after_replication(
    server: CosmosServer, sides: list[ContainerProxy]
) -> None:
    await sides[0].create_item(item(1))
    assert await shown(sides) == [1, None]
    assert server.regions.queued() == {FIRST: 0, SECOND: 1}
    await server.drain()
    assert await shown(sides) == [1, 1]
    assert server.regions.queued() == {FIRST: 0, SECOND: 0}


async def test_the_replicated_item_is_the_same_to_the_byte(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    written = await sides[1].create_item(item(1, value="1.10"))
    await server.drain()
    assert dict(await sides[0].read_item("w1", "acme")) == dict(written)


@pytest.mark.parametrize(("first", "second"), [(2, 5), (5, 2)])
async def test_of_concurrent_creates_the_higher_revision_wins_in_both(
    server: CosmosServer, sides: list[ContainerProxy], first: int, second: int
) -> None:
    await sides[0].create_item(item(first))
    await sides[1].create_item(item(second))
    assert await shown(sides) == [first, second]
    await server.drain()
    assert await shown(sides) == [5, 5]


async def test_without_a_number_at_the_path_a_version_loses(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    await sides[0].create_item({"id": "w1", "subject": "acme", "revision": "9"})
    await sides[1].create_item(item(1))
    await server.drain()
    assert await shown(sides) == [1, 1]


async def test_a_concurrent_delete_wins_over_a_replace(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    await sides[0].create_item(item(1))
    await server.drain()
    await sides[0].delete_item("w1", "acme")
    await sides[1].replace_item("w1", item(9))
    await server.drain()
    assert await shown(sides) == [None, None]


async def test_inside_one_region_the_last_arrival_stands_and_replicates(
    server: CosmosServer, sides: list[ContainerProxy]
) -> None:
    await sides[0].create_item(item(5))
    await server.drain()
    await sides[1].upsert_item(item(3))
    await server.drain()
    assert await shown(sides) == [3, 3]


async def test_the_default_path_is_the_timestamp(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_ms())
    async with running(tmp_path, clock=clock) as server:
        async with client(server) as account:
            await windows(account, conflict_resolution_policy={"mode": "LastWriterWins"})
        accounts = await both(server)
        async with accounts[0], accounts[1]:
            sides = [a.get_database_client("meterline").get_container_client("windows") for a in accounts]
            await sides[1].create_item(item(9))
            clock.advance(2_000)
            await sides[0].create_item(item(1))
            await server.drain()
            assert await shown(sides) == [1, 1]


async def test_replication_runs_by_itself_once_a_change_is_old_enough(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_ms())
    async with running(tmp_path, clock=clock, replication_delay_ms=500) as server:
        async with client(server) as account:
            await windows(account)
        accounts = await both(server)
        async with accounts[0], accounts[1]:
            sides = [a.get_database_client("meterline").get_container_client("windows") for a in accounts]
            await sides[0].create_item(item(1))
            assert await shown(sides) == [1, None]
            clock.advance(499)
            assert await shown(sides) == [1, None]
            clock.advance(1)
            while await shown(sides) != [1, 1]:
                pass


async def test_a_session_reads_its_own_writes_although_its_region_is_behind(server: CosmosServer) -> None:
    """The other region says 404/1002 to the session's token, and the SDK goes back to where it wrote."""
    async with client(server) as account:
        container = await windows(account)
        await container.create_item(item(1))
        token: list[str] = []
        read = await container.read_item("w1", "acme", response_hook=lambda h, _: token.append(h["x-ms-session-token"]))
        assert read["revision"] == 1
        async with client(server, first=1) as other:
            behind = other.get_database_client("meterline").get_container_client("windows")
            found = await behind.read_item("w1", "acme", session_token=token[0])
            assert found["revision"] == 1
            headers = {"x-ms-documentdb-partitionkey": '["acme"]', "x-ms-session-token": token[0]}
            path = "/dbs/meterline/colls/windows/docs/w1"
            status, body = await request(server.endpoints[1], "GET", path, headers=headers)
            assert status == 404 and "session" in body["message"]
            await server.drain()
            assert (await request(server.endpoints[1], "GET", path, headers=headers))[0] == 200


@pytest.mark.parametrize("how", ["refused", "unavailable"])
async def test_the_sdk_writes_to_the_other_region_while_one_is_down(server: CosmosServer, how: Any) -> None:
    async with client(server) as account:
        container = await windows(account)
        await container.create_item(item(1))
        await server.drain()
        await server.regions.take_down(FIRST, how)
        await container.upsert_item(item(2))
        assert (await container.read_item("w1", "acme"))["revision"] == 2
    assert server.regions.queued() == {FIRST: 1, SECOND: 0}
    await server.drain()
    assert server.regions.queued() == {FIRST: 1, SECOND: 0}, "nothing crosses to a region that is down"
    await server.regions.bring_up(FIRST)
    await server.drain()
    async with client(server) as account:
        container = account.get_database_client("meterline").get_container_client("windows")
        assert (await container.read_item("w1", "acme"))["revision"] == 2


async def test_what_a_region_had_written_before_it_went_down_crosses_when_it_is_back(
    server: CosmosServer, sides: list[ContainerProxy]
) -> None:
    await sides[0].create_item(item(7))
    await server.regions.take_down(FIRST)
    await sides[1].create_item(item(3))
    await server.drain()
    assert (await sides[1].read_item("w1", "acme"))["revision"] == 3
    await server.regions.bring_up(FIRST)
    await server.drain()
    assert await shown(sides) == [7, 7]


async def test_a_region_that_is_down_refuses_connections_and_comes_back_on_its_port(server: CosmosServer) -> None:
    endpoint = server.endpoints[1]
    await server.regions.take_down(SECOND)
    with pytest.raises(OSError):
        await request(endpoint, "GET", "/")
    await server.regions.bring_up(SECOND)
    assert server.endpoints[1] == endpoint
    assert (await request(endpoint, "GET", "/"))[0] == 200


async def test_an_unavailable_region_answers_503_to_everything_but_control(server: CosmosServer) -> None:
    await server.regions.take_down(SECOND, "unavailable")
    assert (await request(server.endpoints[1], "GET", "/dbs"))[0] == 503
    status, state = await request(server.endpoints[1], "GET", "/_local/state")
    assert status == 200 and [region["up"] for region in state["regions"]] == [True, False]


async def test_with_both_regions_down_the_sdk_gives_up_with_an_error(server: CosmosServer) -> None:
    async with client(server) as account:
        container = await windows(account)
        for name in REGIONS:
            await server.regions.take_down(name)
        with pytest.raises(ServiceRequestError):
            await container.create_item(item(1))
        for name in REGIONS:
            await server.regions.bring_up(name)
        await container.create_item(item(1))


async def test_regions_go_down_and_up_over_the_control_endpoint(server: CosmosServer) -> None:
    west, north = server.endpoints

    async def switch(endpoint: str, body: Any, name: str = FIRST) -> int:
        return (await request(endpoint, "POST", f"/_local/regions/{name}", body))[0]

    assert await switch(west, {"up": False}) == 200
    while server.regions.is_up(FIRST):
        assert (await request(north, "GET", "/_local/state"))[0] == 200
    assert await switch(north, {"up": False}, SECOND) == 400, "the last port stays open"
    assert await switch(north, {"up": True}) == 200
    assert (await request(west, "GET", "/"))[0] == 200
    assert await switch(west, {"up": False}, "Nowhere") == 404
    assert await switch(west, {"down": True}) == 400


async def test_a_deleted_container_takes_its_queue_with_it(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    await sides[0].create_item(item(1))
    async with client(server) as account:
        await account.get_database_client("meterline").delete_container("windows")
        assert server.regions.queued() == {FIRST: 0, SECOND: 0}
        await windows(account)
    await server.drain()
    async with client(server, first=1) as account:
        again = account.get_database_client("meterline").get_container_client("windows")
        assert [found async for found in again.read_all_items()] == []


async def test_a_query_sees_its_own_region(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    await sides[0].create_item(item(1))
    counts = [[n async for n in side.query_items("SELECT VALUE COUNT(1) FROM c")] for side in sides]
    assert counts == [[1], [0]]


async def test_if_match_is_checked_where_the_write_lands(server: CosmosServer, sides: list[ContainerProxy]) -> None:
    first = await sides[0].create_item(item(1))
    await server.drain()
    await sides[1].replace_item("w1", item(2))
    await sides[0].replace_item("w1", item(3), etag=first["_etag"], match_condition=MatchConditions.IfNotModified)
    await server.drain()
    assert await shown(sides) == [3, 3]
    with pytest.raises(CosmosAccessConditionFailedError):
        await sides[1].replace_item("w1", item(4), etag=first["_etag"], match_condition=MatchConditions.IfNotModified)
