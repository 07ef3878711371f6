"""Packs events into envelopes of at most 64 KB, one after the other per partition. Pure.

Event Hubs bills and meters a record per 64 KB (design §6): an envelope of hundreds of events costs what one event costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schemas.hashing import partition_for

ENVELOPE_BYTES = 64_000
"""Under 64 KiB, with room for the key and the record's own bytes."""


class Envelope(NamedTuple):
    """One record to send. key: the subject of its first event; events: how many it carries."""

    partition: int
    key: bytes
    value: bytes
    events: int


class Packer:
    """Collects events per partition, chosen by subject, and gives envelopes as they become full.

    An event too large for an envelope goes alone, as it is: the broker decides whether it is too large for a record.
    """

    def __init__(self, partitions: int, envelope_bytes: int = ENVELOPE_BYTES) -> None:
        self._most = envelope_bytes
        self._partitions = partitions
        self._subjects = [""] * partitions
        self._events: list[list[bytes]] = [[] for _ in range(partitions)]
        self._sizes = [2] * partitions

    def add(self, subject: str, event: bytes) -> Iterator[Envelope]:
        """Takes one event, JSON, and gives the envelope that it no longer fitted in, if there is one."""
        partition = partition_for(subject, self._partitions)
        if self._events[partition] and self._sizes[partition] + len(event) + 1 > self._most:
            yield self._take(partition)
        if not self._events[partition]:
            self._subjects[partition] = subject
        self._events[partition].append(event)
        self._sizes[partition] += len(event) + 1

    def rest(self) -> Iterator[Envelope]:
        """Whatever is left, as envelopes."""
        for partition, events in enumerate(self._events):
            if events:
                yield self._take(partition)

    def _take(self, partition: int) -> Envelope:
        events = self._events[partition]
        value = events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]"
        taken = Envelope(partition, self._subjects[partition].encode(), value, len(events))
        self._events[partition] = []
        self._sizes[partition] = 2
        return taken
