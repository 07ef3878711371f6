"""The other end of the invoicing queue: a consumer with sessions, as an invoicing system would be one.

Used by `invoices`, by the live feed of laptop mode and by whoever checks what has arrived. Messages of one session come in
order; several sessions are read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from schemas.errors import ConfigurationError, MeterlineError, SinkError
from settings import Settings

BATCH = 200
LINGER_S = 0.3
"""How long a session without messages is kept before another one is asked for."""


@dataclass(frozen=True, slots=True)
class InvoiceMessage:
    """One message as received. body: the window's document (schemas/windows.py); raw: its bytes."""

    message_id: str
    session_id: str
    body: dict[str, Any]
    raw: bytes


# "No session is free" is an answer, and no failure: with the SDK's three retries it takes twenty seconds to say it.
_ONCE: dict[str, Any] = {"retry_total": 0}
_PAUSE_S = 2.0
_PASSING = (ServiceBusConnectionError, ServiceBusCommunicationError, ServiceBusServerBusyError)

Handle = Callable[[InvoiceMessage], None]


@asynccontextmanager
async def servicebus_client(settings: Settings) -> AsyncIterator[ServiceBusClient]:
    """A client of the configured namespace, by connection string or Entra ID. Raises ConfigurationError without either."""
    async with AsyncExitStack() as stack:
        if settings.servicebus_connection_string:
            client = ServiceBusClient.from_connection_string(settings.servicebus_connection_string, **_ONCE)
        elif settings.servicebus_namespace:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())
            client = ServiceBusClient(settings.servicebus_namespace, credential, **_ONCE)
        else:
            raise ConfigurationError(
                "no Service Bus is configured",
                where="METERLINE_SERVICEBUS_CONNECTION_STRING, METERLINE_SERVICEBUS_NAMESPACE",
                hint="set one of them, or start a local one: python app.py local --env-file .env",
            )
        yield await stack.enter_async_context(client)


async def receive(
    settings: Settings,
    handle: Handle,
    *,
    sessions: int = 4,
    wait_s: float | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Receive and complete messages, `handle` first; how many. Returns when none came for `wait_s`, or `stop` is set.

    handle: called in the order of each session; if it raises, the message is not completed and comes again.
    Raises ConfigurationError or SinkError with what to do, for a namespace or queue that cannot be used.
    """
    stop = stop or asyncio.Event()
    async with servicebus_client(settings) as client:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_follow(client, settings, handle, wait_s, stop)) for _ in range(sessions)]
        except* ServiceBusError as errors:
            raise explain(_first(errors), settings) from errors
        return sum(task.result() for task in tasks)


async def peek(settings: Settings, handle: Handle, *, wait_s: float = 1.0) -> int:
    """`handle` every message that is in the queue now, and leave all of them there; how many.

    Peeking needs a session each, and a session is offered again as long as it has messages: so all are held to the end.
    """
    count = 0
    async with servicebus_client(settings) as client, AsyncExitStack() as held:
        while True:
            try:
                receiver = await held.enter_async_context(_session(client, settings, wait_s))
            except OperationTimeoutError:
                return count
            except ServiceBusError as error:
                raise explain(error, settings) from error
            following = 0
            while messages := await receiver.peek_messages(BATCH, sequence_number=following):
                for message in messages:
                    handle(_invoice(message))
                count += len(messages)
                following = (messages[-1].sequence_number or 0) + 1


def explain(error: ServiceBusError, settings: Settings) -> MeterlineError:
    """What an SDK error means: what somebody must change, or what may pass by itself. Never holds a secret."""
    where = "METERLINE_SERVICEBUS_CONNECTION_STRING"
    if isinstance(error, ServiceBusAuthenticationError | ServiceBusAuthorizationError):
        return ConfigurationError(
            "Service Bus refused the key",
            where=where,
            hint="copy the connection string again from the namespace's Shared access policies; it needs Listen",
        )
    if isinstance(error, MessagingEntityNotFoundError):
        return ConfigurationError(
            f"there is no queue {settings.servicebus_queue!r}",
            where="METERLINE_SERVICEBUS_QUEUE",
            hint="create it with sessions and duplicate detection, or correct its name",
        )
    if isinstance(error, ServiceBusConnectionError):
        return SinkError("Service Bus cannot be reached", hint=f"check {where}, network and firewall")
    return SinkError(f"Service Bus answered {type(error).__name__}: {error.message}")


async def _follow(
    client: ServiceBusClient, settings: Settings, handle: Handle, wait_s: float | None, stop: asyncio.Event
) -> int:
    """Session after session, until none has a message for `wait_s` (None: for ever, and through passing failures)."""
    count = 0
    connected = False
    while not stop.is_set():
        try:
            async with _session(client, settings, 1.0 if wait_s is None else wait_s) as receiver:
                connected = True
                while not stop.is_set():
                    messages = await receiver.receive_messages(BATCH, max_wait_time=LINGER_S)
                    if not messages:
                        break
                    for message in messages:
                        if stop.is_set():
                            break  # what is not shown is not completed: it goes back with the session's lock
                        handle(_invoice(message))
                        await receiver.complete_message(message)
                        count += 1
        except OperationTimeoutError:
            if wait_s is not None:
                return count
        except (SessionCannotBeLockedError, SessionLockLostError):
            continue  # somebody else has it now; what was not completed comes again
        except _PASSING:
            if wait_s is not None or not connected:
                raise
            await asyncio.sleep(_PAUSE_S)
    return count


def _session(client: ServiceBusClient, settings: Settings, wait_s: float) -> ServiceBusReceiver:
    return client.get_queue_receiver(settings.servicebus_queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait_s)


def _invoice(message: ServiceBusReceivedMessage) -> InvoiceMessage:
    body = message.body
    raw = body if isinstance(body, bytes) else b"".join(body)
    return InvoiceMessage(message.message_id or "", message.session_id or "", orjson.loads(raw), raw)


def _first(errors: BaseExceptionGroup[ServiceBusError]) -> ServiceBusError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ServiceBusError)
    return error
