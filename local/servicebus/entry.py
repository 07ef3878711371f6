"""A stored message as its queue knows it, and the journal that keeps it."""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from .message import Incoming


class State(IntEnum):
    """As `x-opt-message-state` numbers them."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(slots=True, eq=False)
class Entry:
    """A stored message without its body. `row` is the journal's key; `failures` the unsuccessful deliveries so far."""

    row: int
    sequence_number: int
    session_id: str | None
    enqueued_ms: int
    state: State = State.ACTIVE
    failures: int = 0
    expires_ms: int | None = None
    due_ms: int | None = None
    overlay: dict[str, bytes] | None = None
    lock_token: uuid.UUID | None = None
    locked_until_ms: int = 0
    owner: Hashable = None


class Journal(Protocol):
    """Where a queue writes down what must outlive the process. Durable when the journal's owner commits."""

    def add(self, queue: str, entry: Entry, incoming: Incoming) -> None: ...
    def change(self, entry: Entry, *, dead: bool) -> None: ...
    def remove(self, entry: Entry) -> None: ...
    def is_new(self, queue: str, message_id: str, now_ms: int, window_ms: int) -> bool: ...
    def forget(self, queue: str, before_ms: int) -> None: ...
    def session_state(self, queue: str, session_id: str) -> bytes | None: ...
    def set_session_state(self, queue: str, session_id: str, state: bytes | None) -> None: ...
    def page(self, queue: str, *, dead: bool, start: int, limit: int, session_id: str | None) -> list[int]: ...
