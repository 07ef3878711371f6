"""What becomes of an event: a handle to wait with, the receipt, the failure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from meterline_client.errors import DeliveryFailed, MeterlineClientError, StillSpooled

if TYPE_CHECKING:
    from meterline_client.packing import Envelope


class Receipt(NamedTuple):
    """Where an acknowledged event is.

    offset: of its envelope; None over AMQP, which does not tell. place: its index in the envelope.
    """

    partition: int
    offset: int | None
    place: int


class Failure(NamedTuple):
    """An event that will not be tried again. event: its bytes, a JSON CloudEvent, so that it can be kept elsewhere."""

    event_id: str
    partition: int
    event: bytes
    error: MeterlineClientError


class Sent:
    """An accepted event. Awaiting it gives its Receipt, or raises DeliveryFailed or StillSpooled with its id.

    Need not be awaited: what fails is also told by `flush`, `close` and `on_failure`. Waiting may be cancelled freely.
    """

    __slots__ = ("_envelope", "_id", "_index")

    def __init__(self, envelope: Envelope, index: int, id: str | int) -> None:
        self._envelope = envelope
        self._index = index
        self._id = id

    @property
    def event_id(self) -> str:
        """The event's CloudEvents id."""
        return self._id if isinstance(self._id, str) else f"{self._envelope.id_prefix}{self._id}"

    @property
    def partition(self) -> int:
        """The partition it goes to."""
        return self._envelope.partition

    @property
    def spooled(self) -> bool:
        """Whether it is on disk now, so that it survives the end of this process."""
        return self._envelope.on_disk and (not self.done or isinstance(self._envelope.error, StillSpooled))

    @property
    def done(self) -> bool:
        """Whether its outcome is known."""
        return self._envelope.settled

    def __await__(self) -> Generator[Any, None, Receipt]:
        envelope = self._envelope
        if not envelope.settled:
            yield from envelope.wait().__await__()
        error = envelope.error
        if error is None:
            return Receipt(envelope.partition, envelope.offset, self._index)
        if isinstance(error, StillSpooled):
            raise StillSpooled(self.event_id, self.partition)
        raise DeliveryFailed(
            self.event_id,
            self.partition,
            f"event {self.event_id} (partition {self.partition}) was not delivered: {error.what}",
            hint=error.hint,
        ) from error

    def __repr__(self) -> str:
        return f"<Sent {self.event_id} partition={self.partition} done={self.done}>"
