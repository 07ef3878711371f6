"""The Cosmos sink's promises, judged by two servers: ours and @vercel/cosmosdb-server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from azure.core.credentials import AccessToken
from azure.cosmos.aio import CosmosClient

from schemas.errors import ConfigurationError
from schemas.windows import Revision
from settings import Settings
from sinks.contract import DELIVERED, Outcome
from sinks.cosmos import CONCURRENCY, CosmosSink
from tests.local.cosmos_account import KEY, running
from tests.sinks import cosmos_servers
from tests.sinks.cosmos_servers import revision, settings_of, third_party

_names = itertools.count()


@pytest.fixture(scope="session")
def vercel() -> Iterator[str]:
    with third_party() as endpoint:
        yield endpoint


@pytest.fixture(params=["ours", "third party"])
async def settings(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of an account with a database that does not exist yet."""
    name = f"meterline{next(_names)}"
    if request.param == "ours":
        async with running(tmp_path) as server:
            yield settings_of(server.endpoints[0], cosmos_database=name)
    else:
        yield settings_of(request.getfixturevalue("vercel"), cosmos_database=name)


@pytest.fixture
async def sink(settings: Settings) -> AsyncIterator[CosmosSink]:
    sink = CosmosSink(settings)
    await sink.open()
    yield sink
    await sink.close()


async def documents(settings: Settings) -> list[dict[str, Any]]:
    assert settings.cosmos_endpoint
    return await cosmos_servers.items(settings.cosmos_endpoint, "windows", settings.cosmos_database)


async def ledger(settings: Settings) -> list[dict[str, Any]]:
    assert settings.cosmos_endpoint
    return await cosmos_servers.items(settings.cosmos_endpoint, "revisions", settings.cosmos_database)


async def test_a_revision_becomes_the_windows_document_and_a_ledger_item(sink: CosmosSink, settings: Settings) -> None:
    one = revision(1)
    assert await sink.deliver([one]) == [DELIVERED]
    body = orjson.loads(one.body)
    assert await documents(settings) == [body]
    assert await ledger(settings) == [{**body, "id": one.message_id, "window_id": one.window_id}]


async def test_a_resend_is_delivered_and_changes_nothing(sink: CosmosSink, settings: Settings) -> None:
    one = revision(1)
    await sink.deliver([one])
    assert settings.cosmos_endpoint
    async with cosmos_servers.stored(settings.cosmos_endpoint, "windows", settings.cosmos_database) as container:
        before = await container.read_item(one.window_id, one.subject)
        assert await sink.deliver([one]) == [DELIVERED]
        assert (await container.read_item(one.window_id, one.subject))["_etag"] == before["_etag"]
    assert len(await ledger(settings)) == 1


async def test_a_higher_revision_replaces_the_whole_document(sink: CosmosSink, settings: Settings) -> None:
    await sink.deliver([revision(1, gone="with the next")])
    assert await sink.deliver([revision(2)]) == [DELIVERED]
    assert await documents(settings) == [orjson.loads(revision(2).body)]
    assert [item["revision"] for item in await ledger(settings)] == [1, 2]


async def test_a_lower_revision_is_delivered_into_the_ledger_and_leaves_the_document(
    sink: CosmosSink, settings: Settings
) -> None:
    await sink.deliver([revision(3)])
    assert await sink.deliver([revision(2)]) == [DELIVERED]
    assert [item["revision"] for item in await documents(settings)] == [3]
    assert [item["revision"] for item in await ledger(settings)] == [2, 3]


async def test_many_windows_and_revisions_of_one_batch_all_arrive(sink: CosmosSink, settings: Settings) -> None:
    batch = [revision(n, window=f"calls~PT1H~x~{w}", subject=f"s{w % 3}") for n in (1, 2, 3) for w in range(12)]
    assert await sink.deliver(batch) == [DELIVERED] * 36
    assert [item["revision"] for item in await documents(settings)] == [3] * 12
    assert len(await ledger(settings)) == 36


