"""What the Cosmos sink makes of a service that is throttled, slow, half gone or unwilling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from local.cosmos.faults import Fault
from local.cosmos.server import CosmosServer
from schemas.errors import ConfigurationError, SinkError
from sinks import cosmos, cosmos_account
from sinks.contract import DELIVERED, Outcome
from sinks.cosmos import CosmosSink
from tests.local.cosmos_account import KEY, OTHER_KEY, REGIONS, running
from tests.sinks.cosmos_servers import revision, settings_of

FIRST, SECOND = REGIONS


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CosmosServer]:
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
async def sink(server: CosmosServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CosmosSink]:
    """A sink with its containers ready and little patience."""
    monkeypatch.setattr(cosmos_account, "READ_TIMEOUT_S", 0.3)
    sink = CosmosSink(settings_of(server.endpoints[0]))
    assert await sink.deliver([revision(1, window="first")]) == [DELIVERED]
    yield sink
    await sink.close()


async def revisions(server: CosmosServer, region: int = 0, container: str = "windows") -> list[int]:
    """The revisions of the window `calls…` that a region shows."""
    found = await items_of(server, region, container)
    return sorted(item["revision"] for item in found if item["window_id"] != "first")


async def items_of(server: CosmosServer, region: int, container: str) -> list[dict[str, Any]]:
    async with CosmosClient(
        server.endpoints[region], KEY, enable_endpoint_discovery=False, consistency_level="Eventual"
    ) as account:
        proxy = account.get_database_client("meterline").get_container_client(container)
        return [dict(item) async for item in proxy.read_all_items()]


async def deliver_patiently(sink: CosmosSink) -> None:
    """Revision 2, as often as it takes; a handful of times is enough for anything that mends itself."""
    for _ in range(5):
        if await sink.deliver([revision(2)]) == [DELIVERED]:
            return
    pytest.fail("revision 2 was not delivered")


async def test_throttling_is_passed_on_with_the_wait_that_was_asked_for(server: CosmosServer, sink: CosmosSink) -> None:
    server.faults.add(Fault("throttle", operation="create", retry_after_ms=2500))
    outcomes = await sink.deliver([revision(1), revision(1, window="calls~PT1H~other")])
    assert sorted(outcomes, key=lambda outcome: outcome.kind) == [
        DELIVERED,
        Outcome("retry", "Cosmos DB is throttling (429)", 2.5),
    ]
    assert await sink.deliver([revision(1), revision(1, window="calls~PT1H~other")]) == [DELIVERED] * 2


async def test_a_revision_that_has_to_come_again_holds_back_the_later_ones_of_its_window(
    server: CosmosServer, sink: CosmosSink
) -> None:
    server.faults.add(Fault("throttle", operation="create"))
    outcomes = await sink.deliver([revision(1), revision(2), revision(3)])
    assert [outcome.kind for outcome in outcomes] == ["retry"] * 3
    assert await revisions(server) == [] and await revisions(server, container="revisions") == []
    assert await sink.deliver([revision(1), revision(2), revision(3)]) == [DELIVERED] * 3
    assert await revisions(server) == [3] and await revisions(server, container="revisions") == [1, 2, 3]


async def test_a_refused_revision_does_not_hold_back_the_later_ones_of_its_window(
    server: CosmosServer, sink: CosmosSink
) -> None:
    server.faults.add(Fault("status", operation="create", status=400))
    outcomes = await sink.deliver([revision(1), revision(2)])
    assert [outcome.kind for outcome in outcomes] == ["refused", "delivered"]


@pytest.mark.parametrize("operation", ["create", "read", "replace"])
@pytest.mark.parametrize(
    ("status", "substatus", "kind"),
    [
        (408, 0, "retry"),
        (410, 0, "retry"),
        (449, 0, "retry"),
        (500, 0, "retry"),
        (401, 0, "retry"),
        (403, 0, "retry"),
        (403, 5300, "retry"),
        (400, 1001, "retry"),
        (400, 0, "refused"),
        (413, 0, "refused"),
        (403, 1014, "refused"),
    ],
)
async def test_every_status_is_either_come_again_or_never(
    server: CosmosServer, sink: CosmosSink, operation: str, status: int, substatus: int, kind: str
) -> None:
    await sink.deliver([revision(1)])
    # A read of the document comes only after its create met an older one.
    server.faults.add(Fault("status", operation=operation, count=None, status=status, substatus=substatus))
    [outcome] = await sink.deliver([revision(2)])
    assert outcome.kind == kind and outcome.reason
    server.faults.clear()
    if kind == "retry":
        assert await sink.deliver([revision(2)]) == [DELIVERED]
        assert await revisions(server) == [2]


async def test_a_precondition_that_fails_is_read_again(server: CosmosServer, sink: CosmosSink) -> None:
    await sink.deliver([revision(1)])
    server.faults.add(Fault("status", operation="replace", status=412, count=2))
    assert await sink.deliver([revision(2)]) == [DELIVERED]
    server.faults.add(Fault("status", operation="replace", status=412, count=None))
    [outcome] = await sink.deliver([revision(3)])
    assert outcome.kind == "retry" and "changed by others" in outcome.reason


async def test_an_item_above_two_megabytes_is_refused(server: CosmosServer, sink: CosmosSink) -> None:
    outcomes = await sink.deliver([revision(1, note="x" * 2_200_000), revision(1, window="calls~PT1H~other")])
    assert [outcome.kind for outcome in outcomes] == ["refused", "delivered"]
    assert "413" in outcomes[0].reason and "x" * 50 not in outcomes[0].reason


@pytest.mark.parametrize("operation", ["create", "read", "replace"])
@pytest.mark.parametrize("kind", ["timeout_after", "drop_after", "timeout_before", "drop_before"])
async def test_an_answer_that_never_came_is_harmless(
    server: CosmosServer, sink: CosmosSink, operation: str, kind: Any
) -> None:
    await sink.deliver([revision(1)])
    server.faults.add(Fault(kind, operation=operation))
    await deliver_patiently(sink)
    assert server.faults.waiting() == []
    await server.drain()
    assert await revisions(server) == [2]
    assert await revisions(server, container="revisions") == [1, 2]


async def test_a_service_that_never_answers_ends_in_come_again_for_the_whole_batch(
    server: CosmosServer, sink: CosmosSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosmos, "DELIVER_TIMEOUT_S", 0.2)
    server.faults.add(Fault("timeout_before", count=None))
    batch = [revision(1, window=f"calls~PT1H~{n}") for n in range(40)]
    outcomes = await sink.deliver(batch)
    assert [outcome.kind for outcome in outcomes] == ["retry"] * 40
    assert "0 s" in outcomes[0].reason
    server.faults.clear()
    monkeypatch.setattr(cosmos, "DELIVER_TIMEOUT_S", 60.0)
    assert await sink.deliver(batch) == [DELIVERED] * 40


async def test_once_nobody_answers_the_rest_of_the_batch_does_not_ask(server: CosmosServer, sink: CosmosSink) -> None:
    server.faults.add(Fault("status", operation="create", status=500, count=cosmos.CONCURRENCY))
    batch = [revision(1, window=f"calls~PT1H~{n}") for n in range(50)]
    outcomes = await sink.deliver(batch)
    assert {outcome.kind for outcome in outcomes} == {"retry"}
    server.faults.clear()
    assert await revisions(server) == []


async def test_while_a_region_is_down_the_other_one_takes_the_revisions(server: CosmosServer, sink: CosmosSink) -> None:
    await sink.deliver([revision(1)])
    await server.drain()
    await server.regions.take_down(FIRST)
    await deliver_patiently(sink)
    assert await revisions(server, 1) == [2]
    await server.regions.bring_up(FIRST)
    await server.drain()
    for region in range(2):
        assert await revisions(server, region) == [2]
        assert await revisions(server, region, "revisions") == [1, 2]


async def test_revisions_written_to_both_regions_at_once_end_at_the_highest_everywhere(server: CosmosServer) -> None:
    """Two owners of one window, each with its own region and neither knowing of the other: last-writer-wins by revision."""
    sinks = [CosmosSink(settings_of(server.endpoints[n]), (REGIONS[n],)) for n in range(2)]
    try:
        assert await sinks[0].deliver([revision(1), revision(2), revision(3)]) == [DELIVERED] * 3
        assert await sinks[1].deliver([revision(1), revision(2)]) == [DELIVERED] * 2
        assert (await revisions(server, 0), await revisions(server, 1)) == ([3], [2])
        await server.drain()
        for region in range(2):
            assert await revisions(server, region) == [3]
            assert await revisions(server, region, "revisions") == [1, 2, 3]
    finally:
        for sink in sinks:
            await sink.close()


async def test_a_service_that_is_down_from_the_start_is_come_again_until_it_is_up(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as server:
        sink = CosmosSink(settings_of(server.endpoints[0]))
        try:
            for name in REGIONS:
                await server.regions.take_down(name)
            await sink.open()
            outcomes = await sink.deliver([revision(1), revision(2)])
            assert [outcome.kind for outcome in outcomes] == ["retry", "retry"]
            assert "no connection" in outcomes[0].reason
            with pytest.raises(SinkError):
                await sink.read_window("w", "acme")
            with pytest.raises(SinkError):
                await sink.read_subject("acme", None, None)
            for name in REGIONS:
                await server.regions.bring_up(name)
            assert await sink.deliver([revision(1), revision(2)]) == [DELIVERED] * 2
        finally:
            await sink.close()


async def test_a_window_that_is_not_there_is_none(sink: CosmosSink) -> None:
    """Ours only: the third-party server answers a point read of what is not there with 500."""
    await sink.deliver([revision(1)])
    assert await sink.read_window("none", "acme") is None
    assert await sink.read_window(revision(1).window_id, "beta") is None


def test_what_is_no_key_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="this is no key of a Cosmos DB account") as refused:
        CosmosSink(settings_of("https://127.0.0.1:1/", cosmos_key="c2Vjcm*0"))
    assert "c2Vjcm" not in str(refused.value)


async def test_a_wrong_key_is_come_again_and_is_in_no_reason(server: CosmosServer) -> None:
    sink = CosmosSink(settings_of(server.endpoints[0], cosmos_key=OTHER_KEY))
    try:
        [outcome] = await sink.deliver([revision(1)])
        assert outcome.kind == "retry" and "METERLINE_COSMOS_KEY" in outcome.reason
        assert OTHER_KEY not in outcome.reason and OTHER_KEY not in repr(sink)
    finally:
        await sink.close()


async def test_containers_that_exist_need_no_right_to_create_them(server: CosmosServer, sink: CosmosSink) -> None:
    for operation in ("create_database", "create_container", "read_database"):
        server.faults.add(Fault("status", operation=operation, count=None, status=403, substatus=5300))
    limited = CosmosSink(settings_of(server.endpoints[0]))
    try:
        assert await limited.deliver([revision(1)]) == [DELIVERED]
    finally:
        await limited.close()


async def test_a_missing_container_that_may_not_be_created_is_said_with_its_remedy(server: CosmosServer) -> None:
    for operation in ("create_database", "create_container"):
        server.faults.add(Fault("status", operation=operation, count=None, status=403, substatus=5300))
    sink = CosmosSink(settings_of(server.endpoints[0]))
    try:
        [outcome] = await sink.deliver([revision(1)])
        assert outcome.kind == "retry" and "may not create it" in outcome.reason and "/subject" in outcome.reason
        server.faults.clear()
        assert await sink.deliver([revision(1)]) == [DELIVERED]
    finally:
        await sink.close()


async def test_containers_that_vanish_are_created_again(server: CosmosServer, sink: CosmosSink) -> None:
    async with CosmosClient(server.endpoints[0], KEY) as account:
        await account.delete_database("meterline")
    [outcome] = await sink.deliver([revision(1)])
    assert outcome.kind == "retry"
    assert await sink.deliver([revision(1)]) == [DELIVERED]


async def test_a_container_with_another_partition_key_parks_nothing_and_says_so(server: CosmosServer) -> None:
    async with CosmosClient(server.endpoints[0], KEY) as account:
        database = await account.create_database("meterline")
        await database.create_container("windows", PartitionKey("/meter"))
    sink = CosmosSink(settings_of(server.endpoints[0]))
    try:
        [outcome] = await sink.deliver([revision(1)])
        assert outcome.kind == "retry" and "/meter" in outcome.reason and "/subject" in outcome.reason
    finally:
        await sink.close()


async def test_a_container_that_resolves_conflicts_otherwise_is_warned_of(
    server: CosmosServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with CosmosClient(server.endpoints[0], KEY) as account:
        database = await account.create_database("meterline")
        await database.create_container("windows", PartitionKey("/subject"))
    sink = CosmosSink(settings_of(server.endpoints[0]))
    try:
        with caplog.at_level(logging.WARNING, "sinks"):
            assert await sink.deliver([revision(1)]) == [DELIVERED]
        assert "resolves conflicts between regions by /_ts" in caplog.text
    finally:
        await sink.close()


async def test_a_cancelled_delivery_leaves_no_task_behind(server: CosmosServer, sink: CosmosSink) -> None:
    server.faults.add(Fault("timeout_before", count=None))
    before = asyncio.all_tasks()
    delivering = asyncio.ensure_future(sink.deliver([revision(1, window=f"w~{n}") for n in range(5)]))
    while len(asyncio.all_tasks() - before) < 6:
        await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert not [task for task in asyncio.all_tasks() - before if "_window" in repr(task.get_coro())]
