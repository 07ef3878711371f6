"""The Cosmos client and the two containers of a deployment, both made on first use.

`windows`: one item per window, the highest revision. `revisions`: one item per revision, never changed. Both are
partitioned by `/subject`, resolve conflicts between regions by the highest `/revision` (design §2.7), and index only
what is asked for: an indexed value costs request units at every write, in every region (azure.md §4.5).

An identity that may read and write items but not create containers is enough where the containers exist.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceNotFoundError

from schemas.errors import ConfigurationError, SinkError
from settings import Settings

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 10
OPERATION_TIMEOUT_S = 20
"""All tries of one operation together, the SDK's own in both regions included."""

PARTITION_KEY_PATH = "/subject"
CONFLICT_POLICY = {"mode": "LastWriterWins", "conflictResolutionPath": "/revision"}


def indexing(*paths: str) -> dict[str, Any]:
    """An indexing policy of these properties and nothing else; `id` and `_ts` are always indexed by the service."""
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": f"/{path}/?"} for path in paths],
        "excludedPaths": [{"path": "/*"}],
    }


WINDOWS_INDEX = indexing("subject", "meter", "window_start", "window_size")
REVISIONS_INDEX = indexing("subject", "window_id")


class CosmosAccount:
    """A client that connects when first asked, and again after it failed to. `close()` is idempotent.

    client: makes clients in place of the SDK's `CosmosClient`.
    """

    def __init__(
        self,
        settings: Settings,
        preferred_regions: Sequence[str] = (),
        client: Callable[..., CosmosClient] | None = None,
    ) -> None:
        if not settings.cosmos_endpoint:
            raise ConfigurationError(
                "no Cosmos DB is configured", where="METERLINE_COSMOS_ENDPOINT", hint="set it to the account's URI"
            )
        self._settings = settings
        self._make_client = client or CosmosClient
        self._preferred_regions = list(preferred_regions)
        self._lock = asyncio.Lock()
        self._client: CosmosClient | None = None
        self._credential: Any = None
        self._containers: tuple[ContainerProxy, ContainerProxy] | None = None

    async def containers(self) -> tuple[ContainerProxy, ContainerProxy]:
        """Documents and ledger, there and fit for use. Raises AzureError, or SinkError saying what to mend."""
        if self._containers is None:
            async with self._lock:
                if self._containers is None:
                    client = await self._connected()
                    self._containers = (
                        await self._ready(client, self._settings.cosmos_container, WINDOWS_INDEX),
                        await self._ready(client, self._settings.cosmos_revisions_container, REVISIONS_INDEX),
                    )
        return self._containers

    def look_again(self) -> None:
        """Check the containers anew before the next use: one of them seems to be gone."""
        self._containers = None

    async def close(self) -> None:
        """Let go of connections and of the credential."""
        self._containers = None
        client, self._client = self._client, None
        credential, self._credential = self._credential, None
        for part in (client, credential):
            if part is not None:
                await _closed(part)

    async def _connected(self) -> CosmosClient:
        if self._client is None:
            client = await self._entered(self._preferred_regions)
            if not self._preferred_regions:
                # Behind a regional endpoint the SDK fails over only to regions that it was given by name, so it is
                # given the account's own (azure-cosmos 4.17.1 `_location_cache.update_location_cache`).
                regions = await _regions(client)
                if len(regions) > 1:
                    await _closed(client)
                    client = await self._entered(regions)
            self._client = client
        return self._client

    async def _entered(self, regions: list[str]) -> CosmosClient:
        client = self._make_client(
            self._settings.cosmos_endpoint,
            self._settings.cosmos_key or self._entra(),
            # Without it the SDK writes to the first region only, however many are writable.
            multiple_write_locations=True,
            preferred_locations=regions,
            connection_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            # The caller paces resends, so a 429 goes to it at once. 0 would be read as "not given".
            retry_throttle_total=-1,
            retry_connect=1,
            retry_read=1,
            no_response_on_write=True,
            user_agent_suffix="meterline",
        )
        try:
            await client.__aenter__()
        except BaseException:
            # `async with` would leave the connection open where entering fails.
            await _closed(client)
            raise
        return client

    def _entra(self) -> Any:
        if self._credential is None:
            from azure.identity.aio import DefaultAzureCredential  # only where Entra ID is used

            self._credential = DefaultAzureCredential()
        return self._credential

    async def _ready(self, client: CosmosClient, name: str, index: dict[str, Any]) -> ContainerProxy:
        """The container, created if it is missing and that is allowed."""
        container = client.get_database_client(self._settings.cosmos_database).get_container_client(name)
        try:
            found = await container.read(timeout=OPERATION_TIMEOUT_S)
        except CosmosResourceNotFoundError:
            return await self._created(client, name, index)
        _check(name, found)
        return container

    async def _created(self, client: CosmosClient, name: str, index: dict[str, Any]) -> ContainerProxy:
        database_id = self._settings.cosmos_database
        try:
            database = await client.create_database_if_not_exists(database_id, timeout=OPERATION_TIMEOUT_S)
            container = await database.create_container_if_not_exists(
                name,
                PartitionKey(PARTITION_KEY_PATH),
                indexing_policy=index,
                conflict_resolution_policy=CONFLICT_POLICY,
                timeout=OPERATION_TIMEOUT_S,
            )
        except CosmosHttpResponseError as error:
            if error.status_code in (401, 403):
                raise SinkError(
                    f"container {database_id}/{name} does not exist and this identity may not create it",
                    hint=f"create it with partition key {PARTITION_KEY_PATH} and LastWriterWins on /revision",
                ) from None
            raise
        logger.info("created container %s/%s", database_id, name)
        return container


async def _regions(client: CosmosClient) -> list[str]:
    """The account's write regions in its own order; one where the others only read."""
    account = await client._get_database_account()
    names = [str(place["name"]) for place in account.WritableLocations]
    return names if account._EnableMultipleWritableLocations else names[:1]


async def _closed(part: Any) -> None:
    with suppress(AzureError, OSError, TimeoutError):
        await asyncio.wait_for(part.close(), CONNECT_TIMEOUT_S)


def _check(name: str, found: dict[str, Any]) -> None:
    paths = (found.get("partitionKey") or {}).get("paths")
    if paths != [PARTITION_KEY_PATH]:
        raise SinkError(
            f"container {name} is partitioned by {paths}, not by {PARTITION_KEY_PATH}",
            hint="a partition key cannot be changed: create another container and correct the setting",
        )
    policy = found.get("conflictResolutionPolicy") or {}
    if policy.get("conflictResolutionPath") != CONFLICT_POLICY["conflictResolutionPath"]:
        logger.warning(
            "container %s resolves conflicts between regions by %s, not by the highest /revision: with several write"
            " regions an older revision can win; the policy is fixed when a container is created",
            name,
            policy.get("conflictResolutionPath") or policy.get("mode") or "the service's default",
        )
