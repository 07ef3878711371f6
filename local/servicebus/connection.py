"""One client's TCP connection: AMQP's handshakes, and the sessions in it.

A connection never writes to its socket by itself. What it has to say waits in `_out` until the server has committed
everything this turn of the event loop changed, and calls `flush` (store.py says why). Errors of a client end what
they concern and nothing else: a bad link is detached, an undecodable stream closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from . import codec, errors
from .cbs import Grant
from .codec import DecodeError, Frame
from .errors import Refusal
from .links import AttachRequest, Link
from .session import WINDOW, Session

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 * 1024

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
