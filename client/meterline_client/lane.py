"""A lane: the events for one partition, in the order of their acceptance, as envelopes that leave one after the other.

Order is what makes retries safe: the lane has one envelope on the road at a time, and the next one leaves when that one
is settled. So nothing overtakes, and the counters in the ids follow the order in the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from meterline_client.errors import SpoolError
from meterline_client.packing import Envelope
from meterline_client.spool import DiskSpan, Spool


class Lane:
    """Pure but for `wake`. counter: of the last id given here; position: how many events were accepted, any id.

    on_road: the envelope that was taken and is not settled. stored: envelopes on disk that were not taken yet; while
    there are any, new events go behind them, to disk.
    """

    def __init__(self, partition: int, run: str) -> None:
        self.partition = partition
        self.id_prefix = f"{run}-{partition}-"
        self.head = b'{"specversion":"1.0","id":"' + self.id_prefix.encode()
        self.counter = 0
        self.position = 0
        self.stored = 0
        self.on_road: Envelope | None = None
        self.wake = asyncio.Event()
        self._queue: deque[Envelope] = deque()
        self._open: Envelope | None = None
        self._last_on_disk = False

    @property
    def last(self) -> Envelope | None:
        """The envelope behind which nothing waits: when it is settled, all is. None: nothing is pending."""
        return self._queue[-1] if self._queue else self.on_road

    def recovered(self, envelope: Envelope) -> None:
        """Queue an envelope of an earlier producer, before the first event of this one."""
        assert envelope.on_disk and not self.position
        self._queue.append(envelope)
        self.stored += 1

    def keep(self, key: bytes, event: bytes) -> tuple[Envelope, int]:
        """Accept an event into memory; its envelope, and its place there."""
        envelope = self._open
        if envelope is None or envelope.on_disk or not envelope.fits(event):
            envelope = self._begin(key)
            self._last_on_disk = False
        self.position += 1
        return envelope, envelope.add(event)

    def store(self, spool: Spool, key: bytes, event: bytes) -> tuple[Envelope, int]:
        """Accept an event onto disk. Raises SpoolError, and then it was not accepted."""
        envelope = self._open
        if (
            envelope is None
            or not isinstance(envelope.span, DiskSpan)
            or envelope.span.full
            or not envelope.fits(event)
        ):
            span = spool.span(self.partition, self.position, fresh=not self._last_on_disk)
            try:
                span.append(key, event)
            except SpoolError:
                span.settled()
                raise
            envelope = self._begin(key)
            envelope.moved_to(span)
            self.stored += 1
            self._last_on_disk = True
        else:
            envelope.span.append(key, event)
        self.position += 1
        return envelope, envelope.count(event)

    def ready(self, *, hurry: bool) -> bool:
        """Whether the first envelope should leave now: it is full, has waited long enough, or there is a hurry."""
        if not self._queue:
            return False
        first = self._queue[0]
        return hurry or first is not self._open or first.due

    def due(self, envelope: Envelope) -> None:
        """The envelope has waited long enough."""
        envelope.due = True
        self.wake.set()

    def hurry(self) -> None:
        """What is open leaves as soon as the road is free. Until then it takes more: a flush after each event costs no room."""
        if self._open is not None:
            self._open.due = True
        self.wake.set()

    def take(self) -> Envelope:
        """The first envelope, for the road."""
        assert self.on_road is None
        envelope = self._queue.popleft()
        if envelope is self._open:
            self._open = None
        if envelope.timer is not None:
            envelope.timer.cancel()
        if envelope.on_disk:
            self.stored -= 1
        self.on_road = envelope
        return envelope

    def settled(self) -> None:
        """The envelope on the road has its outcome."""
        assert self.on_road is not None and self.on_road.settled
        self.on_road = None

    def pending(self) -> Iterator[Envelope]:
        """All that is not settled, in order."""
        if self.on_road is not None:
            yield self.on_road
        yield from self._queue

    def _begin(self, key: bytes) -> Envelope:
        envelope = self._open = Envelope(self.partition, key, id_prefix=self.id_prefix)
        envelope.position = self.position
        self._queue.append(envelope)
        return envelope
