"""A Service Bus queue at the level of the SDK's calls, in virtual time: what production's sink sends to, and who receives it.

Real are the SDK's messages, its batches with their size limits, and its exceptions. In here are the service and its wire:
duplicate detection by MessageId that forgets after its window, sessions, outages, and a consumer as invoicing should be.

The service's own facts: azure.md §3.1 (duplicate detection, limits) and §3.4 (what the SDK raises for which fault).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch, parse_connection_string
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from simulation.wire import NoAnswer, Refused, Throttled, Unavailable, Unsure, Wire, WireError

T = TypeVar("T")

NAME = "servicebus"
"""What the weather knows this service as."""

BATCH_MAX_BYTES = 256 * 1024
"""A batch on Standard (azure.md §3.1)."""

ID_MAX = 128
"""Characters of a MessageId and of a SessionId (azure.md §3.1)."""

DETECTION_WINDOW_S = 600.0
"""How long a MessageId is remembered by default (azure.md §3.1)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the queue keeps it. at_s: when it arrived, virtual seconds."""

    message_id: str
    session_id: str
    body: bytes
    at_s: float


class ServiceBus:
    """A namespace with one queue, sessions required. detection_window_s: how long a MessageId is remembered.

    messages: everything that was ever accepted, in the order of arrival, for the judge. duplicates: how many were dropped.
    """

    def __init__(self, queue: str = "invoicing", *, detection_window_s: float = DETECTION_WINDOW_S) -> None:
        self.queue = queue
        self.messages: list[Message] = []
        self.duplicates = 0
        self.down = False
        self._window_s = detection_window_s
        self._seen_at_s: dict[str, float] = {}
        self._waiting: dict[str, deque[Message]] = {}  # per session; a session is there while it has messages
        self._locked: set[str] = set()
        self._arrived = asyncio.Event()

    def client(self, wire: Wire) -> Clients:
        """What a sink is given in place of the SDK's `ServiceBusClient`."""
        return Clients(self, wire)

    # -- what arrives over a wire

    def open_link(self, queue: str) -> str | None:
        """Why no sender can be opened for the queue, or None. Raises Refused while the namespace is down."""
        self._check_up()
        return None if queue == self.queue else f"The messaging entity '{queue}' could not be found."

    def send(self, batch: list[tuple[str, str | None, bytes]]) -> str | None:
        """Accepts a batch of (MessageId, SessionId, body) whole, or says why it is rejected whole.

        A MessageId seen within the window, in this batch too, is accepted and dropped; that does not renew its window.
        """
        self._check_up()
        for message_id, session_id, _ in batch:
            if not session_id:
                return "The SessionId was not set on a message, and it cannot be sent to the entity."
            if len(message_id) > ID_MAX or len(session_id) > ID_MAX:
                return f"A MessageId or SessionId is longer than {ID_MAX} characters."
        now_s = asyncio.get_running_loop().time()
        for message_id, session_id, body in batch:
            seen_at_s = self._seen_at_s.get(message_id)
            if seen_at_s is not None and seen_at_s > now_s - self._window_s:
                self.duplicates += 1
                continue
            self._seen_at_s[message_id] = now_s
            message = Message(message_id, session_id or "", body, now_s)
            self.messages.append(message)
            self._waiting.setdefault(message.session_id, deque()).append(message)
        self._arrived.set()
        return None

    def _check_up(self) -> None:
        if self.down:
            raise Refused("the namespace is down")

    # -- what a consumer does

    async def next_session(self) -> str:
        """A session that has messages and is not held by anybody: now locked. Waits until there is one."""
        while True:
            if not self.down:
                for session in self._waiting:
                    if session not in self._locked:
                        self._locked.add(session)
                        return session
            self._arrived.clear()
            await self._arrived.wait()

    def peek_lock(self, session: str) -> Message | None:
        """The first message of a session that is held, or None where there is none. It stays until it is completed."""
        waiting = self._waiting.get(session)
        return waiting[0] if waiting and not self.down else None

    def complete(self, session: str, message: Message) -> None:
        """Takes the message out of the queue."""
        waiting = self._waiting[session]
        assert waiting[0] is message, "only what is locked is completed"
        waiting.popleft()

    def release(self, session: str) -> None:
        """Gives a session back, by its holder or because its lock was lost; it goes to the end of the line."""
        self._locked.discard(session)
        waiting = self._waiting.pop(session, None)
        if waiting:
            self._waiting[session] = waiting
            self._arrived.set()

    def set_down(self, down: bool) -> None:
        """An outage begins or ends: nobody listens, and nothing is received."""
        self.down = down
        if not down:
            self._arrived.set()

    @property
    def is_empty(self) -> bool:
        """Whether everything that arrived was completed."""
        return not any(self._waiting.values())


class _Unsent(PyamqpTransport):
    """The SDK's AMQP, but for the copy of each message that goes onto a real link: its size is taken before, all the same."""

    @staticmethod
    def add_batch(batch: Any, outgoing: Any) -> None:
        """Nothing: what is stored is read from the batch's messages."""


class Clients:
    """Makes clients as the class `azure.servicebus.aio.ServiceBusClient` does, of this namespace over this wire."""

    def __init__(self, bus: ServiceBus, wire: Wire) -> None:
        self._bus = bus
        self._wire = wire

    def from_connection_string(self, conn_str: str, **options: Any) -> Client:
        """A client by connection string; ValueError for what is none."""
        parse_connection_string(conn_str)
        return Client(self._bus, self._wire, **options)

    def __call__(self, fully_qualified_namespace: str, credential: Any, **options: Any) -> Client:
        """A client by namespace and identity."""
        assert fully_qualified_namespace and credential is not None
        return Client(self._bus, self._wire, **options)


