"""One envelope to the broker, as often as it takes: the same bytes to the same partition until it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import random

from meterline_client.clock import Clock, sleep, within
from meterline_client.errors import ConfigurationError, MeterlineClientError, TransportError
from meterline_client.packing import Envelope
from meterline_client.transport import Transport

log = logging.getLogger("meterline.client")

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 10.0


class Delivery:
    """Attempts, with growing pauses in between, a fifth more or less, so that many producers do not come back at once.

    timeout_s: so long after its turn has come an envelope is given up, connected or not; None: never.
    """

    def __init__(self, transport: Transport, clock: Clock, timeout_s: float | None) -> None:
        self._troubles: dict[int | None, MeterlineClientError] = {}
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s
        self._connected = asyncio.Event()

    @property
    def trouble(self) -> MeterlineClientError | None:
        """What stands in the way of an envelope on the road, or of connecting; None: nothing."""
        return next(iter(self._troubles.values()), None)

    async def connect(self, told: int | None) -> int:
        """Open the transport; how many partitions there are. Raises what `open` raises.

        told: the caller knows their number already, and goes on; then it is tried until it succeeds and is confirmed.
        """
        if told is None:
            found = await self._transport.open()
            self._connected.set()
            return found
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                found = await self._transport.open()
                if found == told:
                    break
                await self._transport.close()
                raise ConfigurationError(
                    f"{self._transport.topic} has {found} partitions, not {told}",
                    hint="correct `partitions`: a subject has its partition by their number",
                )
            except (ConfigurationError, TransportError) as error:
                self._troubles[None] = error
                log.warning("not connected yet: %s", error)
            pause_s = await self._paused(pause_s)
        self._troubles.clear()
        self._connected.set()
        return told

    async def deliver(self, envelope: Envelope) -> int | None:
        """The envelope's offset, once it is acknowledged. Raises the error after which it is given up."""
        value = envelope.value()
        try:
            if self._timeout_s is None:
                return await self._attempts(envelope, value)
            return await self._in_time(envelope, value, self._timeout_s)
        finally:
            self._troubles.pop(envelope.partition, None)  # sent or given up, nothing stands in its way

    async def _in_time(self, envelope: Envelope, value: bytes, timeout_s: float) -> int | None:
        trying = asyncio.ensure_future(self._attempts(envelope, value))
        try:
            await within(self._clock, trying, timeout_s)
        finally:
            trying.cancel()
            await asyncio.wait({trying})
        if not trying.cancelled():
            return trying.result()
        raise (
            self._troubles.get(envelope.partition)
            or self._troubles.get(None)
            or TransportError(f"partition {envelope.partition}: no answer within {timeout_s:g} s", retryable=True)
        )

    async def _attempts(self, envelope: Envelope, value: bytes) -> int | None:
        await self._connected.wait()
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                return await self._transport.send(envelope.partition, envelope.key, value)
            except TransportError as error:
                if not error.retryable:
                    raise
                self._troubles[envelope.partition] = error
            except Exception as error:  # nobody knows what mends it, and no event is given up for that
                log.exception("partition %d: a defect of the transport", envelope.partition)
                self._troubles[envelope.partition] = TransportError(
                    f"{type(error).__name__}: {error}", retryable=True, hint="a defect of the transport: report it"
                )
            trouble = self._troubles[envelope.partition]
            log.warning("partition %d, %d events, tried again: %s", envelope.partition, envelope.events, trouble)
            pause_s = await self._paused(pause_s)

    async def _paused(self, pause_s: float) -> float:
        await sleep(self._clock, pause_s * random.uniform(0.8, 1.2))
        return min(2 * pause_s, BACKOFF_MOST_S)
