"""Queries through the real SDK: one partition, several, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from local.cosmos import keys
from tests.local.cosmos_account import client, running, windows

COUNT = 30


@pytest.fixture
async def container(tmp_path: Path) -> AsyncIterator[ContainerProxy]:
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account)
        for n in range(COUNT):
            await container.create_item(
                {"id": f"w{n:02}", "subject": f"s{n % 6}", "meter": "calls" if n % 2 else "bytes", "revision": n}
            )
        yield container


async def results(container: ContainerProxy, query: str, **settings: Any) -> list[Any]:
    return [item async for item in container.query_items(query, **settings)]


def test_the_subjects_of_these_tests_lie_in_both_physical_partitions() -> None:
    assert {keys.range_of(keys.epk([f"s{n}"], False)) for n in range(6)} == {"0", "1"}


async def test_a_query_of_one_partition_key_sees_that_one_only(container: ContainerProxy) -> None:
    found = await results(container, "SELECT * FROM c", partition_key="s1")
    assert sorted(item["id"] for item in found) == ["w01", "w07", "w13", "w19", "w25"]
    assert await results(container, "SELECT VALUE COUNT(1) FROM c", partition_key="s1") == [5]
    assert await results(container, "SELECT VALUE c.id FROM c ORDER BY c.revision DESC", partition_key="s1") == [
        "w25", "w19", "w13", "w07", "w01",
    ]  # fmt: skip


async def test_parameters_reach_the_condition(container: ContainerProxy) -> None:
    found = await results(
        container,
        "SELECT c.id FROM c WHERE c.meter = @meter AND c.revision >= @least",
        parameters=[{"name": "@meter", "value": "calls"}, {"name": "@least", "value": 25}],
    )
    assert sorted(item["id"] for item in found) == ["w25", "w27", "w29"]


async def test_a_query_over_all_partitions_finds_everything_once(container: ContainerProxy) -> None:
    found = await results(container, "SELECT VALUE c.id FROM c")
    assert sorted(found) == [f"w{n:02}" for n in range(COUNT)]


async def test_order_by_is_merged_over_the_partitions(container: ContainerProxy) -> None:
    found = await results(container, "SELECT VALUE c.id FROM c ORDER BY c.revision DESC", max_item_count=4)
    assert found == [f"w{n:02}" for n in reversed(range(COUNT))]
    found = await results(container, "SELECT c.meter, c.id FROM c ORDER BY c.meter, c.revision DESC")
    assert [item["id"] for item in found] == [
        *(f"w{n:02}" for n in reversed(range(0, COUNT, 2))),
        *(f"w{n:02}" for n in reversed(range(1, COUNT, 2))),
    ]


async def test_aggregates_are_merged_over_the_partitions(container: ContainerProxy) -> None:
    assert await results(container, "SELECT VALUE COUNT(1) FROM c") == [COUNT]
    assert await results(container, "SELECT VALUE SUM(c.revision) FROM c WHERE c.meter = 'calls'") == [225]
    assert await results(container, "SELECT VALUE MAX(c.revision) FROM c") == [COUNT - 1]
    assert await results(container, "SELECT VALUE MIN(c.revision) FROM c") == [0]
    assert await results(container, "SELECT VALUE AVG(c.revision) FROM c") == [14.5]


async def test_offset_limit_top_and_distinct_are_merged_over_the_partitions(container: ContainerProxy) -> None:
    ordered = "SELECT VALUE c.id FROM c ORDER BY c.revision"
    assert await results(container, f"{ordered} OFFSET 10 LIMIT 3") == ["w10", "w11", "w12"]
    assert await results(container, "SELECT TOP 2 VALUE c.id FROM c ORDER BY c.revision") == ["w00", "w01"]
    assert len(await results(container, "SELECT TOP 7 * FROM c")) == 7
    assert sorted(await results(container, "SELECT DISTINCT VALUE c.subject FROM c")) == [f"s{n}" for n in range(6)]


async def test_pages_are_as_long_as_asked_and_go_on_where_they_ended(container: ContainerProxy) -> None:
    pages = []
    token = None
    while True:
        pager = container.query_items("SELECT VALUE c.id FROM c", max_item_count=8).by_page(token)
        page = [item async for item in await pager.__anext__()]
        pages.append(page)
        token = pager.continuation_token
        if token is None:
            break
    assert [len(page) for page in pages] == [8, 8, 8, 6]
    assert sorted(chain(*pages)) == [f"w{n:02}" for n in range(COUNT)]


async def test_a_page_of_a_query_holds_no_more_than_four_megabytes(container: ContainerProxy) -> None:
    for n in range(5):
        await container.create_item({"id": f"big{n}", "subject": "big", "value": "x" * 1_500_000})
    pages = [
        [item["id"] async for item in page]
        async for page in container.query_items("SELECT * FROM c", partition_key="big").by_page()
    ]
    assert [len(page) for page in pages] == [3, 2]


async def test_items_written_between_pages_are_neither_lost_nor_shown_twice(container: ContainerProxy) -> None:
    pager = container.query_items("SELECT * FROM c", max_item_count=20).by_page()
    first = [item["id"] async for item in await pager.__anext__()]
    await container.upsert_item({"id": "w00", "subject": "s0", "revision": 99})
    await container.create_item({"id": "new", "subject": "s0"})
    rest = [item["id"] async for item in await pager.__anext__()]
    assert sorted(first + rest) == sorted([f"w{n:02}" for n in range(COUNT)] + ["new"])


async def test_a_continuation_that_is_not_ours_is_a_400(container: ContainerProxy) -> None:
    pager = container.query_items("SELECT * FROM c", partition_key="s1").by_page("nonsense")
    with pytest.raises(CosmosHttpResponseError) as refused:
        await pager.__anext__()
    assert refused.value.status_code == 400


async def test_read_feed_gives_every_item_once(container: ContainerProxy) -> None:
    found = [item["id"] async for item in container.read_all_items(max_item_count=7)]
    assert sorted(found) == [f"w{n:02}" for n in range(COUNT)]


async def test_a_syntax_error_is_a_400_that_quotes_it(container: ContainerProxy) -> None:
    with pytest.raises(CosmosHttpResponseError) as refused:
        await results(container, "SELECT * FORM c")
    assert refused.value.status_code == 400 and "SC1001" in refused.value.message and "FORM" in refused.value.message


async def test_an_aggregate_that_is_not_a_value_across_partitions_is_refused_as_the_sdk_does(
    container: ContainerProxy,
) -> None:
    with pytest.raises(CosmosHttpResponseError):
        await results(container, "SELECT COUNT(1) AS n FROM c")
    assert await results(container, "SELECT COUNT(1) AS n FROM c", partition_key="s1") == [{"n": 5}]


async def test_feed_ranges_divide_the_container(container: ContainerProxy) -> None:
    ranges = [feed_range async for feed_range in container.read_feed_ranges()]
    assert len(ranges) == 2
    parts = [await results(container, "SELECT VALUE c.id FROM c", feed_range=one) for one in ranges]
    assert all(parts) and sorted(chain(*parts)) == [f"w{n:02}" for n in range(COUNT)]


async def test_many_items_are_read_at_once(container: ContainerProxy) -> None:
    wanted = [(f"w{n:02}", f"s{n % 6}") for n in (3, 4, 5, 17)] + [("none", "s1")]
    found = await container.read_items(wanted)
    assert sorted(item["id"] for item in found) == ["w03", "w04", "w05", "w17"]
