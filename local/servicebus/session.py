"""An AMQP session: its links, its windows, and which delivery belongs to which link.

One connection and one session per sender or receiver is what the Python SDK opens; others share. Delivery ids are per
session (AMQP 1.0 part 2, 2.5 and 2.6.12). A link that misbehaves is detached; the session lives on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from . import codec
from .codec import Frame
from .errors import Refusal
from .links import AttachRequest, Link, refuse_attach

if TYPE_CHECKING:
    from .connection import Connection

WINDOW = 0x7FFFFFFF  # transfers a session may send us unasked; credit is what bounds a client


class Session:
    """The links of one channel, and the transfers the client still has room for."""

    def __init__(self, connection: Connection, channel: int, begin: list[Any]) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, Link] = {}
        self._next_incoming = begin[1] or 0
        self._room = begin[2] or 0
        self._next_outgoing = 0
        self._next_delivery = 0
        self._unsettled: dict[int, Link] = {}
        self._backlog: deque[tuple[bytes, bytes]] = deque()

    @property
    def blocked(self) -> bool:
        """The client's window is full; nothing more is taken for it."""
        return bool(self._backlog)

    def on_frame(self, frame: Frame) -> None:
        code, fields = frame.code, frame.fields
        if code == codec.ATTACH:
            self._attach(frame)
        elif code == codec.FLOW:
            self._flow(fields)
        elif code == codec.DISPOSITION:
            self._disposition(frame)
        elif code in (codec.TRANSFER, codec.DETACH):
            if code == codec.TRANSFER:
                self._next_incoming = (self._next_incoming + 1) & 0xFFFFFFFF
            link = self.links.get(fields[0])
            if link is None:  # we detached it, and the client did not know yet
                return
            if code == codec.DETACH:
                self.drop(link)
                self.send(Link.detach_frame(fields[0], closed=bool(fields[1])))
                return
            try:
                link.on_transfer(frame)
            except Refusal as refusal:
                link.detach(refusal)

    def _attach(self, frame: Frame) -> None:
        request = _attach_request(frame)
        if request.handle in self.links:
            raise Refusal("amqp:session:handle-in-use", f"Handle {request.handle} is in use.")
        try:
            self.links[request.handle] = self.connection.broker.link_for(self, request)
        except Refusal as refusal:
            refuse_attach(self, request)
            self.send(Link.detach_frame(request.handle, self.error(refusal)))

    def _flow(self, fields: list[Any]) -> None:
        if fields[1] is not None:
            seen = fields[0] if fields[0] is not None else 0
            self._room = seen + fields[1] - self._next_outgoing
            while self._backlog and self._room > 0:
                self._push(*self._backlog.popleft())
        if fields[4] is not None:
            link = self.links.get(fields[4])
            if link is not None:
                link.on_flow(fields)
        elif fields[9]:
            self.send_flow()

    def _disposition(self, frame: Frame) -> None:
        role, first, last, settled = frame.fields[:4]
        if not role:  # the client settles what it sent itself: nothing is open there
            return
        raw = frame.raw_fields()
        state = raw[4] if len(raw) > 4 else codec.NULL
        last = first if last is None else last
        for delivery_id in sorted(number for number in self._between(first, last)):
            link = self._unsettled.pop(delivery_id)
            link.on_outcome(delivery_id, state, bool(settled))

    def _between(self, first: int, last: int) -> list[int]:
        if last - first < len(self._unsettled):
            return [number for number in range(first, last + 1) if number in self._unsettled]
        return [number for number in self._unsettled if first <= number <= last]

    def drop(self, link: Link) -> None:
        """Forget a link and let it give back what it held."""
        if self.links.get(link.request.handle) is link:
            del self.links[link.request.handle]
        self._unsettled = {number: owner for number, owner in self._unsettled.items() if owner is not link}
        link.closed()

    def ended(self) -> None:
        for link in list(self.links.values()):
            self.drop(link)

    # --- for links -------------------------------------------------------------------------------------------------

    def send(self, performative: bytes, payload: bytes = b"") -> None:
        self.connection.send_frame(self.channel, performative, payload)

    def error(self, refusal: Refusal) -> bytes:
        return self.connection.error(refusal)

    def send_flow(
        self, handle: int | None = None, delivery_count: int = 0, credit: int = 0, *, drain: bool = False
    ) -> None:
        of_link = handle is not None
        self.send(
            codec.composite(
                codec.FLOW,
                codec.uint(self._next_incoming),
                codec.uint(WINDOW),
                codec.uint(self._next_outgoing),
                codec.uint(WINDOW),
                codec.uint(handle) if of_link else codec.NULL,
                codec.uint(delivery_count) if of_link else codec.NULL,
                codec.uint(credit) if of_link else codec.NULL,
                codec.uint(0) if of_link else codec.NULL,
                codec.boolean(drain),
                codec.FALSE,
                codec.NULL,
            )
        )

    def transfer(self, link: Link, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one delivery, cut to the client's frame size; it waits where the client's window is full."""
        delivery_id = self._next_delivery
        self._next_delivery = (self._next_delivery + 1) & 0xFFFFFFFF
        if not settled:
            self._unsettled[delivery_id] = link
        room = self.connection.remote_max_frame - 128  # a transfer performative of ours is shorter than that
        pieces = [payload[at : at + room] for at in range(0, len(payload), room)] or [b""]
        for index, piece in enumerate(pieces):
            performative = codec.composite(
                codec.TRANSFER,
                codec.uint(link.request.handle),
                codec.uint(delivery_id),
                codec.binary(tag),
                codec.uint(0),
                codec.boolean(settled),
                codec.boolean(index < len(pieces) - 1),
                codec.NULL,
                codec.NULL,
                codec.FALSE,
                codec.FALSE,
                codec.FALSE,
            )
            if self._backlog or self._room <= 0:
                self._backlog.append((performative, piece))
            else:
                self._push(performative, piece)
        return delivery_id

    def settle(self, delivery_id: int, state: bytes) -> None:
        """Tell the client that its outcome took effect (or, `rejected` with an error, that it did not)."""
        number = codec.uint(delivery_id)
        self.send(codec.composite(codec.DISPOSITION, codec.FALSE, number, number, codec.TRUE, state, codec.FALSE))

    def _push(self, performative: bytes, payload: bytes) -> None:
        self._room -= 1
        self._next_outgoing = (self._next_outgoing + 1) & 0xFFFFFFFF
        self.send(performative, payload)


def _attach_request(frame: Frame) -> AttachRequest:
    fields, raw = frame.fields, frame.raw_fields()
    raw += [codec.NULL] * (14 - len(raw))
    properties = {codec.text(codec.decode(k)) or "": codec.decode(v) for k, v in codec.pairs_of(raw[13])}
    return AttachRequest(
        name=codec.text(fields[0]) or "",
        handle=fields[1],
        receiving=bool(fields[2]),
        send_settle_mode=2 if fields[3] is None else fields[3],
        receive_settle_mode=fields[4] or 0,
        source=raw[5],
        target=raw[6],
        source_address=_address(raw[5]),
        target_address=_address(raw[6]),
        properties=properties,
    )


def _address(terminus: bytes) -> str:
    fields = codec.fields_of(terminus)
    return (codec.text(codec.decode(fields[0])) if fields else None) or ""
