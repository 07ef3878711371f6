"""What `check` asks: thin, with the real clients, and without writing anything anywhere.

Each probe ends in bounded time and returns facts, never raises for what the other side does: a failure is a fact.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.cosmos.aio import CosmosClient, DatabaseProxy
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceNotFoundError
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)

from cli.verdicts import ContainerFacts, CosmosFacts, KafkaFacts, QueueFacts
from local.broker import CLUSTER_ID
from schemas.errors import ConfigurationError, MeterlineError, SinkError
from settings import Settings
from sinks.receiving import explain as explain_servicebus
from sinks.receiving import servicebus_client
from transport.client import bootstrap_servers, client_options, connected, diagnose

PROBE_S = 30.0
"""How long one service may take, all its questions together."""

_RECORD_S = 5.0
_MANAGEMENT_S = 10.0


async def probe_kafka(settings: Settings) -> KafkaFacts:
    """Metadata, DescribeConfigs where the broker has it, else the newest usage record's kind of timestamp."""
    try:
        where = bootstrap_servers(settings)
        return await asyncio.wait_for(_kafka(settings, where), PROBE_S)
    except (errors.KafkaError, OSError) as error:
        return KafkaFacts(bootstrap_servers(settings), error=await diagnose(error, settings))
    except MeterlineError as error:
        return KafkaFacts("the broker", error=error)


async def probe_queue(settings: Settings) -> QueueFacts:
    """The queue's properties by the management API where the identity may, else what AMQP shows without sending."""
    where = settings.servicebus_namespace or "Service Bus"
    if settings.servicebus_connection_string:
        where = _endpoint(settings.servicebus_connection_string)
    try:
        return await asyncio.wait_for(_queue(settings, where), PROBE_S)
    except TimeoutError:
        return QueueFacts(where, error=_silent(where))
    except ServiceBusError as error:
        return QueueFacts(where, error=explain_servicebus(error, settings))
    except (ValueError, binascii.Error) as error:
        return QueueFacts(where, error=_malformed("METERLINE_SERVICEBUS_CONNECTION_STRING", error))
    except (AzureError, OSError) as error:
        return QueueFacts(where, error=_explain_azure(error, where))
    except MeterlineError as error:
        return QueueFacts(where, error=error)


async def probe_cosmos(settings: Settings) -> CosmosFacts:
    """The account's write regions, the database and the definitions of both containers."""
    where = settings.cosmos_endpoint or "Cosmos DB"
    try:
        return await asyncio.wait_for(_cosmos(settings, where), PROBE_S)
    except TimeoutError:
        return CosmosFacts(where, error=_silent(where))
    except (ValueError, binascii.Error) as error:
        return CosmosFacts(where, error=_malformed("METERLINE_COSMOS_KEY", error))
    except (AzureError, OSError) as error:
        return CosmosFacts(where, error=_explain_cosmos(error, where))
    except MeterlineError as error:
        return CosmosFacts(where, error=error)


async def _kafka(settings: Settings, where: str) -> KafkaFacts:
    options = client_options(settings, request_timeout_ms=10_000)
    admin = AIOKafkaAdminClient(**options)
    try:
        await admin.start()
        await connected(settings, admin._client.cluster)
        # All topics, none by name: on a broker that creates topics by use, asking for one would make it.
        topics = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics(None) if not t["error_code"]}
        cluster = await admin.describe_cluster()
        configs = await _configs(admin, [name for name in settings.topics if name in topics])
    finally:
        await admin.close()
    told = (configs or {}).get(settings.usage_topic, {}).get("message.timestamp.type")
    appended = None
    if told is None and settings.usage_topic in topics:
        appended = await _newest_is_appended(options, settings.usage_topic, topics[settings.usage_topic])
    laptop = cluster.get("cluster_id") == CLUSTER_ID
    return KafkaFacts(where, partitions=topics, configs=configs, appended=appended, laptop=laptop)


async def _configs(admin: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]] | None:
    # Event Hubs may not know DescribeConfigs (Azure/azure-event-hubs-for-kafka#69), or close the connection at it.
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics])
    except (errors.KafkaError, OSError):
        return None
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, _, _, name, entries in (resource[:5] for resource in answer.resources):
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found or None


