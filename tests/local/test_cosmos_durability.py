"""What was acknowledged is there after kill -9, and so is what had not reached the other region."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from local.cosmos.regions import Version
from local.cosmos.server import CosmosServer
from local.cosmos.store import Address, Store
from tests.local.cosmos_account import KEY, REGIONS, Process, client, request, running, windows


def connect(process: Process, region: int = 0, **settings: Any) -> CosmosClient:
    return CosmosClient(
        process.endpoints[region], KEY, multiple_write_locations=True, preferred_locations=[REGIONS[region]], **settings
    )


async def state(server: CosmosServer) -> dict[str, Any]:
    """What the first region says of itself; it waits for no commit."""
    _, found = await request(server.endpoints[0], "GET", "/_local/state")
    return dict(found["regions"][0])


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    process = Process(tmp_path, "--port", "0", "--port", "0", "--replication-delay-ms", "3600000")
    await process.start()
    yield process
    await process.end(signal.SIGKILL)


async def test_the_process_says_in_one_line_that_it_is_ready_and_ends_cleanly_on_sigterm(process: Process) -> None:
    assert process.ready == {"ready": True, "service": "cosmos", "ports": process.ports} and len(process.ports) == 2
    for endpoint in process.endpoints:
        assert (await request(endpoint, "GET", "/"))[0] == 200
    code, out, err = await process.end()
    assert code == 0 and out == b""
    assert KEY.encode() not in err


async def test_without_a_key_the_process_does_not_start(tmp_path: Path) -> None:
    process = Process(tmp_path, key=None)
    await process.start()
    code, out, err = await process.end()
    assert code == 2 and not process.ready and not out and b"METERLINE_LOCAL_COSMOS_KEY" in err


async def test_a_second_process_on_the_same_directory_does_not_start(process: Process, tmp_path: Path) -> None:
    second = Process(tmp_path)
    await second.start()
    code, _, err = await second.end()
    assert code == 2 and b"cannot open the Cosmos store" in err


async def test_after_kill_9_everything_acknowledged_is_back_in_both_regions(process: Process, tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    written = [0]
    enough = asyncio.Event()

    async def write(container: ContainerProxy, writer: int) -> None:
        n = 0
        while True:
            identifier, revision = f"w{writer}.{n % 7}", n + 1
            await container.upsert_item({"id": identifier, "subject": f"s{writer}", "revision": revision})
            acknowledged[identifier] = revision
            written[0] += 1
            n += 1
            if len(acknowledged) == 28 and n > 20:
                enough.set()

    async with connect(process, retry_total=0, retry_connect=0, retry_read=0) as account:
        container = await windows(account)
        writers = [asyncio.ensure_future(write(container, writer)) for writer in range(4)]
        await asyncio.wait({asyncio.ensure_future(enough.wait()), *writers}, return_when=asyncio.FIRST_COMPLETED)
        await process.end(signal.SIGKILL)
        for writer in writers:
            writer.cancel()
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError | AzureError) for outcome in outcomes), outcomes
    assert len(acknowledged) == 28

    again = Process(tmp_path, "--replication-delay-ms", "3600000")
    await again.start()
    try:
        _, before = await request(again.endpoints[0], "GET", "/_local/state")
        assert [region["items"]["meterline/windows"] for region in before["regions"]] == [28, 0]
        assert before["regions"][1]["queued"] >= written[0]
        await request(again.endpoints[0], "POST", "/_local/drain")
        for region in range(2):
            async with connect(again, region) as account:
                container = account.get_database_client("meterline").get_container_client("windows")
                found = {item["id"]: item["revision"] async for item in container.read_all_items()}
                assert set(found) == set(acknowledged)
                # A write in flight may be there or not; an acknowledged one is.
                assert all(found[name] in (revision, revision + 7) for name, revision in acknowledged.items())
    finally:
        await again.end()


async def test_replication_goes_on_by_itself_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        await (await windows(account)).create_item({"id": "w1", "subject": "acme", "revision": 1})
    async with running(tmp_path, replication_delay_ms=0) as server:
        while any(server.regions.queued().values()):
            await asyncio.sleep(0)
        async with client(server, first=1) as account:
            container = account.get_database_client("meterline").get_container_client("windows")
            assert (await container.read_item("w1", "acme"))["revision"] == 1


async def test_concurrent_versions_survive_a_restart_and_still_converge(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        async with client(server) as first, client(server, first=1) as second:
            await (await windows(first)).create_item({"id": "w1", "subject": "acme", "revision": 2})
            await (await windows(second)).create_item({"id": "w1", "subject": "acme", "revision": 5})
    async with running(tmp_path) as server:
        await server.drain()
        for region in range(2):
            async with client(server, first=region) as account:
                container = account.get_database_client("meterline").get_container_client("windows")
                assert (await container.read_item("w1", "acme"))["revision"] == 5


async def test_many_writes_of_one_turn_share_a_commit_and_none_is_answered_before_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for n in range(5):
        with store.atomic():
            store.put_resource("dbs", "", {"id": f"d{n}", "_rid": f"r{n}"})
    path = tmp_path / "cosmos.sqlite3"
    waiting = asyncio.ensure_future(store.committed())
    assert not waiting.done()
    await waiting
    await store.committed()
    store.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT COUNT(*) FROM resources").fetchone() == (5,)


async def test_no_answer_leaves_before_its_transaction_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of the write, nor that of a read which saw it."""
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account)
        held: list[Store] = []
        finish = Store._finish
        monkeypatch.setattr(Store, "_finish", lambda store: held.append(store))
        creating = asyncio.ensure_future(container.create_item({"id": "w1", "subject": "acme", "revision": 1}))
        while (await state(server))["items"]["meterline/windows"] == 0:
            pass
        reading = asyncio.ensure_future(container.read_item("w1", "acme"))
        for _ in range(5):
            await state(server)
        assert held and not creating.done() and not reading.done()
        monkeypatch.setattr(Store, "_finish", finish)
        held[0]._finish()
        assert (await creating)["revision"] == (await reading)["revision"] == 1


