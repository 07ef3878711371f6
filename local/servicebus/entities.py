"""A queue, and what holds for it: order, locks, sessions, delivery counts, duplicates, dead letters.

Pure logic: no asyncio, no clock (every method is told `now_ms`, UTC), no wire. What must survive a crash goes through
a `Journal`; locks do not, so that after a restart everything is available again with its delivery count as it stood.

    owner    whoever holds a lock: any hashable, here the link that received the message or accepted the session
    lane     one line of waiting messages: the whole queue, or one session of it

Rules are Service Bus' as documented: a failed delivery (abandoned, or its lock expired) counts; a closed link gives its
messages back uncounted (message-sessions.md, "impact of delivery count"); at MaxDeliveryCount failures a message moves
to the dead-letter queue; a scheduled message gets a new sequence number when it is due (message-sequencing.md).
"""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import codec, errors
from .entry import Entry, Journal, State
from .message import Incoming

MAX_ID_LENGTH = 128  # MessageId and SessionId, azure.md 3.1


@dataclass(slots=True)
class _Lane:
    waiting: list[int] = field(default_factory=list)  # a heap of sequence numbers; gone ones are skipped when met
    holder: Hashable = None
    until_ms: int = 0


class Entity:
    """A queue or its dead-letter queue (`dead_letters` is None there)."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        *,
        requires_session: bool,
        lock_ms: int,
        max_delivery_count: int,
        duplicate_window_ms: int | None,
        dead_letters: Entity | None,
        wake: Callable[[Entity], None] = lambda entity: None,
        new_token: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self.name = name
        self.requires_session = requires_session
        self.lock_ms = lock_ms
        self.dead_letters = dead_letters
        self.lost_sessions: list[Hashable] = []  # owners whose session lock expired; the server detaches and clears
        self._journal = journal
        self._max_delivery_count = max_delivery_count
        self._window_ms = duplicate_window_ms
        self._wake = wake
        self._new_token = new_token
        self._entries: dict[int, Entry] = {}
        self._lanes: dict[str | None, _Lane] = {}
        self._free_sessions: dict[str, None] = {}  # ordered: the session that has waited longest is first
        self._locks: dict[uuid.UUID, Entry] = {}
        self._held: dict[Hashable, set[uuid.UUID]] = {}
        self._session_of: dict[Hashable, str] = {}
        self._last_sequence = 0
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._tie = itertools.count()
        self._forget_at_ms = 0

    @property
    def is_dead_letter_queue(self) -> bool:
        return self.dead_letters is None

    @property
    def path(self) -> str:
        return f"{self.name}/$DeadLetterQueue" if self.is_dead_letter_queue else self.name

    def __len__(self) -> int:
        return len(self._entries)

    def restore(self, entry: Entry) -> None:
        """Take back a message the journal kept."""
        self._enter(entry)

    def restore_sequence(self, last: int) -> None:
        self._last_sequence = last

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Incoming], now_ms: int) -> list[int]:
        """Store all of them or, raising Refusal, none. Returns their sequence numbers; 0 for a dropped duplicate.

        A duplicate is a message id seen within the window, also earlier in the same batch: accepted, then dropped.
        """
        self.advance(now_ms)
        for message in batch:
            if self.requires_session and not message.session_id:
                raise errors.session_id_missing()
            if len(message.session_id or "") > MAX_ID_LENGTH:
                raise errors.id_too_long("SessionId")
            if len(message.message_id or "") > MAX_ID_LENGTH:
                raise errors.id_too_long("MessageId")
        return [self._store(message, now_ms) for message in batch]

    def _store(self, message: Incoming, now_ms: int) -> int:
        if self._is_duplicate(message.message_id, now_ms):
            return 0
        entry = Entry(0, self._next_sequence(), message.session_id, now_ms)
        if message.scheduled_ms is not None and message.scheduled_ms > now_ms:
            entry.state, entry.due_ms = State.SCHEDULED, message.scheduled_ms
        if message.ttl_ms is not None:
            entry.expires_ms = max(now_ms, entry.due_ms or 0) + message.ttl_ms
        self._journal.add(self.name, entry, message)
        self._enter(entry)
        return entry.sequence_number

    def _is_duplicate(self, message_id: str | None, now_ms: int) -> bool:
        if self._window_ms is None or not message_id:
            return False
        return not self._journal.is_new(self.name, message_id, now_ms, self._window_ms)

    def cancel_scheduled(self, sequence_numbers: Sequence[int], now_ms: int) -> None:
        self.advance(now_ms)
        entries = [self._entries.get(number) for number in sequence_numbers]
        for number, entry in zip(sequence_numbers, entries, strict=True):
            if entry is None or entry.state is not State.SCHEDULED:
                raise errors.message_not_found(number)
        for entry in entries:
            if entry is not None:
                self._remove(entry)

    # --- receiving -------------------------------------------------------------------------------------------------

    def take(self, session_id: str | None, owner: Hashable, now_ms: int) -> Entry | None:
        """The next message of a lane, locked for `owner`. None when it is empty, or a session that is not held."""
        self.advance(now_ms)
        lane = self._lanes.get(session_id)
        if lane is None or not self._any_waiting(lane):
            return None
        if session_id is not None and lane.holder != owner:
            return None
        entry = self._entries[heapq.heappop(lane.waiting)]
        self._lock(entry, owner, now_ms)
        return entry

    def take_deferred(
        self, sequence_numbers: Sequence[int], owner: Hashable, now_ms: int, session_id: str | None
    ) -> list[Entry]:
        """Deferred messages by their sequence numbers, locked for `owner`: all or (raising Refusal) none."""
        self.advance(now_ms)
        if self.requires_session and self._session_of.get(owner) != session_id:
            raise errors.session_lock_lost()
        entries: list[Entry] = []
        for number in sequence_numbers:
            entry = self._entries.get(number)
            fits = entry is not None and entry.state is State.DEFERRED and entry.lock_token is None
            if entry is None or not fits or (self.requires_session and entry.session_id != session_id):
                raise errors.message_not_found(number)
            entries.append(entry)
        for entry in entries:
            self._lock(entry, owner, now_ms)
        return entries

    def page(self, start: int, limit: int, session_id: str | None, now_ms: int) -> list[Entry]:
        """For a peek: entries of any state from a sequence number on, in order. Takes no lock."""
        self.advance(now_ms)
        numbers = self._journal.page(
            self.name, dead=self.is_dead_letter_queue, start=start, limit=limit, session_id=session_id
        )
        return [self._entries[number] for number in numbers]

    def _lock(self, entry: Entry, owner: Hashable, now_ms: int) -> None:
        token = self._new_token()
        entry.lock_token, entry.owner = token, owner
        self._locks[token] = entry
        self._held.setdefault(owner, set()).add(token)
        if self.requires_session:
            entry.locked_until_ms = self._lanes[entry.session_id].until_ms
        else:
            entry.locked_until_ms = now_ms + self.lock_ms
            self._at(entry.locked_until_ms, lambda now: self._expire_lock(token, now))

    # --- settling --------------------------------------------------------------------------------------------------

    def complete(self, token: uuid.UUID, now_ms: int) -> None:
        self._remove(self._locked(token, now_ms))

    def abandon(self, token: uuid.UUID, now_ms: int, changes: Mapping[str, bytes] | None = None) -> None:
        """Give it back, as a failed delivery. `changes`: application properties to lay over, encoded."""
        entry = self._locked(token, now_ms)
        self._change(entry, changes)
        self._unlock(entry, now_ms, failed=True)

    def put_back(self, token: uuid.UUID, now_ms: int) -> None:
        """Give it back unused (AMQP's `released`): no failed delivery."""
        self._unlock(self._locked(token, now_ms), now_ms, failed=False)

    def defer(self, token: uuid.UUID, now_ms: int, changes: Mapping[str, bytes] | None = None) -> None:
        entry = self._locked(token, now_ms)
        entry.state = State.DEFERRED
        self._change(entry, changes)
        self._forget_lock(entry)
        self._journal.change(entry, dead=self.is_dead_letter_queue)

    def dead_letter(
        self,
        token: uuid.UUID,
        now_ms: int,
        reason: str | None,
        description: str | None,
        changes: Mapping[str, bytes] | None = None,
    ) -> None:
        """Move it to the dead-letter queue; one that is there already stays, with the new reason."""
        entry = self._locked(token, now_ms)
        self._change(entry, changes)
        self._forget_lock(entry)
        self._bury(entry, reason, description)

    def renew(self, token: uuid.UUID, now_ms: int) -> int:
        """Lock it for another lock duration; returns until when (ms UTC)."""
        entry = self._locked(token, now_ms)
        if not self.requires_session:
            entry.locked_until_ms = now_ms + self.lock_ms
            self._at(entry.locked_until_ms, lambda now: self._expire_lock(token, now))
        return entry.locked_until_ms

    def release(self, owner: Hashable, now_ms: int) -> None:
        """A link is gone: its messages and its session are free again, uncounted."""
        self.advance(now_ms)
        for token in list(self._held.get(owner, ())):
            self._unlock(self._locks[token], now_ms, failed=False)
        session_id = self._session_of.get(owner)
        if session_id is not None:
            self._free(session_id, self._lanes[session_id])

    def _locked(self, token: uuid.UUID, now_ms: int) -> Entry:
        self.advance(now_ms)
        entry = self._locks.get(token)
        if entry is None:
            raise errors.session_lock_lost() if self.requires_session else errors.message_lock_lost()
        return entry

    def _change(self, entry: Entry, changes: Mapping[str, bytes] | None) -> None:
        if changes:
            entry.overlay = {**(entry.overlay or {}), **changes}
            self._journal.change(entry, dead=self.is_dead_letter_queue)

    def _unlock(self, entry: Entry, now_ms: int, *, failed: bool) -> None:
        self._forget_lock(entry)
        if failed:
            entry.failures += 1
            if entry.failures >= self._max_delivery_count and not self.is_dead_letter_queue:
                attempts = f"Message could not be consumed after {entry.failures} delivery attempts."
                self._bury(entry, "MaxDeliveryCountExceeded", attempts)
                return
            self._journal.change(entry, dead=self.is_dead_letter_queue)
        if entry.expires_ms is not None and entry.expires_ms <= now_ms:
            self._remove(entry)
        elif entry.state is State.ACTIVE:
            self._wait(entry)

    def _forget_lock(self, entry: Entry) -> None:
        assert entry.lock_token is not None, "only a locked message has a lock to forget"
        del self._locks[entry.lock_token]
        held = self._held[entry.owner]
        held.discard(entry.lock_token)
        if not held:
            del self._held[entry.owner]
        entry.lock_token, entry.owner = None, None

    def _bury(self, entry: Entry, reason: str | None, description: str | None) -> None:
        overlay = dict(entry.overlay or {})
        if reason is not None:
            overlay["DeadLetterReason"] = codec.string(reason)
        if description is not None:
            overlay["DeadLetterErrorDescription"] = codec.string(description)
        entry.overlay, entry.state, entry.expires_ms = overlay, State.ACTIVE, None  # no time to live in there
        del self._entries[entry.sequence_number]
        target = self if self.dead_letters is None else self.dead_letters
        self._journal.change(entry, dead=True)
        target._enter(entry)

    # --- sessions --------------------------------------------------------------------------------------------------

    def accept_session(self, wanted: str | None, owner: Hashable, now_ms: int) -> tuple[str, int] | None:
        """Lock a session for `owner`: the one that is wanted, or the one whose messages have waited longest.

        Returns its id and until when it is locked (ms UTC); None when none is wanted and none is free. Raises Refusal
        when the wanted one is held.
        """
        self.advance(now_ms)
        if wanted is None:
            for session_id in list(self._free_sessions):
                if self._any_waiting(self._lanes[session_id]):
                    wanted = session_id
                    break
                del self._free_sessions[session_id]
            else:
                return None
        lane = self._lanes.setdefault(wanted, _Lane())
        if lane.holder is not None:
            raise errors.session_busy(wanted)
        self._free_sessions.pop(wanted, None)
        lane.holder = owner
        self._session_of[owner] = wanted
        self._extend(wanted, lane, now_ms)
        return wanted, lane.until_ms

    def session_holder(self, session_id: str, now_ms: int) -> Hashable:
        """Who holds the session; None when nobody does."""
        self.advance(now_ms)
        lane = self._lanes.get(session_id)
        return lane.holder if lane else None

    def renew_session(self, session_id: str, owner: Hashable, now_ms: int) -> int:
        """Returns until when the session is locked now (ms UTC). Raises Refusal when `owner` does not hold it."""
        self.advance(now_ms)
        lane = self._lanes.get(session_id)
        if lane is None or lane.holder is None or lane.holder != owner:
            raise errors.session_lock_lost()
        self._extend(session_id, lane, now_ms)
        for token in self._held.get(owner, ()):
            self._locks[token].locked_until_ms = lane.until_ms
        return lane.until_ms

    def session_state(self, session_id: str) -> bytes | None:
        return self._journal.session_state(self.name, session_id)

    def set_session_state(self, session_id: str, state: bytes | None) -> None:
        self._journal.set_session_state(self.name, session_id, state)

    def _extend(self, session_id: str, lane: _Lane, now_ms: int) -> None:
        lane.until_ms = now_ms + self.lock_ms
        self._at(lane.until_ms, lambda now: self._expire_session(session_id, now))

    def _free(self, session_id: str, lane: _Lane) -> None:
        del self._session_of[lane.holder]
        lane.holder = None
        if self._any_waiting(lane):
            self._free_sessions[session_id] = None
        else:
            del self._lanes[session_id]
        self._wake(self)

    # --- time ------------------------------------------------------------------------------------------------------

    def advance(self, now_ms: int) -> None:
        """Let everything happen that was due by `now_ms`: locks expire, scheduled messages appear, old ones go."""
        while self._agenda and self._agenda[0][0] <= now_ms:
            heapq.heappop(self._agenda)[2](now_ms)
        if self._window_ms is not None and now_ms >= self._forget_at_ms:
            self._journal.forget(self.name, now_ms - self._window_ms)
            self._forget_at_ms = now_ms + max(1000, self._window_ms // 60)

    def next_due_ms(self) -> int | None:
        """When `advance` may have something to do; early is harmless."""
        return self._agenda[0][0] if self._agenda else None

    def _at(self, when_ms: int, act: Callable[[int], None]) -> None:
        heapq.heappush(self._agenda, (when_ms, next(self._tie), act))

    def _expire_lock(self, token: uuid.UUID, now_ms: int) -> None:
        entry = self._locks.get(token)
        if entry is not None and entry.locked_until_ms <= now_ms:
            self._unlock(entry, now_ms, failed=True)

    def _expire_session(self, session_id: str, now_ms: int) -> None:
        lane = self._lanes.get(session_id)
        if lane is None or lane.holder is None or lane.until_ms > now_ms:
            return
        owner = lane.holder
        for token in list(self._held.get(owner, ())):
            self._unlock(self._locks[token], now_ms, failed=True)
        self.lost_sessions.append(owner)
        self._free(session_id, lane)

    def _expire(self, entry: Entry, now_ms: int) -> None:
        if entry.expires_ms is None or entry.expires_ms > now_ms or entry.lock_token is not None:
            return
        if self._entries.get(entry.sequence_number) is entry:
            self._remove(entry)

    def _appear(self, entry: Entry, now_ms: int) -> None:
        if self._entries.get(entry.sequence_number) is not entry or entry.state is not State.SCHEDULED:
            return
        del self._entries[entry.sequence_number]
        entry.sequence_number, entry.state = self._next_sequence(), State.ACTIVE
        entry.enqueued_ms = entry.due_ms or now_ms
        self._entries[entry.sequence_number] = entry
        self._journal.change(entry, dead=False)
        self._wait(entry)

    # --- lanes -----------------------------------------------------------------------------------------------------

    def _next_sequence(self) -> int:
        self._last_sequence += 1
        return self._last_sequence

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.sequence_number] = entry
        if entry.expires_ms is not None:
            self._at(entry.expires_ms, lambda now: self._expire(entry, now))
        if entry.state is State.SCHEDULED:
            self._at(entry.due_ms or 0, lambda now: self._appear(entry, now))
        elif entry.state is State.ACTIVE:
            self._wait(entry)
        self._wake(self)

    def _wait(self, entry: Entry) -> None:
        session_id = entry.session_id if self.requires_session else None
        lane = self._lanes.setdefault(session_id, _Lane())
        heapq.heappush(lane.waiting, entry.sequence_number)
        if session_id is not None and lane.holder is None:
            self._free_sessions.setdefault(session_id)
        self._wake(self)

    def _any_waiting(self, lane: _Lane) -> bool:
        while lane.waiting:
            entry = self._entries.get(lane.waiting[0])
            if entry is not None and entry.state is State.ACTIVE and entry.lock_token is None:
                return True
            heapq.heappop(lane.waiting)
        return False

    def _remove(self, entry: Entry) -> None:
        if entry.lock_token is not None:
            self._forget_lock(entry)
        del self._entries[entry.sequence_number]
        self._journal.remove(entry)

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries.values())
