"""The Event Hubs bridge: AMQP producers of an event hub are passed on to a Kafka topic.

On Azure one event hub is both at once; here the Kafka side is a broker of its own. An event is acknowledged to its
producer only after Kafka acknowledged it (acks=all), so a lost acknowledgement leads to a resend and possibly a
duplicate, as on Azure. What a Kafka consumer sees follows azure.md section 2: the body's bytes, a null key, the
partition key as header `x-opt-partition-key`, and application properties as headers whose values are AMQP-encoded.

A batch goes to one partition, whole: the one the link names, the one its partition key hashes to, or the next in turn.
Receiving over AMQP is refused: read the topic over Kafka.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from . import codec, errors, message
from .errors import Refusal
from .links import AttachRequest, Inbound, Outbound
from .message import Reply, Request

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)

MAX_PUBLICATION_BYTES = 1024 * 1024  # azure.md 1.1, Standard
_PARTITION_KEY = "x-opt-partition-key"


@dataclass(frozen=True, slots=True)
class Event:
    """One event on its way: the record's value and headers. `partition_key` None where the producer gave none."""

    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    partition_key: str | None


@dataclass(frozen=True, slots=True)
class Extent:
    """What a partition holds: the offsets [begin, end), and when the last record was appended (ms UTC, 0 if none)."""

    begin: int
    end: int
    last_ms: int


