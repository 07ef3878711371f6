"""`<queue>/$management`: peeking, renewing locks, scheduling, deferred messages, session state.

Operations and members are Service Bus' request-response operations (service-bus-amqp-request-response.md), with the
spelling the SDKs use (azure.md 3.5, item 14). Argument errors are answered as `com.microsoft:argument-error`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable
from typing import Any

from . import codec, errors, message
from .entities import Entity
from .entry import Entry
from .errors import Refusal
from .message import Reply, Request
from .nodes import rendered
from .store import Store

MAX_PEEK = 1000
_RECEIVE_AND_DELETE = 0
_VENDOR = "com.microsoft:"


class Management:
    """Answers for one queue, to one connection.

    `holds` says whether a session's owner is on that connection; `session_of`, which session the link of that name has.
    """

    def __init__(
        self,
        entity: Entity,
        store: Store,
        now_ms: Callable[[], int],
        connection: Hashable,
        holds: Callable[[Hashable], bool],
        session_of: Callable[[str], str | None],
    ) -> None:
        self._entity = entity
        self._store = store
        self._now_ms = now_ms
        self._connection = connection
        self._holds = holds
        self._session_of = session_of

    def answer(self, request: Request, later: Callable[[Reply], None]) -> Reply:
        """Do what is asked. Raises Refusal or DecodeError."""
        name = request.operation()
        operation = _OPERATIONS.get(name.removeprefix(_VENDOR)) if name.startswith(_VENDOR) else None
        if operation is None:
            raise Refusal(errors.NOT_IMPLEMENTED, f"The operation '{name}' is not supported by this entity.")
        return operation(self, request)

    # --- messages --------------------------------------------------------------------------------------------------

    def _peek(self, request: Request) -> Reply:
        start, count = _integer(request, "from-sequence-number"), _integer(request, "message-count")
        if count < 1:
            raise Refusal(errors.ARGUMENT_OUT_OF_RANGE, "message-count must be at least 1.")
        session_id = codec.text(request.argument("session-id"))
        entries = self._entity.page(start, min(count, MAX_PEEK), session_id, self._now_ms())
        if not entries:
            return Reply(204, "NoContent", errors.MESSAGE_NOT_FOUND)
        return _ok(messages=codec.list_of([_message(self._payload(entry, peeked=True)) for entry in entries]))

    def _receive(self, request: Request) -> Reply:
        numbers, now = _integers(request, "sequence-numbers"), self._now_ms()
        session_id = codec.text(request.argument("session-id"))
        if session_id is None:  # Go's SDK names its link instead
            session_id = self._session_of(codec.text(request.properties.get("associated-link-name")) or "")
        owner = self._session_owner(session_id) if self._entity.requires_session else self._connection
        entries = self._entity.take_deferred(numbers, owner, now, session_id)
        items = []
        for entry in entries:
            assert entry.lock_token is not None, "a taken message is locked"
            items.append(_message(self._payload(entry), entry.lock_token))
        if request.argument("receiver-settle-mode") == _RECEIVE_AND_DELETE:
            for entry in entries:
                if entry.lock_token is not None:
                    self._entity.complete(entry.lock_token, now)
        return _ok(messages=codec.list_of(items))

    def _schedule(self, request: Request) -> Reply:
        batch = []
        for item in request.argument("messages") or []:
            payload = item.get(b"message") if isinstance(item, dict) else None
            if not isinstance(payload, bytes):
                raise Refusal(errors.ARGUMENT, "Each of messages must hold a message.")
            batch.append(message.incoming(payload))
        if not batch:
            raise Refusal(errors.ARGUMENT, "There is no message to schedule.")
        numbers = self._entity.send(batch, self._now_ms())
        return _ok(**{"sequence-numbers": codec.array_of([codec.wide_long(number) for number in numbers])})

    def _cancel(self, request: Request) -> Reply:
        self._entity.cancel_scheduled(_integers(request, "sequence-numbers"), self._now_ms())
        return _ok()

    def _payload(self, entry: Entry, *, peeked: bool = False) -> bytes:
        return rendered(self._store, self._entity, entry, peeked=peeked)

    # --- locks -----------------------------------------------------------------------------------------------------

    def _renew_lock(self, request: Request) -> Reply:
        now = self._now_ms()
        until = [self._entity.renew(token, now) for token in _tokens(request)]
        return _ok(expirations=codec.array_of([codec.timestamp(at) for at in until]))

    def _update_disposition(self, request: Request) -> Reply:
        status, now = codec.text(request.argument("disposition-status")), self._now_ms()
        changes = {
            codec.text(codec.decode(key)) or "": value
            for key, value in codec.pairs_of(request.raw_argument("properties-to-modify"))
        }
        for token in _tokens(request):
            if status == "completed":
                self._entity.complete(token, now)
            elif status == "abandoned":
                self._entity.abandon(token, now, changes)
            elif status == "defered":  # Azure's spelling
                self._entity.defer(token, now, changes)
            elif status == "suspended":
                reason = codec.text(request.argument("deadletter-reason"))
                description = codec.text(request.argument("deadletter-description"))
                self._entity.dead_letter(token, now, reason, description, changes)
            else:
                raise Refusal(errors.ARGUMENT, f"The disposition-status '{status}' is unknown.")
        return _ok()

    # --- sessions --------------------------------------------------------------------------------------------------

    def _renew_session(self, request: Request) -> Reply:
        session_id = _session_id(request)
        until = self._entity.renew_session(session_id, self._session_owner(session_id), self._now_ms())
        return _ok(expiration=codec.timestamp(until))

    def _set_state(self, request: Request) -> Reply:
        session_id, state = _session_id(request), request.argument("session-state")
        self._session_owner(session_id)
        if state is not None and not isinstance(state, bytes):
            raise Refusal(errors.ARGUMENT, "session-state must be binary.")
        self._entity.set_session_state(session_id, state)
        return _ok()

    def _get_state(self, request: Request) -> Reply:
        session_id = _session_id(request)
        self._session_owner(session_id)
        state = self._entity.session_state(session_id)
        return _ok(**{"session-state": codec.NULL if state is None else codec.binary(state)})

    def _session_owner(self, session_id: str | None) -> Hashable:
        """Whoever holds that session, if it is on this connection. Raises Refusal otherwise."""
        if not self._entity.requires_session:
            raise errors.sessions_not_supported()
        owner = self._entity.session_holder(session_id or "", self._now_ms())
        if owner is None or not self._holds(owner):
            raise errors.session_lock_lost()
        return owner


_OPERATIONS: dict[str, Callable[[Management, Request], Reply]] = {
    "peek-message": Management._peek,
    "receive-by-sequence-number": Management._receive,
    "schedule-message": Management._schedule,
    "cancel-scheduled-message": Management._cancel,
    "renew-lock": Management._renew_lock,
    "update-disposition": Management._update_disposition,
    "renew-session-lock": Management._renew_session,
    "set-session-state": Management._set_state,
    "get-session-state": Management._get_state,
}


def _ok(**members: bytes) -> Reply:
    return Reply(200, "OK", None, codec.map_of((codec.string(key), value) for key, value in members.items()))


def _message(payload: bytes, token: uuid.UUID | None = None) -> bytes:
    pairs = [(codec.string("message"), codec.binary(payload))]
    if token is not None:
        pairs.append((codec.string("lock-token"), codec.uuid_value(token)))
    return codec.map_of(pairs)


def _integer(request: Request, name: str) -> int:
    value = request.argument(name)
    if not isinstance(value, int):
        raise Refusal(errors.ARGUMENT, f"{name} must be an integer.")
    return value


def _integers(request: Request, name: str) -> list[int]:
    value: Any = request.argument(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, int) for item in value):
        raise Refusal(errors.ARGUMENT, f"{name} must be an array of long.")
    return [int(item) for item in value]


def _tokens(request: Request) -> list[uuid.UUID]:
    value: Any = request.argument("lock-tokens")
    if not isinstance(value, list) or not value or not all(isinstance(item, uuid.UUID) for item in value):
        raise Refusal(errors.ARGUMENT, "lock-tokens must be an array of uuid.")
    return value


def _session_id(request: Request) -> str:
    value = codec.text(request.argument("session-id"))
    if value is None:
        raise Refusal(errors.ARGUMENT, "session-id is missing.")
    return value
