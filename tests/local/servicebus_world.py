"""What the Service Bus tests share: a server on a free port, a clock that only moves when told, an impatient client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any
from unittest.mock import patch

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus._pyamqp.aio import _client_async
from azure.servicebus.aio import ServiceBusClient, _servicebus_receiver_async, _servicebus_sender_async

from local.servicebus.server import QueueConfig, ServiceBusConfig, ServiceBusServer

KEY_NAME = "meterline"
KEY = "bG9jYWwgdGVzdCBrZXkgMDEyMzQ1Njc4OQ=="
WITH_SESSIONS = QueueConfig("invoicing")
PLAIN = QueueConfig("plain", requires_session=False)
SHORT = 0.3  # seconds a receiver waits for messages that are not to come


class Clock:
    """Unix time in seconds, from now on only moved by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def config(data_dir: Path, *queues: QueueConfig, **more: Any) -> ServiceBusConfig:
    return ServiceBusConfig(data_dir, KEY_NAME, KEY, queues or (WITH_SESSIONS, PLAIN), **more)


class World:
    """A running server, its clock and a client of the Azure SDK."""

    def __init__(self, server: ServiceBusServer, clock: Clock, client: ServiceBusClient) -> None:
        self.server, self.clock, self.client = server, clock, client

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.server.clock_moved()

    async def send(self, queue: str, *messages: ServiceBusMessage) -> None:
        async with self.client.get_queue_sender(queue) as sender:
            await sender.send_messages(list(messages), timeout=10)

    async def drain(self, queue: str, **receiver: Any) -> list[ServiceBusReceivedMessage]:
        """Everything a receiver is given now, completed."""
        taken: list[ServiceBusReceivedMessage] = []
        async with self.client.get_queue_receiver(queue, **receiver) as link:
            while batch := await link.receive_messages(100, max_wait_time=self._patience(queue, receiver)):
                for message in batch:
                    if receiver.get("receive_mode") is None:
                        await link.complete_message(message)
                taken += batch
        return taken

    def _patience(self, queue: str, receiver: dict[str, Any]) -> float:
        """Long where a message is there to come, so that a slow machine fails no test; short where none is."""
        entity = self.server._entities[queue.lower() + ("/$deadletterqueue" if "sub_queue" in receiver else "")]
        session = receiver.get("session_id")
        for entry in entity.entries():
            fits = not isinstance(session, str) or isinstance(session, Enum) or session == entry.session_id
            if fits and entry.state == 0 and entry.lock_token is None:
                return 10
        return float(receiver.get("max_wait_time", SHORT))


class _Hurried:
    """asyncio, with short naps: the SDK sleeps 50 ms per step of opening a link and up to 1 s in closing it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float, result: Any = None) -> Any:
        return await asyncio.sleep(min(delay, 0.001), result)


@contextmanager
def hurried_sdk() -> Iterator[None]:
    """The SDK as it is, but for its naps. Without this every test would take seconds."""
    with ExitStack() as stack:
        for module in (_client_async, _servicebus_sender_async, _servicebus_receiver_async):
            stack.enter_context(patch.object(module, "asyncio", _Hurried()))
        yield


@asynccontextmanager
async def world(data_dir: Path, *queues: QueueConfig, clock: Clock | None = None, **more: Any) -> AsyncIterator[World]:
    clock = clock or Clock()
    server = ServiceBusServer(config(data_dir, *queues), clock=clock, **more)
    await server.start()
    try:
        with hurried_sdk():
            async with client_of(server.connection_string) as client:
                yield World(server, clock, client)
    finally:
        await server.close()


def client_of(connection_string: str) -> ServiceBusClient:
    """An SDK client that does not retry: a test wants the first answer."""
    return ServiceBusClient.from_connection_string(
        connection_string, retry_total=0, retry_backoff_factor=0.01, socket_timeout=0.05
    )


def body(message: ServiceBusReceivedMessage) -> bytes:
    return b"".join(message.body)


def bodies(messages: list[ServiceBusReceivedMessage]) -> list[bytes]:
    return [body(message) for message in messages]
