"""What a producer asks of a transport. Two of them: `kafka.KafkaTransport`, `amqp.AmqpTransport`."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """Appends envelopes to the partitions of one topic (an event hub).

    The guarantee: when `send` returns, the broker has the record, as durably as it can (`acks=all`). When it raises, the
    broker may have it or not. The producer never has two calls for one partition at a time.
    """

    topic: str

    async def open(self) -> int:
        """Connect; how many partitions the topic has. Raises ConfigurationError, or TransportError (retryable)."""

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        """Append one record; its offset, None where the protocol does not tell. Raises TransportError."""

    async def close(self) -> None:
        """Give up what is on the road, and the connections. Returns within seconds, whatever the broker does."""
