"""The database and the two containers of a deployment, created where they are missing."""

from __future__ import annotations

from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from schemas.errors import SinkError
from settings import Settings

CONFLICT_POLICY = {"mode": "LastWriterWins", "conflictResolutionPath": "/revision"}
"""Between regions the higher revision wins (design §2.7); fixed when the container is created."""


async def ensure_containers(settings: Settings) -> None:
    """Create database, documents' and ledger's container if missing. Raises SinkError where Cosmos DB does not answer."""
    assert settings.cosmos_endpoint and settings.cosmos_key
    try:
        async with CosmosClient(settings.cosmos_endpoint, settings.cosmos_key) as client:
            database = await client.create_database_if_not_exists(settings.cosmos_database)
            for name in (settings.cosmos_container, settings.cosmos_revisions_container):
                await database.create_container_if_not_exists(
                    name, PartitionKey("/subject"), conflict_resolution_policy=CONFLICT_POLICY
                )
    except AzureError as error:
        raise SinkError(f"the containers could not be created: {error.message}") from error
