"""Writing usage records to Event Hubs over AMQP, with the Azure SDK: the same face as `transport.sending.UsageProducer`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from azure.core.exceptions import AzureError
from azure.eventhub import EventData, EventDataBatch
from azure.eventhub.aio import EventHubProducerClient
from azure.eventhub.exceptions import AuthenticationError, ConnectError, EventHubError

from schemas.errors import BrokerError, ConfigurationError, MeterlineError, SendFailed
from schemas.events import tick
from settings import Settings

ANSWER_S = 60.0
"""How long a call may take. The SDK's own timeouts do not count while it connects to a peer that says nothing."""
CLOSE_S = 5.0
"""How long the SDK may take to end in order: everything was acknowledged before, or has failed."""
_WHERE = "METERLINE_EVENTHUBS_AMQP_CONNECTION_STRING, METERLINE_EVENTHUBS_CONNECTION_STRING"


class AmqpProducer:
    """`async with AmqpProducer(settings) as producer`: sends to the event hub named as the usage topic.

    Records of one partition keep their order. AMQP has no Kafka key (`azure.md` §2): the partition is chosen by the caller,
    and the record counts as keyless. Raises ConfigurationError without a connection string, or for a refused key.
    """

    partitions: int

    def __init__(self, settings: Settings) -> None:
        connection = settings.eventhubs_amqp_connection_string or settings.eventhubs_connection_string
        if not connection:
            raise ConfigurationError(
                "no Event Hubs connection string is configured",
                where=_WHERE,
                hint="set one of them, or send without --amqp",
            )
        self._hub = settings.usage_topic
        self._client = EventHubProducerClient.from_connection_string(connection, eventhub_name=self._hub)
        self._batches: dict[int, EventDataBatch] = {}

    async def __aenter__(self) -> AmqpProducer:
        try:
            async with asyncio.timeout(ANSWER_S):
                self.partitions = len(await self._client.get_partition_ids())
        except (AzureError, EventHubError, TimeoutError) as error:
            await self._close()
            raise self._explained(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def send(
        self, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Append after everything sent to this partition before; acknowledged by `flush` at the latest."""
        assert not headers, "records over AMQP carry no headers of ours"
        event = EventData(value)
        event.content_type = "application/cloudevents+json"
        if key is not None:
            event.properties = {"meterline-routed": key.decode(errors="replace")[:128]}
        batch = self._batches.get(partition)
        try:
            if batch is not None:
                try:
                    batch.add(event)
                    return
                except ValueError:  # full
                    await self._send(partition)
            async with asyncio.timeout(ANSWER_S):
                batch = await self._client.create_batch(partition_id=str(partition))
            batch.add(event)
        except ValueError as error:
            raise SendFailed(
                f"{self._hub}: an event of {len(value)} bytes is larger than the hub takes: {error}"
            ) from error
        except (AzureError, EventHubError, TimeoutError) as error:
            raise self._explained(error) from error
        self._batches[partition] = batch

    async def tick(self, time_ms: int, source: str) -> None:
        """Append to every partition, after all that was sent, the promise that nothing older than `time_ms` will come."""
        await self.flush()
        for partition in range(self.partitions):
            await self.send(partition, None, tick(time_ms, source, f"tick-{time_ms}-{partition}"))
        await self.flush()

    async def flush(self) -> None:
        """Return when everything is acknowledged. Raises SendFailed or ConfigurationError."""
        for partition in list(self._batches):
            try:
                await self._send(partition)
            except (AzureError, EventHubError, TimeoutError) as error:
                raise self._explained(error) from error

    async def _send(self, partition: int) -> None:
        async with asyncio.timeout(ANSWER_S):
            await self._client.send_batch(self._batches[partition])
        del self._batches[partition]

    async def _close(self) -> None:
        closing = asyncio.ensure_future(self._client.close())
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if closing.done():
            closing.result()
        closing.cancel()

    def _explained(self, error: Exception) -> MeterlineError:
        if isinstance(error, AuthenticationError):
            return ConfigurationError(
                "Event Hubs refused the key",
                where=_WHERE,
                hint="copy the connection string again from the namespace's Shared access policies; it needs Send",
            )
        if isinstance(error, ConnectError | TimeoutError):
            what = f"no answer within {ANSWER_S:.0f} s" if isinstance(error, TimeoutError) else error.message
            return BrokerError(
                f"no connection to event hub {self._hub!r}: {what}",
                hint="does the hub exist? check its name, the connection string, network and firewall",
            )
        assert isinstance(error, EventHubError), error
        return SendFailed(
            f"{self._hub}: {type(error).__name__}: {error.message}",
            hint="send again: what arrived before is recognised by its id and not counted twice",
        )
