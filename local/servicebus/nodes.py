"""What a link can be attached to: a queue to send to, a queue to receive from, and request-response nodes.

Deliveries leave a queue only in `QueueSource.pump`, which the server calls at the end of an event-loop turn; what a
client sends is stored at once and answered at once, and the answer waits for the commit (store.py).
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import codec, errors, message
from .cbs import path_of
from .codec import DecodeError
from .entities import Entity
from .entry import Entry
from .errors import Refusal
from .links import AttachRequest, Inbound, Outbound
from .message import Reply, Request
from .store import Store

if TYPE_CHECKING:
    from .session import Session

SESSION_FILTER = "com.microsoft:session-filter"
_TICKS_OF_1970 = 621_355_968_000_000_000  # .NET counts 100 ns since the year 1
_SETTLED = 1

_ACCEPTED = codec.composite(0x24)
_REJECTED = codec.composite(0x25, codec.NULL)
_RELEASED = codec.composite(0x26)


def rendered(store: Store, entity: Entity, entry: Entry, *, peeked: bool = False) -> bytes:
    """A stored message as a receiver gets it, with the annotations Service Bus sets (azure.md 3.5, item 11)."""
    extra = [
        ("x-opt-sequence-number", codec.long(entry.sequence_number)),
        ("x-opt-enqueued-time", codec.timestamp(entry.enqueued_ms)),
    ]
    if entry.lock_token is not None and not peeked:
        extra.append(("x-opt-locked-until", codec.timestamp(entry.locked_until_ms)))
    if peeked:
        extra.append(("x-opt-message-state", codec.int32(int(entry.state))))
    if entity.is_dead_letter_queue:
        extra.append(("x-opt-deadletter-source", codec.string(entity.name)))
    head, annotations, bare = store.parts(entry)
    return message.outgoing(
        head,
        annotations,
        bare,
        delivery_count=entry.failures,
        extra=extra,
        overlay=entry.overlay,
        lock_token=None if peeked else entry.lock_token,
    )


class QueueSink(Inbound):
    """A client's sender on a queue."""

    def __init__(
        self, session: Session, request: AttachRequest, path: str, entity: Entity, now_ms: Callable[[], int]
    ) -> None:
        super().__init__(session, request, path)
        self._entity = entity
        self._now_ms = now_ms

    def deliver(self, delivery_id: int, message_format: int, payload: bytes) -> None:
        inner = message.batch(payload) if message_format == message.BATCH_FORMAT else [payload]
        self._entity.send([message.incoming(one) for one in inner], self._now_ms())
        self.accept(delivery_id)


class QueueSource(Outbound):
    """A client's receiver on a queue, a session of it, or a dead-letter queue.

    `wanted` is the session asked for (None: the next available one). A receiver that waits for a session is not
    attached yet; `deadline_ms` says until when it waits.
    """

    def __init__(
        self,
        session: Session,
        request: AttachRequest,
        path: str,
        entity: Entity,
        store: Store,
        now_ms: Callable[[], int],
        wake: Callable[[Entity], None],
        gone: Callable[[QueueSource], None],
    ) -> None:
        super().__init__(session, request, path)
        self.entity = entity
        self.session_id: str | None = None
        self.deadline_ms = 0
        self.waits_s = 0.0
        self._wants_session, wanted = request.filter(SESSION_FILTER)
        self.wanted = codec.text(wanted)
        self._store = store
        self._now_ms = now_ms
        self._wake = wake
        self._gone = gone
        self._deletes = request.send_settle_mode == _SETTLED
        self._deliveries: dict[int, uuid.UUID] = {}
        if entity.requires_session and not self._wants_session:
            raise errors.sessions_required()
        if self._wants_session and not entity.requires_session:
            raise errors.sessions_not_supported()

    def begin(self) -> bool:
        """Attach, if no session has to be waited for. Raises Refusal when the wanted session is held."""
        if not self._wants_session:
            self.attach()
            return True
        accepted = self.entity.accept_session(self.wanted, self, self._now_ms())
        if accepted is None:
            return False
        self.session_id, until_ms = accepted
        ticks = codec.long(until_ms * 10_000 + _TICKS_OF_1970)
        self.attach(
            source=self.request.source_with_filter(SESSION_FILTER, codec.string(self.session_id)),
            properties=[(codec.symbol("com.microsoft:locked-until-utc"), ticks)],
        )
        return True

    def supply(self) -> None:
        self._wake(self.entity)

    def pump(self) -> bool:
        """Send one message, if there is credit and one waits. False when nothing was sent."""
        if not self.ready:
            return False
        entry = self.entity.take(self.session_id, self, self._now_ms())
        if entry is None:
            return False
        token = entry.lock_token
        assert token is not None, "a taken message is locked"
        if self._deletes:
            payload = rendered(self._store, self.entity, entry)
            self.entity.complete(token, self._now_ms())
            self.transfer(token.bytes_le, payload, settled=True)
        else:
            delivery_id = self.transfer(token.bytes_le, rendered(self._store, self.entity, entry), settled=False)
            self._deliveries[delivery_id] = token
        return True

    def on_outcome(self, delivery_id: int, state: bytes, settled: bool) -> None:
        token = self._deliveries.pop(delivery_id)
        now = self._now_ms()
        kind = codec.decode(state[1 : codec.end_of(state, 1)]) if state[:1] == b"\x00" else None
        echo = _ACCEPTED
        try:
            if kind == 0x24:
                self.entity.complete(token, now)
            elif kind == 0x25:
                reason, description, changes = _dead_letter_details(state)
                self.entity.dead_letter(token, now, reason, description, changes)
                echo = _REJECTED  # with an error in it, it would mean failure
            elif kind == 0x27:
                fields = codec.fields_of(state)
                changes = _texts(fields[2]) if len(fields) > 2 else {}
                if len(fields) > 1 and codec.decode(fields[1]):
                    self.entity.defer(token, now, changes)
                else:
                    self.entity.abandon(token, now, changes)
                echo = state
            else:  # released, or settled without an outcome
                self.entity.put_back(token, now)
                echo = _RELEASED
        except Refusal as refusal:
            echo = codec.composite(0x25, self.session.error(refusal))
        if not settled:
            self.session.settle(delivery_id, echo)

    def closed(self) -> None:
        self._gone(self)
        self._deliveries.clear()
        self.entity.release(self, self._now_ms())
        self._wake(self.entity)


