"""The Service Bus sink: every revision is one message for invoicing (design §2.7).

`MessageId` = `window_id:revision`, so that duplicate detection drops a resend; `session_id` = the subject, so that one
customer's messages stay in order; the body is the window's document. Outside the detection window (10 minutes by
default) a resend can arrive again: consumers take the highest revision of a window.

Limits kept: MessageId and SessionId 128 characters, 256 KB a batch on Standard (azure-docs: Service Bus quotas). Every
send has a timeout: the SDK's own loop has none (azure.md §3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch, parse_connection_string
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from schemas.errors import ConfigurationError
from schemas.windows import Revision, session_id
from settings import Settings
from sinks.contract import DELIVERED, Outcome, refused, retry

SEND_TIMEOUT_S = 20.0
BUSY_S = 2.0
"""What Service Bus asks for in a 50009: "wait 2 seconds" (azure-docs: Service Bus throttling)."""


class ServiceBusSink:
    """Sends revisions to one queue. See `sinks.contract.Sink` for the promises.

    client: makes clients in place of the SDK's `ServiceBusClient`, as that class does; for a simulated world.
    """

    name = "servicebus"
    batch_max = 100

    def __init__(self, settings: Settings, client: Any = None) -> None:
        if not settings.servicebus_connection_string and not settings.servicebus_namespace:
            raise ConfigurationError(
                "no Service Bus is configured",
                where="METERLINE_SERVICEBUS_CONNECTION_STRING, METERLINE_SERVICEBUS_NAMESPACE",
                hint="give the connection string, or the namespace's host name to use Entra ID",
            )
        if settings.servicebus_connection_string:
            _check_form(settings.servicebus_connection_string)
        self._settings = settings
        self._make_client: Any = client or ServiceBusClient
        self._lock = asyncio.Lock()
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._credential: Any = None

    async def open(self) -> None:
        """Nothing to do: the first delivery connects."""

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        """Sends in batches, in order. From the first batch that fails on, the rest is told to come again."""
        async with self._lock:
            outcomes: dict[int, Outcome] = {}
            at = 0
            while at < len(revisions):
                try:
                    batch, taken = await self._batch(revisions, at, outcomes)
                    if taken and len(batch):
                        await self._ready().send_messages(batch, timeout=SEND_TIMEOUT_S)
                except (AzureError, OSError, TimeoutError) as error:
                    failure = self._explain(error)
                    await self._drop_connection()
                    outcomes.update((i, failure) for i in range(at, len(revisions)) if i not in outcomes)
                    break
                outcomes.update((i, DELIVERED) for i in range(at, at + taken) if i not in outcomes)
                at += taken
            return [outcomes[i] for i in range(len(revisions))]

    async def close(self) -> None:
        """Lets go of connections. Idempotent."""
        await self._drop_connection()
        credential, self._credential = self._credential, None
        if credential is not None:
            await credential.close()

    async def _batch(
        self, revisions: Sequence[Revision], at: int, outcomes: dict[int, Outcome]
    ) -> tuple[ServiceBusMessageBatch, int]:
        """As many as fit, from `at` on; how many were taken, those refused for their size or form among them."""
        batch = await asyncio.wait_for(self._ready().create_message_batch(), SEND_TIMEOUT_S)
        taken = 0
        for index in range(at, len(revisions)):
            try:
                batch.add_message(_message(revisions[index]))
            except (MessageSizeExceededError, ValueError, TypeError) as error:
                if isinstance(error, MessageSizeExceededError) and len(batch):
                    break
                outcomes[index] = refused(f"it cannot be a message: {error}")
            taken += 1
        return batch, taken

    def _ready(self) -> ServiceBusSender:
        if self._sender is None:
            options: dict[str, Any] = {"retry_total": 0, "logging_enable": False}
            if self._settings.servicebus_connection_string:
                self._client = self._make_client.from_connection_string(
                    self._settings.servicebus_connection_string, **options
                )
            else:
                from azure.identity.aio import DefaultAzureCredential  # only where Entra ID is used

                self._credential = self._credential or DefaultAzureCredential()
                assert self._settings.servicebus_namespace is not None
                self._client = self._make_client(self._settings.servicebus_namespace, self._credential, **options)
            assert self._client is not None
            self._sender = self._client.get_queue_sender(self._settings.servicebus_queue)
        return self._sender

    async def _drop_connection(self) -> None:
        client, sender, self._client, self._sender = self._client, self._sender, None, None
        for part in (sender, client):
            if part is not None:
                with suppress(AzureError, OSError, TimeoutError):
                    await asyncio.wait_for(part.close(), 5.0)

    def _explain(self, error: Exception) -> Outcome:
        queue = self._settings.servicebus_queue
        match error:
            case ServiceBusServerBusyError():
                return retry("Service Bus is throttling (server busy)", BUSY_S)
            case MessagingEntityNotFoundError():
                return retry(f"there is no queue {queue!r}: create it, or correct METERLINE_SERVICEBUS_QUEUE")
            case MessagingEntityDisabledError():
                return retry(f"queue {queue!r} is disabled: enable it")
            case ServiceBusAuthenticationError() | ServiceBusAuthorizationError():
                return retry(f"Service Bus refused the key or the identity: give it Send on {queue!r}")
            case ServiceBusQuotaExceededError():
                return retry(f"queue {queue!r} is full: let invoicing take its messages, or enlarge it")
            case ServiceBusError():
                return retry(f"Service Bus failed: {type(error).__name__}")
            case TimeoutError():
                return retry(f"Service Bus did not answer within {SEND_TIMEOUT_S:.0f} s")
            case _:
                return retry(f"no connection to Service Bus: {type(error).__name__}")


def _check_form(connection_string: str) -> None:
    """Raises ConfigurationError for a string that no client could be made of; never shows it, it is a secret."""
    try:
        parse_connection_string(connection_string)
    except ValueError:
        raise ConfigurationError(
            "this is no Service Bus connection string",
            where="METERLINE_SERVICEBUS_CONNECTION_STRING",
            hint="copy it again, whole, from the namespace's Shared access policies: Endpoint=sb://…;SharedAccessKeyName=…;"
            "SharedAccessKey=… (in a shell it needs quotes, for its semicolons)",
        ) from None


def _message(revision: Revision) -> ServiceBusMessage:
    return ServiceBusMessage(
        revision.body,
        message_id=revision.message_id,
        session_id=session_id(revision.subject),
        content_type="application/json",
        subject="meterline.window",
        application_properties={"window_id": revision.window_id, "revision": revision.revision},
    )