class Client:
    """`azure.servicebus.aio.ServiceBusClient`, as far as it is used. Only without the SDK's own retries."""

    def __init__(self, bus: ServiceBus, wire: Wire, *, retry_total: int = 3, logging_enable: bool = False) -> None:
        if retry_total != 0:
            raise NotImplementedError(
                "the SDK's own resending is not in here: production leaves it off (retry_total=0)"
            )
        self._bus = bus
        self._wire = wire
        self._senders: list[Sender] = []

    def get_queue_sender(self, queue_name: str) -> Sender:
        """A sender that connects when it is first used."""
        sender = Sender(self._bus, self._wire, queue_name)
        self._senders.append(sender)
        return sender

    async def close(self) -> None:
        """Closes the senders too."""
        for sender in self._senders:
            await sender.close()


class Sender:
    """`azure.servicebus.aio.ServiceBusSender`, as far as it is used."""

    def __init__(self, bus: ServiceBus, wire: Wire, queue: str) -> None:
        self._bus = bus
        self._wire = wire
        self._queue = queue
        self._is_open = False
        self._is_closed = False

    async def create_message_batch(self) -> ServiceBusMessageBatch:
        """The SDK's own batch, of the size the link allows. Opens the link, and like the SDK waits for that without end."""
        self._check_live()
        if not self._is_open:
            missing = await self._ask("open", partial(self._bus.open_link, self._queue), None)
            if missing:
                raise MessagingEntityNotFoundError(message=missing)
            self._is_open = True
        return ServiceBusMessageBatch(max_size_in_bytes=BATCH_MAX_BYTES, amqp_transport=_Unsent)

    async def send_messages(self, message: ServiceBusMessageBatch, *, timeout: float | None = None) -> None:
        """Sends the batch as one transfer; done when it was accepted. Raises ServiceBusError."""
        self._check_live()
        if len(message) == 0:
            return
        batch = [_stored(part) for part in message._messages]
        rejected = await self._ask("send", partial(self._bus.send, batch), timeout)
        if rejected:
            raise ServiceBusError(rejected)

    async def close(self) -> None:
        """Lets go of the link. Idempotent."""
        self._is_closed = True

    def _check_live(self) -> None:
        if self._is_closed:
            raise ValueError(
                "The handler has already been shutdown. Please use ServiceBusClient to create a new instance."
            )

    async def _ask(self, operation: str, apply: Callable[[], T], patience_s: float | None) -> T:
        try:
            return await self._wire.ask(NAME, operation, apply, patience_s=patience_s)
        except WireError as error:
            self._is_open = False
            raise _translated(error) from None


def _translated(error: WireError) -> ServiceBusError:
    """What the SDK raises for it (azure.md §3.4)."""
    match error:
        case Throttled():
            return ServiceBusServerBusyError(
                message="The request was terminated because the entity is being throttled."
            )
        case NoAnswer(silent=True):
            return OperationTimeoutError(message="Send operation timed out")
        case Unavailable():
            return ServiceBusCommunicationError(message="The service was unable to process the request.")
        case Unsure():
            return ServiceBusError("The operation did not complete within the allotted timeout.")
        case _:
            return ServiceBusConnectionError(message=f"Failed to initiate the connection due to exception: {error}")


def _stored(message: ServiceBusMessage) -> tuple[str, str | None, bytes]:
    body = message.body
    return message.message_id or "", message.session_id, body if isinstance(body, bytes) else b"".join(body)


class Consumer:
    """Invoicing as it should be: receives sessions in order, by peek-lock, and handles each MessageId once.

    handle_s: the least and the most that handling takes. lost_lock: how probable it is that a lock is lost between
    handling and completing, so that the message comes again.

    seen: per MessageId the body it was handled with. conflicts: (MessageId, first body, other body), where one came again
    with another. orders: per window its revisions, in the order they were first handled. repeats: how often one came again.
    """

    def __init__(
        self,
        bus: ServiceBus,
        rng: random.Random,
        *,
        handle_s: tuple[float, float] = (0.001, 0.02),
        lost_lock: float = 0.02,
    ) -> None:
        self.seen: dict[str, bytes] = {}
        self.conflicts: list[tuple[str, bytes, bytes]] = []
        self.orders: dict[str, list[int]] = {}
        self.repeats = 0
        self._bus = bus
        self._rng = rng
        self._handle_s = handle_s
        self._lost_lock = lost_lock

    async def run(self) -> None:
        """Receives for ever."""
        while True:
            session = await self._bus.next_session()
            try:
                while (message := self._bus.peek_lock(session)) is not None:
                    await asyncio.sleep(self._rng.uniform(*self._handle_s))
                    self._handle(message)
                    if self._rng.random() < self._lost_lock:
                        break
                    self._bus.complete(session, message)
            finally:
                self._bus.release(session)

    def latest(self) -> dict[str, tuple[int, bytes]]:
        """Per window its highest revision and that one's body: what is invoiced."""
        highest: dict[str, tuple[int, bytes]] = {}
        for message_id, body in self.seen.items():
            window, revision = _parts(message_id)
            highest[window] = max(highest.get(window, (0, b"")), (revision, body))
        return highest

    def _handle(self, message: Message) -> None:
        before = self.seen.get(message.message_id)
        if before is not None:
            self.repeats += 1
            if before != message.body:
                self.conflicts.append((message.message_id, before, message.body))
            return
        self.seen[message.message_id] = message.body
        window, revision = _parts(message.message_id)
        self.orders.setdefault(window, []).append(revision)


def _parts(message_id: str) -> tuple[str, int]:
    window, _, revision = message_id.rpartition(":")
    return window, int(revision)
