"""The simulator's Cosmos DB keeps the service's promises in two regions, also while one of them is down."""

from __future__ import annotations

import asyncio
import random

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ServiceRequestError
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from simulation.cosmos_client import service
from tests.local.cosmos_account import REGIONS
from tests.simulation.sink_world import FIRST, SECOND, Script, account, item, opened, tell


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