async def _newest_is_appended(options: dict[str, Any], topic: str, partitions: int) -> bool | None:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer = AIOKafkaConsumer(**options, enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign(places)
        first, end = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        filled = [place for place in places if end[place] > first[place]]
        if not filled:  # and nothing to assign: after `assign([])` aiokafka's `stop` never returns
            return None
        consumer.assign(filled)
        for place in filled:
            consumer.seek(place, end[place] - 1)
        batches = await consumer.getmany(timeout_ms=int(_RECORD_S * 1000))
    except errors.KafkaError:
        return None
    finally:
        await consumer.stop()
    kinds = [record.timestamp_type == 1 for records in batches.values() for record in records]
    return all(kinds) if kinds else None


async def _queue(settings: Settings, where: str) -> QueueFacts:
    managed = None if _is_emulator(settings) else await managed_queue(settings, where)
    if managed is not None:
        return managed
    async with servicebus_client(settings) as client:
        try:  # a sender needs Send, which a worker's key has; opening it sends nothing
            async with client.get_queue_sender(settings.servicebus_queue):
                pass
        except MessagingEntityNotFoundError:
            return QueueFacts(where, exists=False)
        sessions, unseen = await _requires_sessions(client, settings.servicebus_queue)
    return QueueFacts(where, exists=True, sessions=sessions, unseen=unseen)


async def _requires_sessions(client: ServiceBusClient, queue: str) -> tuple[bool | None, str]:
    # A session nobody uses: it holds no message, and no consumer waits for it. Without sessions it is refused.
    try:
        async with client.get_queue_receiver(queue, session_id=f"meterline-check-{secrets.token_hex(8)}"):
            return True, ""
    except (ServiceBusAuthenticationError, ServiceBusAuthorizationError):
        return None, "the key may send only"
    except ServiceBusError as error:
        if "session" in str(error).lower():
            return False, ""
        return None, type(error).__name__


async def managed_queue(settings: Settings, where: str) -> QueueFacts | None:
    """The queue as the management API (HTTPS) describes it; None where the identity may not ask, or nobody answers."""
    async with AsyncExitStack() as stack:
        if settings.servicebus_connection_string:
            made = ServiceBusAdministrationClient.from_connection_string(settings.servicebus_connection_string)
        elif settings.servicebus_namespace:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())
            made = ServiceBusAdministrationClient(settings.servicebus_namespace, credential)
        else:
            return None  # the AMQP probe says what is missing
        client = await stack.enter_async_context(made)
        try:
            queue = await asyncio.wait_for(client.get_queue(settings.servicebus_queue), _MANAGEMENT_S)
        except ResourceNotFoundError:
            return QueueFacts(where, exists=False, by="management")
        except (ClientAuthenticationError, HttpResponseError, ServiceRequestError, TimeoutError):
            return None  # needs Manage (Data Owner), which a worker's identity need not have
        window = queue.duplicate_detection_history_time_window
        return QueueFacts(
            where,
            exists=True,
            sessions=bool(queue.requires_session),
            duplicate_detection=bool(queue.requires_duplicate_detection),
            duplicate_window_s=window.total_seconds() if window is not None and not isinstance(window, str) else None,
            by="management",
        )


async def _cosmos(settings: Settings, where: str) -> CosmosFacts:
    if not settings.cosmos_endpoint:
        raise ConfigurationError(
            "no Cosmos DB is configured", where="METERLINE_COSMOS_ENDPOINT", hint="set it to the account's URI"
        )
    async with AsyncExitStack() as stack:
        credential: Any = settings.cosmos_key
        if not credential:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())
        client = CosmosClient(settings.cosmos_endpoint, credential)
        stack.push_async_callback(client.close)  # not `async with`: it leaks its connection where entering fails
        await client.__aenter__()
        account = await client._get_database_account()
        regions = tuple(str(place["name"]) for place in account.WritableLocations)
        if not account._EnableMultipleWritableLocations:
            regions = regions[:1]
        database = client.get_database_client(settings.cosmos_database)
        if await _or_none(database.read) is None:
            return CosmosFacts(where, write_regions=regions)
        names = (settings.cosmos_container, settings.cosmos_revisions_container)
        containers = {name: await _container(database, name) for name in names}
        return CosmosFacts(where, write_regions=regions, database_exists=True, containers=containers)


async def _container(database: DatabaseProxy, name: str) -> ContainerFacts | None:
    found = await _or_none(database.get_container_client(name).read)
    if found is None:
        return None
    policy = found.get("conflictResolutionPolicy") or {}
    return ContainerFacts(
        partition_paths=tuple(found.get("partitionKey", {}).get("paths", ())),
        conflict_mode=str(policy.get("mode", "")),
        conflict_path=str(policy.get("conflictResolutionPath", "")),
    )


async def _or_none(read: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await read()
    except CosmosResourceNotFoundError:
        return None


def _explain_cosmos(error: Exception, where: str) -> MeterlineError:
    if isinstance(error, CosmosHttpResponseError) and error.status_code in (401, 403):
        return ConfigurationError(
            f"{where} refused the key or the identity ({error.status_code})",
            where="METERLINE_COSMOS_KEY",
            hint="copy the account's key again, or give the identity the role Cosmos DB Built-in Data Contributor; "
            "403 may also be the account's firewall",
        )
    if isinstance(error, ServiceRequestError):
        return SinkError(f"{where} cannot be reached", hint="check METERLINE_COSMOS_ENDPOINT, network and firewall")
    return _explain_azure(error, where)


def _explain_azure(error: Exception, where: str) -> MeterlineError:
    if isinstance(error, ClientAuthenticationError):
        return ConfigurationError(
            f"no Entra ID token for {where}",
            where="DefaultAzureCredential",
            hint="give this machine a managed identity, or `az login`, or set the key or connection string",
        )
    status = f" ({error.status_code})" if isinstance(error, HttpResponseError) else ""
    return SinkError(f"{where} cannot be used: {type(error).__name__}{status}")


def _silent(where: str) -> SinkError:
    return SinkError(f"{where} did not answer within {PROBE_S:.0f} s", hint="check network and firewall")


def _malformed(setting: str, error: Exception) -> ConfigurationError:
    # The text of the error may quote what is secret: only its kind is told.
    return ConfigurationError(
        f"its form is wrong ({type(error).__name__})", where=setting, hint="copy it from the portal again, whole"
    )


def _is_emulator(settings: Settings) -> bool:
    return "usedevelopmentemulator=true" in (settings.servicebus_connection_string or "").lower()


def _endpoint(connection_string: str) -> str:
    """Host of a connection string; the rest of it is secret."""
    parts = dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)
    return parts.get("Endpoint", "Service Bus").removeprefix("sb://").strip("/")
