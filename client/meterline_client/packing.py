"""Envelopes: the JSON arrays that become records, at most 64 KB each. Pure but for the future that waiters share.

Event Hubs bills a record per 64 KB and meters 1000 records a second per throughput unit (Event Hubs FAQ): an envelope of
hundreds of events costs what one event costs.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from meterline_client.clock import Timer
from meterline_client.errors import MeterlineClientError

ENVELOPE_BYTES = 64_000
"""Under 64 KiB, with room for the key and the record's own bytes."""
EVENT_OVERHEAD_BYTES = 56
"""What an event in memory takes besides its JSON: the bytes object and its place in a list (64-bit CPython)."""
_BRACKETS = 2


class Span(Protocol):
    """Where an envelope's events are on disk."""

    def read(self) -> list[bytes]:
        """The events, in order. Raises SpoolError."""

    def settled(self) -> None:
        """They are no longer needed."""


class Envelope:
    """The events of one record to be: open while it takes events, then taken once, then settled.

    key: the subject of its first event, UTF-8. position: which event of its lane that is, -1 for an earlier producer's.
    events: how many. size: of its value, in bytes. due: whether it has waited long enough; timer: who will say so.
    span: where its events are, if they are on disk. offset and error: the outcome, once settled.
    """

    __slots__ = (
        "_future", "_most", "_parts", "due", "error", "events", "id_prefix", "key", "memory_bytes", "offset",
        "partition", "position", "settled", "size", "span", "timer",
    )  # fmt: skip

    def __init__(self, partition: int, key: bytes, *, id_prefix: str = "", most: int = ENVELOPE_BYTES) -> None:
        self.partition = partition
        self.key = key
        self.id_prefix = id_prefix
        self.events = 0
        self.size = _BRACKETS - 1  # the comma that the first event does not have
        self.memory_bytes = 0
        self.position = -1
        self.due = False
        self.timer: Timer | None = None
        self.span: Span | None = None
        self.settled = False
        self.offset: int | None = None
        self.error: MeterlineClientError | None = None
        self._most = most
        self._parts: list[bytes] = []
        self._future: asyncio.Future[None] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether its events are on disk, not in memory."""
        return self.span is not None

    def fits(self, event: bytes) -> bool:
        """Whether the event can be added. An empty envelope takes any: one too large for 64 KB goes alone."""
        return self.events == 0 or self.size + len(event) + 1 <= self._most

    def add(self, event: bytes) -> int:
        """Take an event into memory; its index."""
        length = len(event)
        self._parts.append(event)
        self.memory_bytes += length + EVENT_OVERHEAD_BYTES
        self.size += length + 1
        self.events += 1
        return self.events - 1

    def count(self, event: bytes) -> int:
        """Take an event that is on disk in this envelope's span; its index."""
        self.size += len(event) + 1
        self.events += 1
        return self.events - 1

    def parts(self) -> list[bytes]:
        """The events, in order, from memory or from disk. Raises SpoolError."""
        return self._parts if self.span is None else self.span.read()

    def value(self) -> bytes:
        """The record's value: a JSON array. The same bytes at every call. Raises SpoolError."""
        return b"[" + b",".join(self.parts()) + b"]"

    def moved_to(self, span: Span) -> None:
        """Its events are on disk now, and leave memory."""
        self.span = span
        self._parts = []
        self.memory_bytes = 0

    async def wait(self) -> None:
        """Return once it is settled. Waiting may be cancelled; others wait on."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._future)

    def settle(self, offset: int | None, error: MeterlineClientError | None) -> None:
        """The outcome, once and for all."""
        assert not self.settled
        self.settled = True
        self.offset = offset
        self.error = error
        self._parts = []
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
