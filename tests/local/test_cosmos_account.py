"""The account: both regions announced, every request signed, containers kept as they were defined."""

from __future__ import annotations

import asyncio
import base64
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.cosmos import CosmosClient as SyncClient
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceExistsError, CosmosResourceNotFoundError

from local.cosmos.auth import MasterKey, signed_headers
from local.cosmos.clock import SystemClock
from local.cosmos.server import CosmosConfig, CosmosServer
from tests.local.cosmos_account import KEY, OTHER_KEY, REGIONS, client, request, running, windows


async def test_either_region_announces_both_as_writable_and_readable(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for endpoint in server.endpoints:
            status, account = await request(endpoint, "GET", "/")
            assert status == 200 and account["enableMultipleWriteLocations"] is True
            for locations in (account["writableLocations"], account["readableLocations"]):
                assert [place["name"] for place in locations] == list(REGIONS)
                assert [place["databaseAccountEndpoint"] for place in locations] == list(server.endpoints)


async def test_a_wrong_key_is_a_401_with_the_text_that_was_signed(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        status, body = await request(server.endpoints[0], "GET", "/dbs/meterline", key=OTHER_KEY)
        assert status == 401 and body["code"] == "Unauthorized"
        assert "MAC signature" in body["message"] and "'get\ndbs\ndbs/meterline\n" in body["message"]
        assert KEY not in body["message"]


async def test_every_route_wants_the_signature(tmp_path: Path) -> None:
    routes = [("GET", "/"), ("GET", "/dbs"), ("POST", "/dbs/a/colls/b/docs"), ("GET", "/_local/state"),
              ("POST", "/_local/faults"), ("POST", "/_local/regions/West%20Europe")]  # fmt: skip
    async with running(tmp_path) as server, aiohttp.ClientSession() as session:
        for method, path in routes:
            async with session.request(method, server.endpoints[0].rstrip("/") + path) as response:
                assert response.status == 401, (method, path)
            status, _ = await request(server.endpoints[0], method, path, key=OTHER_KEY)
            assert status == 401, (method, path)


async def test_a_signature_is_for_one_verb_and_one_resource(tmp_path: Path) -> None:
    async with running(tmp_path) as server, aiohttp.ClientSession() as session:
        stolen = signed_headers(MasterKey(KEY), "GET", "/dbs/a", SystemClock().now_ms())
        for method, path in (("DELETE", "dbs/a"), ("GET", "dbs/b"), ("GET", "dbs/a/colls")):
            async with session.request(method, server.endpoints[0] + path, headers=stolen) as response:
                assert response.status == 401


async def test_a_request_of_another_hour_is_refused(tmp_path: Path) -> None:
    then = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000)
    async with running(tmp_path) as server, aiohttp.ClientSession() as session:
        headers = signed_headers(MasterKey(KEY), "GET", "/dbs", then)
        async with session.get(server.endpoints[0] + "dbs", headers=headers) as response:
            assert response.status == 403 and "not valid at the current time" in (await response.json())["message"]
        headers = signed_headers(MasterKey(KEY), "GET", "/dbs", SystemClock().now_ms())
        async with session.get(server.endpoints[0] + "dbs", headers=headers | {"x-ms-date": ""}) as response:
            assert response.status == 401


async def test_an_entra_token_is_told_what_is_wanted(tmp_path: Path) -> None:
    async with running(tmp_path) as server, aiohttp.ClientSession() as session:
        headers = {"authorization": "type%3Daad%26ver%3D1.0%26sig%3Dtoken"}
        async with session.get(server.endpoints[0], headers=headers) as response:
            assert response.status == 401 and "master keys only" in (await response.json())["message"]


async def test_the_key_is_in_no_repr_error_or_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = CosmosConfig(tmp_path, KEY)
    assert KEY not in repr(config) and KEY not in repr(MasterKey(KEY)) and KEY not in repr(CosmosServer(config))
    with pytest.raises(ValueError) as refused:
        CosmosConfig(tmp_path, "secret, not base64!")
    assert "secret" not in str(refused.value)
    async with running(tmp_path) as server, client(server) as account:
        await windows(account)
        await request(server.endpoints[0], "GET", "/dbs", key=OTHER_KEY)
    assert KEY not in caplog.text and base64.b64decode(KEY).decode() not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "192.0.2.1"},
        {"regions": ("One", "One")},
        {"replication_delay_ms": -1},
        {"throughput_rus": 0},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        CosmosConfig(tmp_path, KEY, **settings)


