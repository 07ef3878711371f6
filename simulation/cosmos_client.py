"""The Cosmos client at the level of the SDK's calls: `azure.cosmos.aio.CosmosClient` 4.17.1 as production's sink meets it.

Keywords that are not in here are a TypeError, and what production leaves off is NotImplementedError. The exceptions are the
SDK's own, and so is the check of an id. How calls reach a region: `simulation.cosmos_connection`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos._base import _validate_resource
from azure.cosmos.documents import DatabaseAccount
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from local.cosmos.exceptions import conflict, not_found
from simulation.cosmos import Region, TwoRegions
from simulation.cosmos_connection import Connection, service
from simulation.wire import Wire

__all__ = ["ContainerProxy", "CosmosClient", "DatabaseProxy", "service"]


class CosmosClient:
    """`azure.cosmos.aio.CosmosClient`, as far as it is used. account, wire: what it speaks to; the rest is the SDK's."""

    def __init__(
        self,
        account: TwoRegions,
        wire: Wire,
        url: str,
        credential: Any,
        *,
        multiple_write_locations: bool = False,
        preferred_locations: Sequence[str] = (),
        connection_timeout: float = 5,
        read_timeout: float = 65,
        retry_throttle_total: int | None = None,
        retry_connect: int = 3,
        retry_read: int = 3,
        no_response_on_write: bool = False,
        user_agent_suffix: str = "",
    ) -> None:
        assert url and credential is not None and connection_timeout > 0 and user_agent_suffix is not None
        if (retry_throttle_total or 9) >= 0:
            raise NotImplementedError("the SDK's own waiting at a 429 is not in here: production leaves it off (-1)")
        self.answers_writes = not no_response_on_write
        self.connection = Connection(
            account,
            wire,
            preferred=preferred_locations,
            may_write_anywhere=multiple_write_locations,
            read_timeout_s=read_timeout,
            retry_connect=retry_connect,
            retry_read=retry_read,
        )

    async def __aenter__(self) -> CosmosClient:
        await self.connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connection. Idempotent."""
        await self.connection.close()

    def get_database_client(self, database: str) -> DatabaseProxy:
        """A proxy; nothing is asked."""
        return DatabaseProxy(self, database)

    async def create_database_if_not_exists(self, id: str, *, timeout: float | None = None) -> DatabaseProxy:
        """The database, created where it is missing."""
        account = self.connection.account

        def read(_: Region) -> None:
            if id not in account.databases:
                raise not_found()

        def create(_: Region) -> None:
            if id in account.databases:
                raise conflict("Resource with specified id or name already exists.")
            account.databases.add(id)

        try:
            await self.connection.on_account("read_database", read, timeout)
        except CosmosResourceNotFoundError:
            await self.connection.on_account("create_database", create, timeout, write=True)
        return DatabaseProxy(self, id)

    async def _get_database_account(self) -> DatabaseAccount:
        return await self.connection.account_at(self.connection.account.first)


class DatabaseProxy:
    """`azure.cosmos.aio.DatabaseProxy`, as far as it is used."""

    def __init__(self, client: CosmosClient, id: str) -> None:
        self.id = id
        self._client = client

    def get_container_client(self, container: str) -> ContainerProxy:
        """A proxy; nothing is asked."""
        return ContainerProxy(self._client, self.id, container)

    async def create_container_if_not_exists(
        self,
        id: str,
        partition_key: PartitionKey,
        *,
        indexing_policy: dict[str, Any],
        conflict_resolution_policy: dict[str, Any],
        timeout: float | None = None,
    ) -> ContainerProxy:
        """The container, created where it is missing."""
        proxy = self.get_container_client(id)
        resource = {
            "id": id,
            "partitionKey": {"paths": [partition_key.path], "kind": "Hash", "version": 2},
            "indexingPolicy": indexing_policy,
            "conflictResolutionPolicy": dict(conflict_resolution_policy),
        }

        def create(_: Region) -> None:
            if self.id not in self._client.connection.account.databases:
                raise not_found("Owner resource does not exist")
            self._client.connection.account.create_container(id, resource)

        try:
            await proxy.read(timeout=timeout)
        except CosmosResourceNotFoundError:
            await self._client.connection.on_account("create_container", create, timeout, write=True)
        return proxy


class ContainerProxy:
    """`azure.cosmos.aio.ContainerProxy`, as far as it is used."""

    def __init__(self, client: CosmosClient, database: str, id: str) -> None:
        self.id = id
        self._client = client
        self._database = database

    async def read(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The container's resource."""
        account = self._client.connection.account

        def read(_: Region) -> dict[str, Any]:
            if self._database not in account.databases or self.id not in account.containers:
                raise not_found()
            return account.containers[self.id].resource

        return dict(await self._client.connection.on_account("read_container", read, timeout))

    async def create_item(self, body: dict[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        """Creates; CosmosResourceExistsError where it exists."""
        _validate_resource(body)
        raw = orjson.dumps(body)
        return await self._write("create", lambda region: region.create(self.id, raw), timeout)

    async def read_item(self, item: str, partition_key: str, *, timeout: float | None = None) -> dict[str, Any]:
        """The item with its system properties; CosmosResourceNotFoundError."""

        def read(region: Region) -> bytes:
            return region.read(self.id, partition_key, item)

        return _item(await self._client.connection.on_items("read", self.id, read, timeout, write=False))

    async def replace_item(
        self,
        item: str,
        body: dict[str, Any],
        *,
        etag: str | None = None,
        match_condition: MatchConditions | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Replaces the whole item; CosmosAccessConditionFailedError where it is another by now."""
        _validate_resource(body)
        if (etag is None) != (match_condition is None) or match_condition not in (None, MatchConditions.IfNotModified):
            raise NotImplementedError("of the conditions, only IfNotModified with an etag is in here")
        raw = orjson.dumps(body)
        return await self._write("replace", lambda region: region.replace(self.id, item, raw, etag), timeout)

    async def query_items(
        self,
        query: str,
        *,
        parameters: Sequence[Mapping[str, Any]] = (),
        partition_key: str | None = None,
        max_item_count: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """What the query finds, in one page."""
        given = {str(parameter["name"]): parameter["value"] for parameter in parameters}

        def find(region: Region) -> list[dict[str, Any]]:
            return region.query(self.id, query, given, partition_key)

        for found in await self._client.connection.on_items("query", self.id, find, timeout, write=False):
            yield found

    async def _write(self, operation: str, request: Callable[[Region], bytes], timeout: float | None) -> dict[str, Any]:
        stored = await self._client.connection.on_items(operation, self.id, request, timeout, write=True)
        return _item(stored) if self._client.answers_writes else {}


def _item(raw: bytes) -> dict[str, Any]:
    item: dict[str, Any] = orjson.loads(raw)
    return item
