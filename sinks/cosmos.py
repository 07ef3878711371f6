"""The Cosmos DB sink: the highest revision of every window as a document, and every revision in a ledger (design §2.7).

For each revision, in this order:

1. *Ledger*: create the item `window_id:revision`. It is there already: the same content is a resend, another content is
   refused as an alarm, and the document is not touched.
2. *Document*: create the item `window_id`. It is there already: read it; a stored revision as high as ours is done, a
   lower one is replaced as a whole, If-Match its etag. 412: someone else wrote it, read again.

A crash between the two is healed by the resend. Each step may happen twice, or in both regions, and leaves the same:
the SDK itself resends a write up to eight times (azure.md §4.4). Never a patch: concurrent ones in two regions would be
merged path by path, and could mix two revisions.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from schemas.errors import ConfigurationError, SinkError
from schemas.windows import Revision
from settings import Settings
from sinks.contract import DELIVERED, Outcome, refused, retry
from sinks.cosmos_account import OPERATION_TIMEOUT_S, CosmosAccount
from sinks.cosmos_errors import is_of_the_account, outcome_of

log = logging.getLogger("meterline.sinks")

DELIVER_TIMEOUT_S = 60.0
"""How long one batch may take, whatever the service does."""

CONCURRENCY = 16
"""Windows written at the same time, over all batches."""

TURNS_MAX = 5
"""How often a document is read again because someone else wrote it, before the revision is told to come again."""

_FAILURES = (AzureError, OSError, TimeoutError, ValueError)


class CosmosSink:
    """Writes revisions to two containers. See `sinks.contract.Sink` and `WindowReader` for the promises.

    preferred_regions: where to write and read first, nearest first; empty for the account's own order. client: makes
    clients in place of the SDK's `CosmosClient`, as that class does; for a simulated world.
    """

    name = "cosmos"
    batch_max = 100

    def __init__(
        self,
        settings: Settings,
        preferred_regions: Sequence[str] = (),
        client: Callable[..., CosmosClient] | None = None,
    ) -> None:
        if settings.cosmos_key:
            _check_key(settings.cosmos_key)
        self._account = CosmosAccount(settings, preferred_regions, client)
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def open(self) -> None:
        """Nothing to do: the first delivery connects."""

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        """Windows side by side, the revisions of one in order; the first that has to come again holds back its later ones."""
        outcomes: list[Outcome | None] = [None] * len(revisions)
        windows: dict[str, list[int]] = {}
        for index, revision in enumerate(revisions):
            windows.setdefault(revision.window_id, []).append(index)
        batch = _Batch(revisions, outcomes)
        tasks = [asyncio.ensure_future(self._window(batch, indexes)) for indexes in windows.values()]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=DELIVER_TIMEOUT_S)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for indexes, result in zip(windows.values(), results, strict=True):
            if isinstance(result, Exception):  # a defect of ours: the other windows have nothing of it
                log.error("%s cannot be written", revisions[indexes[0]].window_id, exc_info=result)
                for index in indexes:
                    outcomes[index] = outcomes[index] or retry(f"{type(result).__name__} in the sink")
        late = retry(f"Cosmos DB took longer than {DELIVER_TIMEOUT_S:.0f} s for the batch")
        return [outcome or late for outcome in outcomes]

    async def read_window(self, window_id: str, subject: str | None) -> dict[str, Any] | None:
        """The document of a window, or None; see `WindowReader`."""
        try:
            documents, _ = await self._account.containers()
            if subject is not None:
                item = await documents.read_item(window_id, subject, timeout=OPERATION_TIMEOUT_S)
                return _without_system(item)
            query = "SELECT * FROM c WHERE c.id = @id"
            async for item in documents.query_items(query, parameters=[{"name": "@id", "value": window_id}]):
                return _without_system(item)
        except CosmosResourceNotFoundError:
            return None
        except _FAILURES as error:
            raise SinkError(outcome_of(error).reason) from None
        return None

    async def read_subject(
        self, subject: str, meter: str | None, window_size: str | None, *, after: str | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Documents of one subject in the order of `id`; see `WindowReader`."""
        wanted = {"subject": subject, "meter": meter, "window_size": window_size}
        given = {name: value for name, value in wanted.items() if value is not None}
        conditions = [f"c.{name} = @{name}" for name in given]
        if after is not None:
            given["after"] = after
            conditions.append("c.id > @after")
        query = f"SELECT * FROM c WHERE {' AND '.join(conditions)} ORDER BY c.id"  # noqa: S608 - names of ours only
        parameters: list[dict[str, object]] = [{"name": f"@{name}", "value": value} for name, value in given.items()]
        found: list[dict[str, Any]] = []
        if limit <= 0:
            return found
        try:
            documents, _ = await self._account.containers()
            items = documents.query_items(
                query, parameters=parameters, partition_key=subject, max_item_count=limit, timeout=OPERATION_TIMEOUT_S
            )
            async for item in items:
                found.append(_without_system(item))
                if len(found) >= limit:
                    break
        except _FAILURES as error:
            raise SinkError(outcome_of(error).reason) from None
        return found

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""
        await self._account.close()

    # -- delivering

    async def _window(self, batch: _Batch, indexes: list[int]) -> None:
        """The revisions of one window, in order."""
        async with self._slots:
            for index in indexes:
                outcome = batch.halted or await self._one(batch, batch.revisions[index])
                batch.outcomes[index] = outcome
                if outcome.kind == "retry":
                    for later in indexes[indexes.index(index) + 1 :]:
                        batch.outcomes[later] = outcome
                    return

    async def _one(self, batch: _Batch, revision: Revision) -> Outcome:
        try:
            document = _document(revision)
        except ValueError as error:
            return refused(f"it is not a window's document: {error}")
        try:
            documents, ledger = await self._account.containers()
        except SinkError as error:
            batch.halted = retry(str(error))
            return batch.halted
        except _FAILURES as error:
            outcome = outcome_of(error)
            batch.halted = outcome if outcome.kind == "retry" else retry(outcome.reason)
            return batch.halted
        try:
            refusal = await self._record(ledger, revision, document)
            return refusal or await self._publish(documents, revision, document)
        except CosmosResourceNotFoundError as error:
            self._account.look_again()
            return outcome_of(error)
        except _FAILURES as error:
            outcome = outcome_of(error)
            if is_of_the_account(error):
                # The others would wait for the same silence, one timeout after the other.
                batch.halted = outcome
            return outcome

    async def _record(self, ledger: ContainerProxy, revision: Revision, document: dict[str, Any]) -> Outcome | None:
        """Step 1: the ledger item. None when it is there with our content."""
        item = {**document, "id": revision.message_id, "window_id": revision.window_id}
        try:
            await ledger.create_item(item, timeout=OPERATION_TIMEOUT_S)
        except CosmosResourceExistsError:
            stored = await ledger.read_item(revision.message_id, revision.subject, timeout=OPERATION_TIMEOUT_S)
            if _comparable(_without_system(stored)) != _comparable(item):
                return refused(
                    f"the ledger holds another content under {revision.message_id}: the revision was made twice, differently"
                )
        return None

    async def _publish(self, documents: ContainerProxy, revision: Revision, document: dict[str, Any]) -> Outcome:
        """Step 2: the window's document."""
        for _ in range(TURNS_MAX):
            try:
                await documents.create_item(document, timeout=OPERATION_TIMEOUT_S)
                return DELIVERED
            except CosmosResourceExistsError:
                pass
            try:
                stored = await documents.read_item(revision.window_id, revision.subject, timeout=OPERATION_TIMEOUT_S)
                held = stored.get("revision")
                if not isinstance(held, int):
                    return refused(f"the container holds something else under {revision.window_id}: it has no revision")
                if held >= revision.revision:
                    return DELIVERED
                await documents.replace_item(
                    revision.window_id,
                    document,
                    etag=stored["_etag"],
                    match_condition=MatchConditions.IfNotModified,
                    timeout=OPERATION_TIMEOUT_S,
                )
                return DELIVERED
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                continue  # written, or deleted, by someone else in between
        return retry(f"the document was changed by others {TURNS_MAX} times in a row")