async def test_a_write_that_cannot_be_committed_is_a_500_and_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account)
        finish = Store._finish

        def without_disk(store: Store) -> None:
            store._db.rollback()
            finish(store)

        monkeypatch.setattr(Store, "_finish", without_disk)
        with pytest.raises(CosmosHttpResponseError) as failed:
            await container.create_item({"id": "w1", "subject": "acme", "revision": 1})
        assert failed.value.status_code == 500
        monkeypatch.setattr(Store, "_finish", finish)
        await container.create_item({"id": "w1", "subject": "acme", "revision": 2})


async def test_requests_of_one_moment_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account)
        commits: list[Store] = []
        finish = Store._finish

        def counted(store: Store) -> None:
            commits.append(store)
            finish(store)

        monkeypatch.setattr(Store, "_finish", counted)
        await asyncio.gather(*(container.upsert_item({"id": f"w{n}", "subject": "acme"}) for n in range(60)))
        assert (await state(server))["items"]["meterline/windows"] == 60
        assert len(commits) < 60


async def test_every_commit_is_flushed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    full = 2
    assert store._db.execute("PRAGMA synchronous").fetchone() == (full,)
    store.close()


async def test_a_failed_operation_leaves_the_others_of_its_turn_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.atomic():
        store.put_resource("dbs", "", {"id": "kept", "_rid": "r1"})
    with pytest.raises(LookupError):
        with store.atomic():
            store.put_resource("dbs", "", {"id": "dropped", "_rid": "r2"})
            raise LookupError
    await store.committed()
    assert [found["id"] for found in store.resources("dbs", "")] == ["kept"]
    store.close()


async def test_a_commit_that_fails_is_told_to_everyone_who_waits_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.atomic():
        store.put_resource("dbs", "", {"id": "d", "_rid": "r"})
    # The connection is closed under it, as a disk that is gone would do.
    store._db.rollback()
    with pytest.raises(RuntimeError, match="could not commit"):
        await store.committed()


async def test_deletions_are_forgotten_at_a_start_once_nothing_is_on_its_way(tmp_path: Path) -> None:
    def rows() -> int:
        with closing(sqlite3.connect(tmp_path / "cosmos.sqlite3")) as other:
            return int(other.execute("SELECT COUNT(*) FROM items").fetchone()[0])

    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account)
        await container.create_item({"id": "w1", "subject": "acme", "revision": 1})
        await container.delete_item("w1", "acme")
    async with running(tmp_path) as server:
        await server.drain()
    assert rows() == 2
    async with running(tmp_path):
        pass
    assert rows() == 0


async def test_an_item_with_two_versions_is_stored_with_both(tmp_path: Path) -> None:
    store = Store(tmp_path)
    address = Address("c", "[1.0]", "i", "AA")
    held = (Version((1, 0), 0, 5.0, 7, b"{}"), Version((0, 1), 1, float("-inf"), 8, None))
    with store.atomic():
        store.put(0, address, held)
    assert set(store.siblings(0, address)) == set(held)
    assert store.body(0, "c", "[1.0]", "i") is None, "a deletion wins"
    store.close()
