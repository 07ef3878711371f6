"""Writing usage records over Kafka: in order per partition, each acknowledged by all replicas, nothing lost silently.

Used by whatever plays producer here: `send`, the generator of laptop mode. The partition is always the caller's choice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer, errors

from schemas.errors import MeterlineError, SendFailed
from schemas.events import tick
from settings import Settings
from transport.client import client_options, connected, diagnose, missing_topic
from transport.throttling import Throttling, be_patient

LINGER_MS = 10
MAX_BATCH_BYTES = 262_144
MAX_UNACKNOWLEDGED = 2_000


class _Record(NamedTuple):
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class _Pending(NamedTuple):
    acknowledged: asyncio.Future[Any]
    record: _Record
    resends: int


class UsageProducer:
    """`async with UsageProducer(settings) as producer`: sends to the usage topic.

    partitions: how many the topic has. Entering raises what `transport.client.diagnose` makes of a broker that cannot be
    used, and ConfigurationError for a missing topic. Memory is bounded: `send` waits while too much is unacknowledged.

    resends: how often a record that was not acknowledged within the client's own patience (a minute) is sent again, behind
    what was sent meanwhile. It may then be in the log twice: what has an id is counted once all the same.
    """

    partitions: int

    def __init__(self, settings: Settings, *, resends: int = 0) -> None:
        self._settings = settings
        self._topic = settings.usage_topic
        self._resends = resends
        self._pending: deque[_Pending] = deque()

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            **client_options(self._settings), acks="all", linger_ms=LINGER_MS, max_batch_size=MAX_BATCH_BYTES
        )
        be_patient(self._producer, Throttling())
        try:
            await self._producer.start()
            await connected(self._settings, self._producer.client.cluster)
            # All topics, never by name: asking for a name creates it on a broker that may create topics by itself.
            cluster = await self._producer.client.fetch_all_metadata()
        except (TimeoutError, errors.KafkaError, OSError, MeterlineError) as error:
            await self._producer.stop()
            raise await diagnose(error, self._settings) from error
        found = cluster.partitions_for_topic(self._topic)
        if not found:
            await self._producer.stop()
            raise missing_topic(self._topic, self._settings)
        self.partitions = len(found)
        return self

    async def __aexit__(self, *_: object) -> None:
        for pending in self._pending:
            pending.acknowledged.cancel()
        await self._producer.stop()

    async def send(
        self, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Append after everything sent to this partition before. Raises SendFailed as soon as any send has failed."""
        await self._settle(MAX_UNACKNOWLEDGED)
        await self._append(_Record(partition, key, value, tuple(headers)), self._resends)

    async def tick(self, time_ms: int, source: str) -> None:
        """Append to every partition, after all that was sent, the promise that nothing older than `time_ms` will come."""
        await self.flush()
        for partition in range(self.partitions):
            await self.send(partition, None, tick(time_ms, source, f"tick-{time_ms}-{partition}"))
        await self.flush()

    async def flush(self) -> None:
        """Return when everything is acknowledged. Raises SendFailed."""
        await self._settle(0)

    async def _append(self, record: _Record, resends: int) -> None:
        while True:
            try:
                acknowledged = await self._producer.send(
                    self._topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
            except errors.KafkaError as error:
                if resends == 0:
                    raise self._failed(error) from error
                resends -= 1
            else:
                self._pending.append(_Pending(acknowledged, record, resends))
                return

    async def _settle(self, most: int) -> None:
        while len(self._pending) > most:
            pending = self._pending.popleft()
            try:
                await pending.acknowledged
            except errors.KafkaError as error:
                if pending.resends == 0:
                    raise self._failed(error) from error
                await self._append(pending.record, pending.resends - 1)

    def _failed(self, error: errors.KafkaError) -> SendFailed:
        return SendFailed(
            f"{self._topic}: a record was not acknowledged: {type(error).__name__}: {error}",
            hint="send again: what arrived before is recognised by its id and not counted twice",
        )