async def test_a_data_directory_serves_one_server_at_a_time(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(RuntimeError, match="cannot open the Cosmos store"):
            async with running(tmp_path):
                pass


async def test_a_port_in_use_is_an_error_and_leaves_the_directory_free(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as server:
        with pytest.raises(OSError):
            async with running(tmp_path / "b", ports=(server.ports[0], 0)):
                pass
    async with running(tmp_path / "b"):
        pass


async def test_a_container_comes_back_with_the_policies_it_was_created_with(tmp_path: Path) -> None:
    policies: dict[str, Any] = {
        "indexing_policy": {"indexingMode": "consistent", "includedPaths": [{"path": "/meter/?"}],
                            "excludedPaths": [{"path": "/*"}]},
        "unique_key_policy": {"uniqueKeys": [{"paths": ["/meter"]}]},
        "conflict_resolution_policy": {"mode": "LastWriterWins", "conflictResolutionPath": "/revision"},
    }  # fmt: skip
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account, **policies)
        for region in range(2):
            async with client(server, first=region) as other:
                got = await other.get_database_client("meterline").get_container_client("windows").read()
                assert got["partitionKey"]["paths"] == ["/subject"]
                assert got["indexingPolicy"] == policies["indexing_policy"]
                assert got["uniqueKeyPolicy"] == policies["unique_key_policy"]
                assert got["conflictResolutionPolicy"]["conflictResolutionPath"] == "/revision"
        assert container.id == "windows"


async def test_databases_and_containers_are_created_once_listed_and_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        database = await account.create_database("meterline")
        with pytest.raises(CosmosResourceExistsError):
            await account.create_database("meterline")
        await account.create_database_if_not_exists("meterline")
        container = await database.create_container("windows", PartitionKey("/subject"))
        with pytest.raises(CosmosResourceExistsError):
            await database.create_container("windows", PartitionKey("/subject"))
        await database.create_container("revisions", PartitionKey("/subject"))
        assert [found["id"] async for found in account.list_databases()] == ["meterline"]
        assert [found["id"] async for found in database.list_containers()] == ["windows", "revisions"]
        query = "SELECT * FROM c WHERE c.id = 'windows'"
        assert [found["id"] async for found in database.query_containers(query)] == ["windows"]
        await container.create_item({"id": "a", "subject": "s"})
        await database.delete_container("windows")
        with pytest.raises(CosmosResourceNotFoundError):
            await container.read()
        recreated = await database.create_container("windows", PartitionKey("/subject"))
        with pytest.raises(CosmosResourceNotFoundError):
            await recreated.read_item("a", "s")
        await account.delete_database("meterline")
        with pytest.raises(CosmosResourceNotFoundError):
            await database.read()


async def test_a_containers_index_may_change_and_its_key_may_not(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        await windows(account)
        database = account.get_database_client("meterline")
        none = {"indexingMode": "none", "automatic": False}
        changed = await database.replace_container("windows", PartitionKey("/subject"), indexing_policy=none)
        assert (await changed.read())["indexingPolicy"] == none
        with pytest.raises(CosmosHttpResponseError) as refused:
            await database.replace_container("windows", PartitionKey("/other"))
        assert refused.value.status_code == 400


async def test_custom_conflict_resolution_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        with pytest.raises(CosmosHttpResponseError) as refused:
            await windows(account, conflict_resolution_policy={"mode": "Custom"})
        assert refused.value.status_code == 400


async def test_the_partition_key_ranges_are_told_once_and_then_a_304(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        await windows(account)
        path = "/dbs/meterline/colls/windows/pkranges"
        status, body = await request(server.endpoints[0], "GET", path)
        assert status == 200 and [found["id"] for found in body["PartitionKeyRanges"]] == ["0", "1"]
        etag = body["PartitionKeyRanges"][0]["_etag"]
        assert (await request(server.endpoints[0], "GET", path, headers={"If-None-Match": etag}))[0] == 304


async def test_what_is_not_served_is_a_404_or_405(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await request(server.endpoints[0], "GET", "/dbs/a/users"))[0] == 404
        assert (await request(server.endpoints[0], "PATCH", "/dbs/a"))[0] == 405


async def test_the_synchronous_sdk_is_served_as_well(tmp_path: Path) -> None:
    def work(endpoint: str) -> list[Any]:
        with SyncClient(endpoint, KEY, multiple_write_locations=True) as account:
            database = account.create_database_if_not_exists("meterline")
            container = database.create_container_if_not_exists("windows", PartitionKey("/subject"))
            for n in range(12):
                container.upsert_item({"id": f"w{n:02}", "subject": f"s{n % 6}", "revision": n})
            container.patch_item("w00", "s0", [{"op": "set", "path": "/revision", "value": 50}])
            ordered = "SELECT VALUE c.id FROM c ORDER BY c.revision DESC OFFSET 0 LIMIT 2"
            return [
                container.read_item("w00", "s0")["revision"],
                list(container.query_items(ordered, enable_cross_partition_query=True)),
                len(list(container.read_all_items())),
            ]

    async with running(tmp_path) as server:
        assert await asyncio.to_thread(work, server.endpoints[0]) == [50, ["w00", "w11"], 12]