class _Batch:
    """One call of `deliver`. halted: what every revision not yet begun gets, once the account itself fails."""

    def __init__(self, revisions: Sequence[Revision], outcomes: list[Outcome | None]) -> None:
        self.revisions = revisions
        self.outcomes = outcomes
        self.halted: Outcome | None = None


def _check_key(key: str) -> None:
    """Raises ConfigurationError for a key that could sign nothing; never shows it."""
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ConfigurationError(
            "this is no key of a Cosmos DB account: it is not base64",
            where="METERLINE_COSMOS_KEY",
            hint="copy the primary key again, whole, or leave the setting out to use Entra ID",
        ) from None


def _document(revision: Revision) -> dict[str, Any]:
    """The revision's document; ValueError when it is none, or is not the one it says."""
    document = orjson.loads(revision.body)
    if not isinstance(document, dict):
        raise ValueError("its body is not a JSON object")
    for name, value in (("id", revision.window_id), ("subject", revision.subject), ("revision", revision.revision)):
        if document.get(name) != value:
            raise ValueError(f"its {name} is not the revision's")
    return document


def _without_system(item: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(item).items() if not name.startswith("_")}


def _comparable(value: Any) -> Any:
    """Equal for two items that Cosmos cannot tell apart: it keeps every number as a double."""
    if isinstance(value, dict):
        return {name: _comparable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_comparable(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
