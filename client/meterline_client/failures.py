"""Events that are given up: each is told to the callback, and all of them to the next flush or close."""

from __future__ import annotations

import logging
from collections.abc import Callable

from meterline_client.errors import DeliveryFailed, MeterlineClientError, SpoolError
from meterline_client.events import id_of
from meterline_client.outcomes import Failure
from meterline_client.packing import Envelope

log = logging.getLogger("meterline.client")


class Failures:
    """events: how many, ever. callback: called once for each; what it raises is logged, and stops nothing."""

    def __init__(self, callback: Callable[[Failure], object] | None) -> None:
        self.events = 0
        self._callback = callback
        self._first: DeliveryFailed | None = None
        self._unreported = 0

    def add(self, envelope: Envelope, error: MeterlineClientError) -> None:
        """The events of the envelope are given up, because of that error."""
        self.events += envelope.events
        self._unreported += envelope.events
        try:
            events = envelope.parts()
        except SpoolError as unreadable:
            log.error("%d events for partition %d cannot be read: %s", envelope.events, envelope.partition, unreadable)
            events = []
        first = id_of(events[0]) if events else "unreadable"
        log.error("partition %d: %d events from %s on failed: %s", envelope.partition, envelope.events, first, error)
        if self._first is None:
            what = f"event {first} (partition {envelope.partition}): {error.what}"
            self._first = DeliveryFailed(first, envelope.partition, what, hint=error.hint)
        if self._callback is None:
            return
        for event in events:
            failure = Failure(id_of(event), envelope.partition, event, error)
            try:
                self._callback(failure)
            except Exception:
                log.exception("on_failure raised, for event %s", failure.event_id)

    def report(self) -> None:
        """Raises DeliveryFailed if events were given up since the last report."""
        first, count = self._first, self._unreported
        self._first, self._unreported = None, 0
        if first is not None:
            what = f"{count} events failed; the first: {first.what}"
            raise DeliveryFailed(first.event_id, first.partition, what, events=count, hint=first.hint)
