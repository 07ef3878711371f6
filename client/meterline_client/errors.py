"""The errors of the client: one tree, and a caller branches on data, not on names.

::

    MeterlineClientError               retryable: bool, hint: what to do
    ├── ConfigurationError             a setting, a key or a topic is wrong
    ├── EventRefused                   this event can never be sent as it is
    ├── SpoolFull                      there is no room now; nothing was accepted
    ├── SpoolError                     the spool directory cannot be used, written or read
    ├── Closed                         the producer was closed
    ├── TransportError                 the broker did not take an envelope
    ├── DeliveryFailed                 an event has no acknowledgement, and will not be tried again: event_id, partition
    └── StillSpooled                   an event is on disk, for the next producer with this directory: event_id, partition
"""

from __future__ import annotations


class MeterlineClientError(Exception):
    """Root of all. `retryable`: the same call may succeed later. `hint`: what the reader should do."""

    retryable: bool = False

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} -> {self.hint}" if self.hint else self.what


class ConfigurationError(MeterlineClientError):
    """Somebody has to change a setting, a key or a topic."""


class EventRefused(MeterlineClientError):
    """An event that no attempt could send: a subject too long, data that is no JSON, larger than all memory."""


class SpoolFull(MeterlineClientError):
    """No room in memory, nor on disk where there is a spool. The event was not accepted."""

    retryable = True


class SpoolError(MeterlineClientError):
    """The spool directory is in use by another producer, or a file in it cannot be written or read."""


class Closed(MeterlineClientError):
    """The producer was closed, or not started. The event was not accepted."""


class TransportError(MeterlineClientError):
    """The broker did not acknowledge an envelope; it may have it all the same. `retryable`: it may take it later."""

    def __init__(self, what: str, *, retryable: bool, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.retryable = retryable


class DeliveryFailed(MeterlineClientError):
    """An event without an acknowledgement that is not tried again. It may be in the log: send it again under its id only.

    event_id and partition: of the (first) event. events: how many this error speaks of.
    """

    def __init__(self, event_id: str, partition: int, what: str, *, events: int = 1, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.event_id = event_id
        self.partition = partition
        self.events = events


class StillSpooled(MeterlineClientError):
    """The producer was closed while the event was on disk. The next producer with this spool directory sends it."""

    retryable = True

    def __init__(self, event_id: str, partition: int) -> None:
        super().__init__(
            f"event {event_id} (partition {partition}) is not sent yet, but on disk",
            hint="start a producer with the same spool_dir",
        )
        self.event_id = event_id
        self.partition = partition