async def test_the_same_window_written_by_many_at_once_ends_at_its_highest_revision(settings: Settings) -> None:
    sinks = [CosmosSink(settings) for _ in range(4)]
    await sinks[0].deliver([revision(1)])
    try:
        waiting = [(sinks[n % 4], revision(n)) for n in range(2, 18)]
        while waiting:
            outcomes = await asyncio.gather(*(sink.deliver([one]) for sink, one in waiting))
            waiting = [again for again, (outcome,) in zip(waiting, outcomes, strict=True) if outcome != DELIVERED]
        assert [item["revision"] for item in await documents(settings)] == [17]
        assert len(await ledger(settings)) == 17
    finally:
        for sink in sinks:
            await sink.close()


async def test_another_content_under_the_same_id_is_refused_and_the_document_stays(
    sink: CosmosSink, settings: Settings
) -> None:
    await sink.deliver([revision(1)])
    [outcome] = await sink.deliver([revision(1, value="999")])
    assert outcome.kind == "refused" and "another content" in outcome.reason
    assert [item["value"] for item in await documents(settings)] == [orjson.loads(revision(1).body)["value"]]


async def test_after_a_crash_between_ledger_and_document_the_resend_writes_the_document(
    sink: CosmosSink, settings: Settings
) -> None:
    await sink.deliver([revision(1)])
    assert settings.cosmos_endpoint
    async with cosmos_servers.stored(settings.cosmos_endpoint, "windows", settings.cosmos_database) as container:
        await container.delete_item(revision(1).window_id, "acme")
    assert await sink.deliver([revision(1)]) == [DELIVERED]
    assert [item["revision"] for item in await documents(settings)] == [1]


@pytest.mark.parametrize(
    "broken",
    [
        Revision("w", 1, "acme", b"not json"),
        Revision("w", 1, "acme", b"[]"),
        Revision("w", 1, "acme", orjson.dumps({"id": "other", "subject": "acme", "revision": 1})),
        Revision("w", 1, "acme", orjson.dumps({"id": "w", "subject": "beta", "revision": 1})),
        Revision("w", 1, "acme", orjson.dumps({"id": "w", "subject": "acme", "revision": 2})),
    ],
)
async def test_what_is_no_document_is_refused_and_holds_nobody_up(sink: CosmosSink, broken: Revision) -> None:
    outcomes = await sink.deliver([broken, revision(1)])
    assert [outcome.kind for outcome in outcomes] == ["refused", "delivered"]


async def test_the_containers_are_created_as_the_design_says(sink: CosmosSink, settings: Settings) -> None:
    await sink.deliver([revision(1)])
    assert settings.cosmos_endpoint
    for name, indexed in (
        ("windows", ["/subject/?", "/meter/?", "/window_start/?", "/window_size/?"]),
        ("revisions", ["/subject/?", "/window_id/?"]),
    ):
        async with cosmos_servers.stored(settings.cosmos_endpoint, name, settings.cosmos_database) as container:
            found = await container.read()
            assert found["partitionKey"]["paths"] == ["/subject"]
            assert found["conflictResolutionPolicy"]["mode"] == "LastWriterWins"
            assert found["conflictResolutionPolicy"]["conflictResolutionPath"] == "/revision"
            assert [path["path"] for path in found["indexingPolicy"]["includedPaths"]] == indexed
            assert {"path": "/*"} in found["indexingPolicy"]["excludedPaths"]


async def test_a_window_is_read_with_and_without_its_subject(sink: CosmosSink) -> None:
    one = revision(1)
    await sink.deliver([one])
    body = orjson.loads(one.body)
    assert await sink.read_window(one.window_id, "acme") == body
    assert await sink.read_window(one.window_id, None) == body
    assert await sink.read_window("none", None) is None


