"""One client's TCP connection: AMQP's handshakes, its sessions and their windows.

A connection never writes to its socket by itself. What it has to say waits in `_out` until the server has committed
everything this turn of the event loop changed, and calls `flush` (store.py says why). Errors of a client end what
they concern and nothing else: a bad link is detached, an undecodable stream closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from . import codec, errors
from .cbs import Grant
from .codec import DecodeError, Frame
from .errors import Refusal
from .links import AttachRequest, Link, refuse_attach

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 * 1024
WINDOW = 0x7FFFFFFF  # transfers a session may send us unasked; credit is what bounds a client

_SASL_OK = codec.composite(codec.SASL_OUTCOME, codec.ubyte(0), codec.NULL)
_SASL_AUTH_FAILED = codec.composite(codec.SASL_OUTCOME, codec.ubyte(1), codec.NULL)


class Broker(Protocol):
    """What a connection needs of its server."""

    def now_s(self) -> float: ...
    def link_for(self, session: Session, request: AttachRequest) -> Link: ...
    def touched(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """The state of one connection, from the protocol headers to the close."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.grants: dict[str, Grant] = {}
        self.remote_max_frame = 512
        self._framer = codec.Framer(MAX_FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._sessions: dict[int, Session] = {}
        self._ended: set[int] = set()  # channels once in use: clients send a late detach there, which means nothing
        self._out: list[bytes] = []
        self._authenticated = False
        self._closing = False
        self._heartbeat: asyncio.TimerHandle | None = None

    # --- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP has two directions"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            for item in self._framer.feed(data):
                if isinstance(item, bytes):
                    self._header(item)
                else:
                    self._frame(item)
                if self._closing:
                    return
        except DecodeError as broken:
            self.close(Refusal("amqp:connection:framing-error", f"{broken}."))
        except Refusal as refusal:
            self.close(refusal)
        except Exception:
            log.exception("a frame could not be processed")
            self.close(Refusal(errors.INTERNAL, "The service was unable to process the request."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._heartbeat:
            self._heartbeat.cancel()
        for session in list(self._sessions.values()):
            session.ended()
        self._sessions.clear()
        self._transport = None
        self.broker.lost(self)

    def flush(self) -> None:
        """Write what has gathered. Only after the commit of this turn."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._closing and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection and everything unsaid."""
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    # --- for sessions and links ------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._out.append(data)
        self.broker.touched(self)

    def send_frame(self, channel: int, performative: bytes, payload: bytes = b"") -> None:
        self.send(codec.frame(channel, performative, payload))

    def covers(self, path: str) -> bool:
        """Whether some token of this connection, still valid, opens that path."""
        now = self.broker.now_s()
        return any(grant.covers(path, now) for grant in self.grants.values())

    def authenticated(self) -> bool:
        """Whether any token is still valid."""
        now = self.broker.now_s()
        return any(now < grant.expires_s for grant in self.grants.values())

    def links(self) -> Iterable[Link]:
        return [link for session in self._sessions.values() for link in session.links.values()]

    def error(self, refusal: Refusal) -> bytes:
        return codec.error(refusal.condition, errors.tracked(refusal.text, self.broker.now_s()))

    def close(self, refusal: Refusal | None = None) -> None:
        """Say Close, and hang up once it is written."""
        if not self._closing:
            self._closing = True
            if refusal is not None:
                log.info("closing a connection: %s", refusal)
            self.send_frame(0, codec.composite(codec.CLOSE, self.error(refusal) if refusal else codec.NULL))

    # --- handshakes ------------------------------------------------------------------------------------------------

    def _header(self, header: bytes) -> None:
        if header == codec.SASL_PROTOCOL and not self._authenticated:
            self.send(header)
            mechanisms = codec.array_of([codec.symbol("ANONYMOUS")])
            self.send(codec.frame(0, codec.composite(codec.SASL_MECHANISMS, mechanisms), frame_type=codec.SASL_FRAME))
        elif header == codec.AMQP_PROTOCOL and self._authenticated:
            self.send(header)
        else:  # not what is spoken here: answer with what is, and hang up (AMQP 1.0 part 2, 2.2)
            self.send(codec.SASL_PROTOCOL)
            self._closing = True

    def _frame(self, frame: Frame) -> None:
        code = frame.code
        if code == codec.SASL_INIT:
            self._authenticated = frame.fields[0] == b"ANONYMOUS"
            outcome = _SASL_OK if self._authenticated else _SASL_AUTH_FAILED
            self.send(codec.frame(0, outcome, frame_type=codec.SASL_FRAME))
            self._closing = not self._authenticated
        elif not self._authenticated:
            raise Refusal(errors.UNAUTHORIZED, "SASL comes first.")
        elif code == codec.OPEN:
            self._open(frame.fields)
        elif code == codec.BEGIN:
            self._begin(frame)
        elif code == codec.CLOSE:
            self.close()
        elif frame.channel not in self._sessions:
            if frame.channel in self._ended:
                return
            raise Refusal(errors.NOT_ALLOWED, f"There is no session on channel {frame.channel}.")
        elif code == codec.END:
            self._sessions.pop(frame.channel).ended()
            self._ended.add(frame.channel)
            self.send_frame(frame.channel, codec.composite(codec.END, codec.NULL))
        else:
            self._sessions[frame.channel].on_frame(frame)

    def _open(self, fields: list[Any]) -> None:
        self.remote_max_frame = max(512, min(fields[2], MAX_FRAME_BYTES))
        # No idle timeout is asked of the client: on a loopback a dead peer is a closed socket.
        rest = [codec.NULL] * 6
        self.send_frame(
            0,
            codec.composite(
                codec.OPEN,
                codec.string("meterline-local-servicebus"),
                codec.NULL,
                codec.uint(MAX_FRAME_BYTES),
                codec.ushort(65535),
                *rest,
            ),
        )
        if fields[4]:
            self._beat(fields[4] / 2000)

    def _beat(self, every_s: float) -> None:
        """Empty frames at twice the pace the client asked for, so that it does not take us for dead."""
        if self._transport is not None and not self._closing:
            self.send(codec.HEARTBEAT)
            self._heartbeat = asyncio.get_running_loop().call_later(every_s, self._beat, every_s)

    def _begin(self, frame: Frame) -> None:
        if frame.channel in self._sessions:
            raise Refusal(errors.NOT_ALLOWED, f"Channel {frame.channel} is in use.")
        self._sessions[frame.channel] = Session(self, frame.channel, frame.fields)
        self.send_frame(
            frame.channel,
            codec.composite(
                codec.BEGIN,
                codec.ushort(frame.channel),
                codec.uint(0),
                codec.uint(WINDOW),
                codec.uint(WINDOW),
                codec.uint(0xFFFF),
                codec.NULL,
                codec.NULL,
                codec.NULL,
            ),
        )


class Session:
    """An AMQP session: its links, and the transfers the client still has room for."""

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