class Forwarder(Protocol):
    """The Kafka side. `send` keeps the order of its calls and returns a future that fails unless Kafka has it."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def partition_count(self, topic: str) -> int: ...
    async def send(self, topic: str, partition: int, event: Event) -> Awaitable[object]: ...
    async def extent(self, topic: str, partition: int) -> Extent: ...


class EventHubs:
    """The configured hubs (name to topic) over one forwarder."""

    def __init__(self, hubs: Mapping[str, str], forwarder: Forwarder) -> None:
        self.forwarder = forwarder
        self._names = {name.lower(): name for name in hubs}
        self._topics = {name.lower(): topic for name, topic in hubs.items()}
        self._counts: dict[str, int] = {}
        self._turn = 0
        self._created_ms = int(time.time() * 1000)
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def over_kafka(cls, hubs: Mapping[str, str], bootstrap: str) -> EventHubs:
        from .kafka import KafkaForwarder  # aiokafka only where hubs are bridged

        return cls(hubs, KafkaForwarder(bootstrap))

    async def start(self) -> None:
        """Raises RuntimeError when a hub's topic does not exist."""
        await self.forwarder.start()
        for hub, topic in self._topics.items():
            self._counts[hub] = await self.forwarder.partition_count(topic)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.forwarder.close()

    def knows(self, path: str) -> bool:
        return path.split("/")[0] in self._topics

    def link_for(self, session: Session, request: AttachRequest, path: str) -> HubSink | HubReader:
        """A producer's link on `<hub>` or `<hub>/Partitions/<n>`; a reader's, which is told off. Raises Refusal."""
        hub, *rest = path.split("/")
        if request.receiving:
            where = f"Read it over Kafka, topic '{self._topics[hub]}'."
            text = f"Event hub '{self._names[hub]}' is only written over AMQP here. {where}"
            return HubReader(session, request, path, Refusal(errors.NOT_IMPLEMENTED, text))
        if not rest:
            return HubSink(session, request, path, self, hub, None)
        if len(rest) == 2 and rest[0] == "partitions" and rest[1].isdigit() and int(rest[1]) < self._counts[hub]:
            return HubSink(session, request, path, self, hub, int(rest[1]))
        if len(rest) == 2 and rest[0] == "partitions":
            raise Refusal(
                errors.ARGUMENT_OUT_OF_RANGE,
                f"The specified partition is invalid for an EventHub partition sender or receiver. It should be "
                f"between 0 and {self._counts[hub] - 1}.",
            )
        raise errors.entity_not_found(request.address)

    def partition(self, hub: str, partition_key: str | None) -> int:
        """Where a batch without a fixed partition goes."""
        if partition_key is not None:
            return abs(hash_code(partition_key)) % self._counts[hub]
        self._turn += 1
        return self._turn % self._counts[hub]

    def topic(self, hub: str) -> str:
        return self._topics[hub]

    def run(self, work: Awaitable[None]) -> None:
        """Do something in the background; `close` cancels it."""

        async def task() -> None:
            await work

        running = asyncio.get_running_loop().create_task(task())
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    def answer(self, request: Request, later: Callable[[Reply], None]) -> Reply | None:
        """`$management` READ of a hub or one of its partitions."""
        name = codec.text(request.properties.get("name")) or ""
        kind = codec.text(request.properties.get("type")) or ""
        hub = name.lower()
        if hub not in self._topics:
            raise errors.entity_not_found(name)
        if request.operation() != "READ" or kind not in ("com.microsoft:eventhub", "com.microsoft:partition"):
            raise Refusal(errors.NOT_IMPLEMENTED, f"The operation '{request.operation()}' is not supported.")
        if kind == "com.microsoft:eventhub":
            return _reply(
                name=codec.string(self._names[hub]),
                type=codec.string(kind),
                created_at=codec.timestamp(self._created_ms),
                partition_count=codec.int32(self._counts[hub]),
                partition_ids=codec.array_of([codec.string(str(number)) for number in range(self._counts[hub])]),
            )
        partition = codec.text(request.properties.get("partition")) or ""
        if not partition.isdigit() or int(partition) >= self._counts[hub]:
            raise Refusal(errors.ARGUMENT_OUT_OF_RANGE, f"Partition '{partition}' does not exist.")
        self.run(self._describe(hub, int(partition), later))
        return None

    async def _describe(self, hub: str, partition: int, later: Callable[[Reply], None]) -> None:
        try:
            extent = await self.forwarder.extent(self._topics[hub], partition)
        except Exception as failure:
            log.warning("Kafka does not tell about partition %d of %s: %r", partition, self._topics[hub], failure)
            later(Reply(503, "The event hub's Kafka broker does not answer.", errors.SERVER_BUSY))
            return
        later(
            _reply(
                name=codec.string(self._names[hub]),
                type=codec.string("com.microsoft:partition"),
                partition=codec.string(str(partition)),
                begin_sequence_number=codec.long(extent.begin),
                last_enqueued_sequence_number=codec.long(extent.end - 1),
                last_enqueued_offset=codec.string(str(extent.end - 1)),
                last_enqueued_time_utc=codec.timestamp(extent.last_ms),
                is_partition_empty=codec.boolean(extent.begin >= extent.end),
            )
        )