def _texts(properties: bytes) -> dict[str, bytes]:
    return {codec.text(codec.decode(key)) or "": value for key, value in codec.pairs_of(properties)}


def _dead_letter_details(state: bytes) -> tuple[str | None, str | None, dict[str, bytes]]:
    """Reason, description and other properties out of a `rejected` outcome's error."""
    fields = codec.fields_of(state)
    error = codec.fields_of(fields[0]) if fields else []
    info = _texts(error[2]) if len(error) > 2 else {}
    reason = info.pop("DeadLetterReason", None)
    description = info.pop("DeadLetterErrorDescription", None)
    return (
        codec.text(codec.decode(reason)) if reason else None,
        codec.text(codec.decode(description)) if description else None,
        info,
    )


class ReplySource(Outbound):
    """The client's half of a request-response pair that receives. Answers wait for its credit: some SDKs insist."""

    def __init__(self, session: Session, request: AttachRequest, path: str) -> None:
        super().__init__(session, request, path)
        self._waiting: deque[bytes] = deque()
        self._tag = 0

    def reply(self, payload: bytes) -> None:
        self._waiting.append(payload)
        self.supply()

    def supply(self) -> None:
        while self._waiting and self.ready:
            self._tag += 1
            self.transfer(self._tag.to_bytes(4, "big"), self._waiting.popleft(), settled=True)
        self.drained()

    def on_outcome(self, delivery_id: int, state: bytes, settled: bool) -> None:
        pass  # answers are sent settled


class RequestSink(Inbound):
    """The client's half that sends. `answer` gives the Reply, or raises Refusal, or calls back later.

    `hyphens` names the status properties as $cbs and Event Hubs do.
    """

    def __init__(
        self,
        session: Session,
        request: AttachRequest,
        path: str,
        answer: Callable[[Request, Callable[[Reply], None]], Reply | None],
        *,
        hyphens: bool,
    ) -> None:
        super().__init__(session, request, path)
        self._answer = answer
        self._hyphens = hyphens

    def deliver(self, delivery_id: int, message_format: int, payload: bytes) -> None:
        request = message.request(payload)

        def later(reply: Reply) -> None:
            self._send(request, reply)

        try:
            reply = self._answer(request, later)
        except Refusal as refusal:
            reply = self.refused(refusal)
        except DecodeError as broken:
            reply = self.refused(Refusal(errors.ARGUMENT, f"The request is malformed: {broken}."))
        self.accept(delivery_id)
        if reply is not None:
            self._send(request, reply)

    def refused(self, refusal: Refusal) -> Reply:
        text = errors.tracked(refusal.text, self.session.connection.broker.now_s())
        return Reply(refusal.status, text, refusal.condition)

    def _send(self, request: Request, reply: Reply) -> None:
        """Answer on the receiver of this node that the request names, or else on the only one there is."""
        mates = [
            link
            for link in self.session.links.values()
            if isinstance(link, ReplySource) and path_of(link.request.address) == path_of(self.request.address)
        ]
        named = [link for link in mates if request.reply_to and link.request.target_address == request.reply_to]
        for link in (named or mates)[-1:]:
            link.reply(reply.encoded(request, hyphens=self._hyphens))
