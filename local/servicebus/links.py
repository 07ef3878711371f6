"""Links: one direction of messages between a client and a node, with its credit and its deliveries.

    Inbound     the client sends; we grant credit and answer each delivery with a disposition
    Outbound    the client receives; it grants credit, and we remember each delivery until its outcome is known

What a node does with a message is in nodes.py; frames and session windows are in connection.py. The rules are those
of AMQP 1.0 part 2 (2.6) as azure.md 3.5 narrows them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import codec, errors
from .errors import Refusal

if TYPE_CHECKING:
    from .session import Session

MAX_MESSAGE_BYTES = 256 * 1024  # Standard tier, azure.md 3.1
PREFETCH = 1000  # deliveries a client may have on their way to us

_ACCEPTED = codec.composite(0x24)


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a client asks for. `receiving`: it wants to receive. `source` and `target` are still encoded."""

    name: str
    handle: int
    receiving: bool
    send_settle_mode: int
    receive_settle_mode: int
    source: bytes
    target: bytes
    source_address: str
    target_address: str
    properties: Mapping[str, Any]

    @property
    def address(self) -> str:
        """The node it is about."""
        return self.source_address if self.receiving else self.target_address

    def filter(self, name: str) -> tuple[bool, Any]:
        """Whether the source carries this filter, and its decoded value (None asks for any)."""
        fields = codec.fields_of(self.source)
        for key, value in codec.pairs_of(fields[7]) if len(fields) > 7 else []:
            if codec.text(codec.decode(key)) == name:
                return True, codec.decode(value)
        return False, None

    def source_with_filter(self, name: str, value: bytes) -> bytes:
        """The source as it came, with one filter's value replaced: what a session receiver is answered.

        A filter that came described (Go, .NET) goes back described, a plain one (Python, JavaScript) plain: each SDK
        reads only its own form.
        """
        fields = codec.fields_of(self.source)
        fields += [codec.NULL] * (11 - len(fields))
        for key, asked in codec.pairs_of(fields[7]):
            if codec.text(codec.decode(key)) == name and asked[0] == 0:
                value = asked[: codec.end_of(asked, 1)] + value
        fields[7] = codec.map_of([(codec.symbol(name), value)])
        return codec.composite(codec.SOURCE, *fields)


class Link(ABC):
    """One attached link. `path` is what a token must cover for the link to live."""

    def __init__(self, session: Session, request: AttachRequest, path: str) -> None:
        self.session = session
        self.request = request
        self.path = path
        self.attached = False

    def attach(
        self, *, source: bytes | None = None, properties: list[tuple[bytes, bytes]] | None = None, max_message: int = 0
    ) -> None:
        """Answer the client's attach: name, modes and termini are echoed as they came."""
        request = self.request
        self.attached = True
        self.session.send(
            codec.composite(
                codec.ATTACH,
                codec.string(request.name),
                codec.uint(request.handle),
                codec.boolean(not request.receiving),
                codec.ubyte(request.send_settle_mode),
                codec.ubyte(request.receive_settle_mode),
                source if source is not None else request.source,
                request.target,
                codec.NULL,
                codec.FALSE,
                codec.uint(0) if request.receiving else codec.NULL,
                codec.ulong(max_message) if max_message else codec.NULL,
                codec.NULL,
                codec.NULL,
                codec.map_of(properties) if properties else codec.NULL,
            )
        )

    def detach(self, refusal: Refusal) -> None:
        """Close it from our side."""
        if not self.attached:  # a refused attach is answered by an attach without a terminus, then a detach (2.6.3)
            self._attach_nothing()
        self.session.drop(self)
        self.session.send(self.detach_frame(self.request.handle, self.session.error(refusal)))

    def _attach_nothing(self) -> None:
        refuse_attach(self.session, self.request)

    @staticmethod
    def detach_frame(handle: int, error: bytes = codec.NULL, *, closed: bool = True) -> bytes:
        return codec.composite(codec.DETACH, codec.uint(handle), codec.boolean(closed), error)

    @abstractmethod
    def on_flow(self, fields: list[Any]) -> None: ...

    def on_transfer(self, frame: codec.Frame) -> None:
        raise Refusal(errors.NOT_ALLOWED, "A transfer on a link whose client is the receiver.")

    def on_outcome(self, delivery_id: int, state: bytes, settled: bool) -> None:
        raise Refusal(errors.NOT_ALLOWED, "An outcome for a delivery that is not the service's.")

    def closed(self) -> None:  # noqa: B027  (most links hold nothing)
        """The link is gone, for whatever reason; give back what it held."""


def refuse_attach(session: Session, request: AttachRequest) -> None:
    """An attach whose terminus on our side is null, which says that a detach follows."""
    session.send(
        codec.composite(
            codec.ATTACH,
            codec.string(request.name),
            codec.uint(request.handle),
            codec.boolean(not request.receiving),
            codec.ubyte(request.send_settle_mode),
            codec.ubyte(request.receive_settle_mode),
            codec.NULL if request.receiving else request.source,
            request.target if request.receiving else codec.NULL,
            codec.NULL,
            codec.FALSE,
            codec.uint(0) if request.receiving else codec.NULL,
            codec.NULL,
            codec.NULL,
            codec.NULL,
            codec.NULL,
        )
    )