class HubSink(Inbound):
    """A producer on an event hub, or on one partition of it."""

    prefetch = 300
    max_bytes = MAX_PUBLICATION_BYTES

    def __init__(
        self, session: Session, request: AttachRequest, path: str, hubs: EventHubs, hub: str, partition: int | None
    ) -> None:
        super().__init__(session, request, path)
        self._hubs = hubs
        self._hub = hub
        self._partition = partition
        self._waiting: asyncio.Queue[tuple[int, int, list[Event]]] = asyncio.Queue()
        self._unanswered = 0
        self._gone = False
        hubs.run(self._forward())

    def outstanding(self) -> int:
        return self._unanswered

    def deliver(self, delivery_id: int, message_format: int, payload: bytes) -> None:
        inner = message.batch(payload) if message_format == message.BATCH_FORMAT else [payload]
        events = [event_of(one) for one in inner]
        partition = self._partition
        if partition is None:
            partition = self._hubs.partition(self._hub, events[0].partition_key)
        elif events[0].partition_key is not None:
            raise Refusal(
                errors.NOT_ALLOWED, "An event with a partition key cannot be sent to a fixed partition of an event hub."
            )
        self._unanswered += 1
        self._waiting.put_nowait((delivery_id, partition, events))

    def closed(self) -> None:
        self._gone = True
        self._waiting.put_nowait((-1, 0, []))

    async def _forward(self) -> None:
        """Hand deliveries to Kafka in the order they came; answer each when Kafka has all of it."""
        topic = self._hubs.topic(self._hub)
        while True:
            delivery_id, partition, events = await self._waiting.get()
            if delivery_id < 0:
                return
            try:
                pending = [await self._hubs.forwarder.send(topic, partition, event) for event in events]
            except Exception as failure:
                self._answer(delivery_id, failure)
            else:
                self._hubs.run(self._await(delivery_id, pending))

    async def _await(self, delivery_id: int, pending: Sequence[Awaitable[object]]) -> None:
        results = await asyncio.gather(*pending, return_exceptions=True)
        self._answer(delivery_id, next((one for one in results if isinstance(one, BaseException)), None))

    def _answer(self, delivery_id: int, failure: BaseException | None) -> None:
        self._unanswered -= 1
        if self._gone:
            return
        if failure is None:
            self.accept(delivery_id)
        else:
            log.warning("Kafka did not take events for %s: %r", self._hub, failure)
            too_large = type(failure).__name__ == "MessageSizeTooLargeError"
            self.reject(
                delivery_id,
                Refusal(
                    errors.SIZE_EXCEEDED if too_large else errors.SERVER_BUSY,
                    "The event hub's Kafka broker did not take the events. They may have been written in part.",
                ),
            )
        self.grant()


class HubReader(Outbound):
    """A consumer on an event hub: refused, with the reason.

    It is attached first and detached at its first credit: the Python SDK never shows the reason of an attach that is
    refused outright, it tries again and again.
    """

    def __init__(self, session: Session, request: AttachRequest, path: str, refusal: Refusal) -> None:
        super().__init__(session, request, path)
        self._refusal = refusal

    def open(self) -> None:
        self.attach()

    def supply(self) -> None:
        self.detach(self._refusal)


def event_of(payload: bytes) -> Event:
    """One encoded AMQP message as an event. A body that is not binary keeps its AMQP encoding. Raises DecodeError."""
    value, encoded = b"", b""
    headers: list[tuple[str, bytes]] = []
    partition_key: str | None = None
    for code, start, value_at, end in codec.sections_of(payload):
        if code == codec.DATA:
            value += codec.decode(payload[value_at:end])
        elif code in (codec.VALUE, codec.SEQUENCE):
            encoded += payload[start:end]
        elif code == codec.APPLICATION_PROPERTIES:
            headers += [(codec.text(codec.decode(k)) or "", v) for k, v in codec.pairs_of(payload[value_at:end])]
        elif code == codec.ANNOTATIONS:
            for key, annotation in codec.pairs_of(payload[value_at:end]):
                if codec.text(codec.decode(key)) == _PARTITION_KEY:
                    partition_key = codec.text(codec.decode(annotation))
                    if partition_key is not None:
                        headers.append((_PARTITION_KEY, codec.string(partition_key)))
    return Event(value or encoded, tuple(headers), partition_key)


def hash_code(partition_key: str) -> int:
    """The hash by which Event Hubs' own clients choose a partition: Bob Jenkins' lookup3, folded to 16 signed bits."""
    data = partition_key.encode()
    if not data:
        return 0
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    while len(data) > 12:
        x, y, z = struct.unpack_from("<III", data)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
        data = data[12:]
    x, y, z = struct.unpack("<III", data.ljust(12, b"\0"))
    b, c = _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
    folded = (b ^ c) & 0xFFFF
    return folded - 0x10000 if folded & 0x8000 else folded


_MASK = 0xFFFFFFFF


def _rotated(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for by in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _MASK) ^ _rotated(c, by)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int]:
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, by)) & _MASK
        a, b, c = b, c, a
    # Seven turns over three registers leave them one place on.
    return a, b


def _reply(**members: bytes) -> Reply:
    return Reply(200, "OK", None, codec.map_of((codec.string(key), value) for key, value in members.items()))
