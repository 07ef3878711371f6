"""Envelopes over AMQP, with azure-eventhub: the extra `amqp`. The partition is named, so it is the one Kafka would take."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError
from azure.eventhub import EventData, TransportType
from azure.eventhub.aio import EventHubProducerClient
from azure.eventhub.exceptions import AuthenticationError, EventHubError

from meterline_client.errors import ConfigurationError, TransportError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("meterline.client")

CONTENT_TYPE = "application/cloudevents-batch+json"
"""A JSON array of CloudEvents (CloudEvents JSON format 1.0, §4)."""
ROUTED = "meterline-routed"
"""The property that says: the partition was chosen by the subject. AMQP has no Kafka key."""
CLOSE_S = 2.0
"""How long the SDK may take to end in order."""
_ROUTED_CHARACTERS = 128


class AmqpTransport:
    """Give `connection_string`, or `namespace` (`name.servicebus.windows.net`) and `credential` (Entra ID).

    websockets: port 443 instead of 5671. send_timeout_s: how long one attempt may take, to connect or to send. Offsets are not
    told over AMQP.
    """

    def __init__(
        self,
        topic: str,
        *,
        connection_string: str | None = None,
        namespace: str | None = None,
        credential: AsyncTokenCredential | None = None,
        websockets: bool = False,
        send_timeout_s: float = 60.0,
    ) -> None:
        self.topic = topic
        self._send_timeout_s = send_timeout_s
        transport = TransportType.AmqpOverWebsocket if websockets else TransportType.Amqp
        # retry_total=0: attempts are ours, with the order of each partition in mind.
        options: dict[str, Any] = {"eventhub_name": topic, "retry_total": 0, "transport_type": transport}
        if connection_string is not None and namespace is None:
            self._new = partial(EventHubProducerClient.from_connection_string, connection_string, **options)
            try:
                self._client: EventHubProducerClient | None = self._new()
            except ValueError:
                raise ConfigurationError(
                    "that is no Event Hubs connection string",
                    hint="copy it from the namespace's Shared access policies, whole",
                ) from None
        elif connection_string is None and namespace is not None and credential is not None:
            self._new = partial(EventHubProducerClient, namespace, credential=credential, **options)
            self._client = self._new()
        else:
            raise ConfigurationError(
                "no event hub is named, or two are", hint="give connection_string, or namespace and credential"
            )

    def __repr__(self) -> str:
        return f"AmqpTransport({self.topic!r})"

    async def open(self) -> int:
        """Connect; how many partitions the event hub has. Raises ConfigurationError, or TransportError (retryable)."""
        if self._client is None:  # the SDK's does not work again once it is closed
            self._client = self._new()
        try:
            async with asyncio.timeout(self._send_timeout_s):
                return len(await self._client.get_partition_ids())
        except AuthenticationError as error:
            raise ConfigurationError(
                f"event hub {self.topic!r}: the key was refused",
                hint="copy the connection string again from the namespace's Shared access policies; it needs Send",
            ) from error
        except (AzureError, EventHubError, OSError) as error:
            raise self._explained(error) from error

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        """Append one record. Raises TransportError."""
        event = EventData(value)
        event.content_type = CONTENT_TYPE
        event.properties = {ROUTED: key.decode()[:_ROUTED_CHARACTERS]}
        if self._client is None:
            raise TransportError(f"event hub {self.topic!r}: not connected", retryable=True)
        try:
            # The SDK's own timeout does not count while it connects: a peer that takes a connection and stays silent holds it.
            async with asyncio.timeout(self._send_timeout_s):
                batch = await self._client.create_batch(partition_id=str(partition))
                batch.add(event)
                await self._client.send_batch(batch, timeout=self._send_timeout_s)
        except ValueError as error:
            raise TransportError(
                f"{self.topic}: a record of {len(value)} bytes is larger than the event hub takes: {error}",
                retryable=False,
                hint="an event larger than that has to be split by its sender",
            ) from error
        except (AzureError, EventHubError, OSError) as error:  # TimeoutError is an OSError
            raise self._explained(error) from error
        return None

    async def close(self) -> None:
        """Give up what is on the road, and the connections. Returns within seconds, whatever the broker does."""
        client, self._client = self._client, None
        if client is None:
            return
        closing = asyncio.ensure_future(client.close())
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if not closing.done():
            log.warning("%r does not answer; what was on the road may have arrived or not", self)
            closing.cancel()
            await asyncio.wait({closing}, timeout=CLOSE_S)
        elif (error := closing.exception()) is not None:
            log.warning("%r did not close in order: %s", self, error)

    def _explained(self, error: Exception) -> TransportError:
        message = getattr(error, "message", None) or str(error) or f"no answer within {self._send_timeout_s:g} s"
        return TransportError(
            f"event hub {self.topic!r}: {type(error).__name__}: {message}",
            retryable=True,
            hint="does the hub exist? check its name, the connection string, network and firewall",
        )