class Inbound(Link):
    """Messages from the client. A subclass takes each whole delivery in `deliver`."""

    prefetch = PREFETCH
    max_bytes = MAX_MESSAGE_BYTES

    def __init__(self, session: Session, request: AttachRequest, path: str) -> None:
        super().__init__(session, request, path)
        self._parts: list[bytes] = []
        self._size = 0
        self._delivery_id = 0
        self._format = 0
        self._settled = False
        self._silent: set[int] = set()  # deliveries the client settled itself: it wants no answer
        self._arrived = 0
        self._granted = 0

    def open(self) -> None:
        batch_size = (codec.symbol("com.microsoft:max-message-batch-size"), codec.ulong(self.max_bytes))
        self.attach(properties=[batch_size], max_message=self.max_bytes)
        self.grant()

    @abstractmethod
    def deliver(self, delivery_id: int, message_format: int, payload: bytes) -> None:
        """One whole message. Answer it with `accept` or `reject`, now or later; a Refusal raised here rejects it."""

    def on_flow(self, fields: list[Any]) -> None:
        if fields[9]:
            self._send_flow()

    def on_transfer(self, frame: codec.Frame) -> None:
        fields = frame.fields
        if not self._parts:
            if fields[1] is None:
                raise Refusal(errors.INVALID_FIELD, "The first transfer of a delivery must carry its delivery-id.")
            self._delivery_id, self._format, self._settled, self._size = fields[1], fields[3] or 0, False, 0
        self._settled = self._settled or bool(fields[4])
        self._size += len(frame.payload)
        # What is too large is counted to its end, but not kept; then the delivery is rejected and the link lives.
        self._parts.append(frame.payload if self._size <= self.max_bytes else b"")
        if fields[5] and not fields[9]:
            return
        payload = b"".join(self._parts)
        self._parts = []
        self._arrived += 1
        if self._settled:
            self._silent.add(self._delivery_id)
        if not fields[9]:  # an aborted delivery counts for credit and for nothing else
            try:
                if self._size > self.max_bytes:
                    raise errors.message_too_large(self._delivery_id, self._size, self.max_bytes)
                self.deliver(self._delivery_id, self._format, payload)
            except codec.DecodeError as broken:
                self.reject(self._delivery_id, Refusal(errors.DECODE_ERROR, f"The message is malformed: {broken}."))
            except Refusal as refusal:
                self.reject(self._delivery_id, refusal)
        self.grant()

    def outstanding(self) -> int:
        """Deliveries that were taken but not answered yet; they are kept out of the credit."""
        return 0

    def grant(self) -> None:
        """Top the credit up when half of it is used."""
        room = self.prefetch - self.outstanding()
        if room - (self._granted - self._arrived) >= self.prefetch // 2:
            self._granted = self._arrived + room
            self._send_flow()

    def _send_flow(self) -> None:
        self.session.send_flow(self.request.handle, self._arrived, self._granted - self._arrived)

    def accept(self, delivery_id: int) -> None:
        self._dispose(delivery_id, _ACCEPTED)

    def reject(self, delivery_id: int, refusal: Refusal) -> None:
        self._dispose(delivery_id, codec.composite(0x25, self.session.error(refusal)))

    def _dispose(self, delivery_id: int, state: bytes) -> None:
        if delivery_id in self._silent:
            self._silent.discard(delivery_id)
            return
        number = codec.uint(delivery_id)
        self.session.send(
            codec.composite(codec.DISPOSITION, codec.TRUE, number, number, codec.TRUE, state, codec.FALSE)
        )


class Outbound(Link):
    """Messages to the client, as far as its credit goes."""

    def __init__(self, session: Session, request: AttachRequest, path: str) -> None:
        super().__init__(session, request, path)
        self.credit = 0
        self._sent = 0  # the link's delivery-count
        self._drain = False

    @property
    def ready(self) -> bool:
        return self.attached and self.credit > 0 and not self.session.blocked

    @abstractmethod
    def supply(self) -> None:
        """Credit has come: send what there is, as long as `ready`."""

    def on_flow(self, fields: list[Any]) -> None:
        seen = fields[5] if fields[5] is not None else 0
        if fields[6] is not None:
            self.credit = max(0, (seen + fields[6] - self._sent) & 0xFFFFFFFF)
            if self.credit > 0x7FFFFFFF:  # the client reduced its credit below what is already on its way
                self.credit = 0
        self._drain = bool(fields[8])
        self.supply()
        if fields[9] and not self._drain and self.session.links.get(self.request.handle) is self:
            self.session.send_flow(self.request.handle, self._sent, self.credit)

    def drained(self) -> None:
        """After `supply`: what a draining client was not given is used up, and it is told so (2.6.7)."""
        if self._drain:
            self._sent = (self._sent + self.credit) & 0xFFFFFFFF
            self.credit = 0
            self._drain = False
            self.session.send_flow(self.request.handle, self._sent, 0, drain=True)

    def transfer(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one message; returns its delivery id."""
        assert self.credit > 0, "a transfer needs credit"
        self.credit -= 1
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        return self.session.transfer(self, tag, payload, settled=settled)