async def test_a_subjects_windows_are_read_in_order_filtered_and_page_by_page(sink: CosmosSink) -> None:
    batch = [revision(1, window=f"{meter}~PT1H~{n}") for meter in ("bytes", "calls") for n in range(3)]
    batch += [revision(1, window="calls~P1D~0", window_size="P1D"), revision(1, window="calls~PT1H~9", subject="beta")]
    await sink.deliver(batch)

    async def ids(*filters: str | None, **more: Any) -> list[str]:
        return [document["id"] for document in await sink.read_subject("acme", *filters, **more)]

    hourly = [f"{meter}~PT1H~{n}" for meter in ("bytes", "calls") for n in range(3)]
    assert await ids(None, None) == sorted([*hourly, "calls~P1D~0"])
    assert await ids("calls", None) == ["calls~P1D~0", *hourly[3:]]
    assert await ids("calls", "PT1H") == hourly[3:]
    assert await ids(None, None, limit=3) == hourly[:3]
    assert await ids(None, None, after="bytes~PT1H~1", limit=2) == ["bytes~PT1H~2", "calls~P1D~0"]
    assert await sink.read_subject("nobody", None, None) == []
    assert await sink.read_subject("acme", None, None, limit=0) == []
    [document] = await sink.read_subject("beta", None, None)
    assert document == orjson.loads(revision(1, window="calls~PT1H~9", subject="beta").body)


async def test_no_more_windows_than_agreed_are_written_at_once(settings: Settings) -> None:
    busy, most = 0, 0

    class Watched(CosmosSink):
        async def _one(self, *arguments: Any) -> Any:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            try:
                return await super()._one(*arguments)
            finally:
                busy -= 1

    sink = Watched(settings)
    try:
        batch = [revision(1, window=f"calls~PT1H~{n}") for n in range(40)]
        outcomes = await asyncio.gather(sink.deliver(batch[:20]), sink.deliver(batch[20:]))
        assert sum(outcomes, []) == [DELIVERED] * 40  # noqa: RUF017 - two lists
        assert most == CONCURRENCY
    finally:
        await sink.close()


async def test_a_sink_can_be_closed_twice_and_used_again(sink: CosmosSink) -> None:
    await sink.close()
    assert await sink.deliver([revision(1)]) == [DELIVERED]
    await sink.close()
    await sink.close()
    assert await sink.deliver([revision(1)]) == [DELIVERED]


async def test_nothing_to_deliver_is_no_request(settings: Settings) -> None:
    assert await CosmosSink(settings).deliver([]) == []


def test_without_an_endpoint_there_is_no_sink() -> None:
    with pytest.raises(ConfigurationError, match="METERLINE_COSMOS_ENDPOINT"):
        CosmosSink(Settings())


async def test_without_a_key_it_speaks_as_its_entra_identity(vercel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third-party server takes any identity; what counts is that the SDK is given one, over TLS, and closes it."""
    asked: list[str] = []

    class Identity:
        async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            asked.extend(scopes)
            return AccessToken("a-token", 2**33)

        async def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", Identity)
    sink = CosmosSink(settings_of(vercel, cosmos_key=None, cosmos_database="entra"))
    assert await sink.deliver([revision(1)]) == [DELIVERED]
    await sink.close()
    assert asked and asked[-1] == "closed"
    async with CosmosClient(vercel, KEY) as account:
        container = account.get_database_client("entra").get_container_client("windows")
        assert [item["revision"] async for item in container.read_all_items()] == [1]


async def test_what_somebody_else_put_there_is_refused_and_holds_nobody_up(
    sink: CosmosSink, settings: Settings
) -> None:
    assert settings.cosmos_endpoint
    await sink.deliver([revision(1, window="first")])
    async with cosmos_servers.stored(settings.cosmos_endpoint, "windows", settings.cosmos_database) as container:
        await container.create_item({"id": revision(1, window="odd").window_id, "subject": "acme", "note": "not ours"})
    odd, fine = await sink.deliver([revision(1, window="odd"), revision(1, window="fine")])
    assert odd.kind == "refused" and "the container holds something else" in odd.reason
    assert fine == DELIVERED


async def test_a_defect_at_one_window_keeps_no_other_from_being_delivered(
    sink: CosmosSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish = CosmosSink._publish

    async def defect(self: CosmosSink, documents: Any, one: Revision, document: dict[str, Any]) -> Outcome:
        if one.window_id == revision(1, window="odd").window_id:
            raise KeyError("a defect")
        return await publish(self, documents, one, document)

    monkeypatch.setattr(CosmosSink, "_publish", defect)
    odd, fine = await sink.deliver([revision(1, window="odd"), revision(1, window="fine")])
    assert (odd.kind, odd.reason) == ("retry", "KeyError in the sink") and fine == DELIVERED
    assert "cannot be written" in caplog.text and "Traceback" in caplog.text
