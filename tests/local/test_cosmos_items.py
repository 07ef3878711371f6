"""Items through the real SDK: what is stored comes back, and what is wrong is refused as Azure refuses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from tests.local.cosmos_account import client, request, running, windows

ITEM = {"id": "w1", "subject": "acme", "revision": 1, "value": "12.345678901234567890"}


@pytest.fixture
async def container(tmp_path: Path) -> AsyncIterator[ContainerProxy]:
    async with running(tmp_path) as server, client(server) as account:
        yield await windows(account)


async def refusal(call: Any) -> CosmosHttpResponseError:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await call
    return caught.value


async def test_an_item_comes_back_as_it_was_written_with_its_system_properties(container: ContainerProxy) -> None:
    created = await container.create_item(ITEM)
    read = await container.read_item("w1", "acme")
    assert dict(read) == dict(created)
    assert {name: read[name] for name in ITEM} == ITEM
    assert set(read) - set(ITEM) == {"_rid", "_self", "_etag", "_attachments", "_ts"}


async def test_a_second_create_of_an_id_is_a_conflict_within_its_partition_key_only(container: ContainerProxy) -> None:
    await container.create_item(ITEM)
    with pytest.raises(CosmosResourceExistsError) as taken:
        await container.create_item(ITEM | {"revision": 2})
    assert taken.value.status_code == 409 and "already exists" in taken.value.message
    await container.create_item(ITEM | {"subject": "beta"})
    assert (await container.read_item("w1", "acme"))["revision"] == 1


async def test_upsert_creates_and_then_overwrites(container: ContainerProxy) -> None:
    created = await container.upsert_item(ITEM)
    replaced = await container.upsert_item({"id": "w1", "subject": "acme", "revision": 2})
    assert replaced["_rid"] == created["_rid"] and replaced["_etag"] != created["_etag"]
    assert "value" not in await container.read_item("w1", "acme")


async def test_reading_what_is_not_there_is_a_404(container: ContainerProxy) -> None:
    await container.create_item(ITEM)
    with pytest.raises(CosmosResourceNotFoundError) as missing:
        await container.read_item("w1", "beta")
    assert "Entity with the specified id does not exist in the system." in missing.value.message
    for call in (container.replace_item("none", ITEM | {"id": "none"}), container.delete_item("none", "acme")):
        assert (await refusal(call)).status_code == 404


async def test_replace_if_match_succeeds_once_and_then_is_a_412(container: ContainerProxy) -> None:
    first = await container.create_item(ITEM)
    given = {"etag": first["_etag"], "match_condition": MatchConditions.IfNotModified}
    await container.replace_item("w1", ITEM | {"revision": 2}, **given)
    with pytest.raises(CosmosAccessConditionFailedError) as failed:
        await container.replace_item("w1", ITEM | {"revision": 3}, **given)
    assert failed.value.status_code == 412
    assert (await container.read_item("w1", "acme"))["revision"] == 2
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.delete_item("w1", "acme", **given)


async def test_a_read_with_the_etag_one_has_is_a_304(container: ContainerProxy) -> None:
    first = await container.create_item(ITEM)
    headers: dict[str, str] = {}

    def hook(got: Any, _: Any) -> None:
        headers.update({name.lower(): value for name, value in got.items()})

    body = await container.read_item(
        "w1",
        "acme",
        etag=first["_etag"],
        match_condition=MatchConditions.IfModified,
        response_hook=hook,
    )
    assert not body and headers["etag"] == first["_etag"]


async def test_upsert_if_missing_does_not_overwrite(container: ContainerProxy) -> None:
    await container.upsert_item(ITEM, match_condition=MatchConditions.IfMissing)
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.upsert_item(ITEM | {"revision": 9}, match_condition=MatchConditions.IfMissing)


async def test_a_deleted_item_is_gone_and_its_id_is_free(container: ContainerProxy) -> None:
    first = await container.create_item(ITEM)
    await container.delete_item("w1", "acme")
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read_item("w1", "acme")
    assert (await container.create_item(ITEM))["_rid"] != first["_rid"]


async def test_patch_applies_its_operations_in_order(container: ContainerProxy) -> None:
    await container.create_item(ITEM | {"tags": ["a"], "n": 1})
    patched = await container.patch_item(
        "w1",
        "acme",
        [
            {"op": "incr", "path": "/n", "value": 4},
            {"op": "add", "path": "/tags/0", "value": "z"},
            {"op": "add", "path": "/tags/-", "value": "b"},
            {"op": "set", "path": "/new", "value": {"x": 1}},
            {"op": "replace", "path": "/revision", "value": 2},
            {"op": "move", "from": "/new", "path": "/moved"},
            {"op": "remove", "path": "/value"},
        ],
    )
    assert (patched["n"], patched["tags"], patched["revision"], patched["moved"]) == (5, ["z", "a", "b"], 2, {"x": 1})
    assert "value" not in patched and "new" not in patched


async def test_a_patch_is_applied_only_where_its_filter_predicate_is_true(container: ContainerProxy) -> None:
    await container.create_item(ITEM)
    change = [{"op": "set", "path": "/revision", "value": 2}]
    await container.patch_item("w1", "acme", change, filter_predicate="FROM c WHERE c.revision < 2")
    with pytest.raises(CosmosAccessConditionFailedError):
        await container.patch_item("w1", "acme", change, filter_predicate="FROM c WHERE c.revision < 2")


@pytest.mark.parametrize(
    "change",
    [
        [{"op": "set", "path": "/id", "value": "x"}],
        [{"op": "set", "path": "/subject", "value": "x"}],
        [{"op": "remove", "path": "/none"}],
        [{"op": "replace", "path": "/none", "value": 1}],
        [{"op": "incr", "path": "/value", "value": 1}],
        [{"op": "set", "path": "/a/b", "value": 1}],
        [{"op": "twist", "path": "/a", "value": 1}],
        [{"op": "set", "path": "/a", "value": 1}] * 11,
        [],
    ],
)
async def test_a_patch_that_does_not_apply_is_a_400_and_changes_nothing(container: ContainerProxy, change: Any) -> None:
    before = await container.create_item(ITEM)
    assert (await refusal(container.patch_item("w1", "acme", change))).status_code == 400
    assert await container.read_item("w1", "acme") == before


@pytest.mark.parametrize("identifier", ["a/b", "a\\b", "a?b", "a#b", "", "ends ", "x" * 1024, 5, None])
async def test_an_id_that_cosmos_forbids_is_a_400(container: ContainerProxy, identifier: Any) -> None:
    try:
        await container.create_item(ITEM | {"id": identifier})
    except CosmosHttpResponseError as error:
        assert error.status_code == 400
    except (ValueError, TypeError):
        pass  # the SDK itself refuses some
    else:
        pytest.fail("it was taken")


async def test_an_id_of_exactly_the_longest_length_is_taken(container: ContainerProxy) -> None:
    identifier = "calls~PT1H~20260101T000000Z~" + "x" * (1023 - 28)
    await container.create_item(ITEM | {"id": identifier})
    assert (await container.read_item(identifier, "acme"))["revision"] == 1


@pytest.mark.parametrize(
    "identifier", ["50% off", "ü~ä", "a b", "a+b", "a&b=c", "a:1", "%41", "per%cent", "'quote'", '"']
)
async def test_ids_with_characters_that_urls_escape_are_found_again(container: ContainerProxy, identifier: str) -> None:
    await container.create_item(ITEM | {"id": identifier})
    assert (await container.read_item(identifier, "acme"))["id"] == identifier
    await container.delete_item(identifier, "acme")


async def test_an_item_above_two_megabytes_is_a_413_and_one_below_is_taken(container: ContainerProxy) -> None:
    assert (await refusal(container.create_item(ITEM | {"value": "x" * 2 * 1024 * 1024}))).status_code == 413
    await container.create_item(ITEM | {"value": "ü" * (1024 * 1024 - 200)})


async def test_a_partition_key_that_is_missing_malformed_or_not_the_documents_is_a_400(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        await windows(account)
        path = "/dbs/meterline/colls/windows/docs"
        for text, said in (
            (None, "must be supplied"),
            ('["other"]', "doesn't match"),
            ("acme", "is invalid"),
            ('[["acme"]]', "is invalid"),
        ):
            headers = {"x-ms-documentdb-partitionkey": text} if text is not None else {}
            status, body = await request(server.endpoints[0], "POST", path, ITEM, headers=headers)
            assert status == 400 and body["code"] == "BadRequest" and said in body["message"]
        for text in (None, '["acme","calls"]'):
            headers = {"x-ms-documentdb-partitionkey": text} if text is not None else {}
            status, body = await request(server.endpoints[0], "GET", f"{path}/w1", headers=headers)
            assert status == 400


@pytest.mark.parametrize("body", [[ITEM], "text", 5, {"subject": "acme"}])
async def test_a_body_that_is_no_item_is_a_400(tmp_path: Path, body: Any) -> None:
    async with running(tmp_path) as server, client(server) as account:
        await windows(account)
        headers = {"x-ms-documentdb-partitionkey": '["acme"]'}
        status, said = await request(
            server.endpoints[0], "POST", "/dbs/meterline/colls/windows/docs", body, headers=headers
        )
        assert status == 400 and "content is invalid" in said["message"]


async def test_a_batch_for_another_key_than_its_items_is_a_400(container: ContainerProxy) -> None:
    with pytest.raises(CosmosBatchOperationError) as failed:
        await container.execute_item_batch([("create", (ITEM,))], "other")
    assert failed.value.status_code == 400


async def test_items_without_the_partition_key_have_one_of_their_own(container: ContainerProxy) -> None:
    from azure.cosmos.partition_key import NonePartitionKeyValue

    await container.create_item({"id": "w1", "revision": 1})
    assert (await container.read_item("w1", NonePartitionKeyValue))["revision"] == 1


async def test_integers_beyond_two_to_the_53_come_back_as_doubles_hold_them(container: ContainerProxy) -> None:
    created = await container.create_item(ITEM | {"n": 2**53 + 1, "exact": 2**53, "deep": [{"n": -(2**60) - 1}]})
    assert created["n"] == 2**53 and created["exact"] == 2**53 and created["deep"] == [{"n": -(2**60)}]


async def test_a_batch_happens_as_a_whole(container: ContainerProxy) -> None:
    results = await container.execute_item_batch(
        [
            ("create", (ITEM,)),
            ("upsert", (ITEM | {"id": "w2"},)),
            ("replace", ("w2", ITEM | {"id": "w2", "revision": 2})),
            ("patch", ("w1", [{"op": "set", "path": "/revision", "value": 7}])),
            ("read", ("w1",)),
            ("delete", ("w2",)),
        ],
        "acme",
    )
    assert [result["statusCode"] for result in results] == [201, 201, 200, 200, 200, 204]
    assert results[4]["resourceBody"]["revision"] == 7


async def test_a_batch_with_one_refused_operation_changes_nothing(container: ContainerProxy) -> None:
    await container.create_item(ITEM)
    with pytest.raises(CosmosBatchOperationError) as failed:
        await container.execute_item_batch(
            [("create", (ITEM | {"id": "w2"},)), ("create", (ITEM,)), ("read", ("w2",))], "acme"
        )
    assert failed.value.error_index == 1 and failed.value.status_code == 409
    assert [result["statusCode"] for result in failed.value.operation_responses] == [424, 409, 424]
    with pytest.raises(CosmosResourceNotFoundError):
        await container.read_item("w2", "acme")


async def test_a_batch_has_at_most_100_operations(container: ContainerProxy) -> None:
    many = [("upsert", (ITEM | {"id": str(n)},)) for n in range(101)]
    assert (await refusal(container.execute_item_batch(many, "acme"))).status_code == 400
    assert len(await container.execute_item_batch(many[:100], "acme")) == 100


async def test_a_write_that_wants_no_answer_body_gets_none(container: ContainerProxy) -> None:
    assert not await container.create_item(ITEM, no_response=True)
    assert (await container.read_item("w1", "acme"))["revision"] == 1


async def test_every_answer_says_what_it_cost(container: ContainerProxy) -> None:
    costs: list[float] = []

    def hook(headers: Any, _: Any) -> None:
        costs.append(float(headers["x-ms-request-charge"]))

    await container.create_item(ITEM, response_hook=hook)
    await container.read_item("w1", "acme", response_hook=hook)
    await container.replace_item("w1", ITEM, response_hook=hook)
    created, read, replaced = costs
    assert read == 1.0 and 4.95 <= created < 7 and replaced > 1.8 * created


async def test_unique_keys_hold_within_a_partition_key(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        policy = {"uniqueKeys": [{"paths": ["/meter"]}]}
        container = await windows(account, unique_key_policy=policy)
        await container.create_item(ITEM | {"meter": "calls"})
        assert (await refusal(container.create_item(ITEM | {"id": "w2", "meter": "calls"}))).status_code == 409
        await container.create_item(ITEM | {"id": "w2", "meter": "calls", "subject": "beta"})
        await container.upsert_item(ITEM | {"meter": "calls", "revision": 2})


async def test_hierarchical_keys_address_items_and_their_prefix_finds_them(tmp_path: Path) -> None:
    async with running(tmp_path) as server, client(server) as account:
        container = await windows(account, ["/subject", "/meter"])
        for subject in ("acme", "beta"):
            for meter in ("calls", "bytes"):
                await container.create_item({"id": "w1", "subject": subject, "meter": meter})
        assert (await container.read_item("w1", ["acme", "bytes"]))["meter"] == "bytes"
        found = container.query_items("SELECT VALUE c.meter FROM c", partition_key=["acme"])
        assert sorted([meter async for meter in found]) == ["bytes", "calls"]
