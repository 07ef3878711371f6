"""A queue's rules without a wire: nothing is lost, nothing is held twice, and a restart changes only the locks."""

from __future__ import annotations

import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from local.servicebus import codec
from local.servicebus.entities import Entity
from local.servicebus.entry import State
from local.servicebus.errors import Refusal
from local.servicebus.message import Incoming
from local.servicebus.store import Store

LOCK_MS, WINDOW_MS = 1000, 5000


def queue(store: Store, *, sessions: bool) -> Entity:
    """As the server restores it."""

    def one(requires_session: bool, window: int | None, dead: Entity | None) -> Entity:
        return Entity(
            "q",
            store,
            requires_session=requires_session,
            lock_ms=LOCK_MS,
            max_delivery_count=3,
            duplicate_window_ms=window,
            dead_letters=dead,
        )

    dead = one(False, None, None)
    entity = one(sessions, WINDOW_MS, dead)
    entity.restore_sequence(store.last_sequence("q"))
    for is_dead, entry in store.stored("q"):
        (dead if is_dead else entity).restore(entry)
    return entity


def incoming(message_id: str, session: str | None) -> Incoming:
    return Incoming(message_id, session, None, None, codec.NULL * 3, codec.map_of([]), b"")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "send",
                "take",
                "complete",
                "abandon",
                "defer",
                "dead",
                "release",
                "expire",
                "deferred",
                "restart",
                "renew",
            ]
        ),
        st.integers(0, 5),
    ),
    min_size=20,
    max_size=80,
)


@settings(deadline=None, max_examples=150)
@given(STEPS, st.booleans())
def test_every_message_is_at_one_place_and_delivered_at_most_three_times_and_restarts_lose_nothing(
    steps: list[tuple[str, int]], sessions: bool
) -> None:
    store = Store(":memory:")
    entity, now = queue(store, sessions=sessions), 0
    seen: dict[str, int] = {}
    stored: set[int] = set()
    completed: set[int] = set()
    held: dict[uuid.UUID, int] = {}
    for step, number in steps:
        now += 10
        session = f"s{number % 2}" if sessions else None
        owner = f"owner-{session}"
        try:
            if step == "send":
                (sequence,) = entity.send([incoming(f"m-{number}", session)], now)
                fresh = seen.get(f"m-{number}", -WINDOW_MS) <= now - WINDOW_MS
                assert bool(sequence) == fresh
                if sequence:
                    seen[f"m-{number}"] = now
                    assert sequence not in stored
                    stored.add(sequence)
            elif step == "take":
                if sessions and entity.session_holder(session or "", now) is None:
                    entity.accept_session(session, owner, now)
                entry = entity.take(session, owner, now)
                if entry is not None:
                    assert entry.sequence_number not in {n for t, n in held.items() if t in entity._locks}
                    assert entry.lock_token is not None and entry.failures < 3
                    held[entry.lock_token] = entry.sequence_number
            elif step == "deferred":
                numbers = [e.sequence_number for e in entity.entries() if e.state is State.DEFERRED]
                for entry in entity.take_deferred(numbers[:1], owner, now, session) if numbers else []:
                    assert entry.lock_token is not None
                    held[entry.lock_token] = entry.sequence_number
            elif step == "release":
                entity.release(owner, now)
            elif step == "expire":
                now += LOCK_MS + 1
                entity.advance(now)
                assert not entity._locks
            elif step == "restart":
                store.commit()
                before = {(e.sequence_number, e.state, e.failures) for e in entity.entries()}
                entity = queue(store, sessions=sessions)
                assert {(e.sequence_number, e.state, e.failures) for e in entity.entries()} == before
            elif step == "renew" and sessions:
                entity.renew_session(session or "", owner, now)
            elif held:
                token = list(held)[number % len(held)]
                sequence = held.pop(token)
                if step == "complete":
                    entity.complete(token, now)
                    completed.add(sequence)
                elif step == "abandon":
                    entity.abandon(token, now)
                elif step == "defer":
                    entity.defer(token, now)
                elif step == "dead":
                    entity.dead_letter(token, now, "r", None)
                    assert entity.dead_letters is not None
                    assert sequence in [entry.sequence_number for entry in entity.dead_letters.entries()]
        except Refusal as refusal:
            assert "lock" in refusal.condition or refusal.condition.endswith("not-found")
        alive = [entry.sequence_number for entry in entity.entries()]
        assert entity.dead_letters is not None
        dead = [entry.sequence_number for entry in entity.dead_letters.entries()]
        assert sorted([*alive, *dead, *completed]) == sorted(stored)
        assert all(entry.failures < 3 for entry in entity.entries())
    # Whatever happened: after every lock has expired, each session gives its active messages in order.
    now += LOCK_MS + 1
    entity.advance(now)
    waiting = {e.sequence_number: e.session_id for e in entity.entries() if e.state is State.ACTIVE}
    for session in ("s0", "s1") if sessions else (None,):
        if sessions:
            entity.accept_session(session, "last", now)
        got = []
        while (entry := entity.take(session, "last", now)) is not None:
            got.append(entry.sequence_number)
        assert got == sorted(n for n, of in waiting.items() if not sessions or of == session)
        entity.release("last", now)
    store.close()


def test_a_released_message_goes_back_uncounted_and_an_abandoned_one_counts() -> None:
    store = Store(":memory:")
    entity = queue(store, sessions=False)
    entity.send([incoming("m", None)], 0)
    for put_back, failures in ((entity.put_back, 0), (entity.abandon, 1), (entity.put_back, 1)):
        entry = entity.take(None, "o", 1)
        assert entry is not None and entry.lock_token is not None
        put_back(entry.lock_token, 1)
        assert entry.failures == failures
    store.close()


def test_sessions_that_wait_are_served_in_turn_and_empty_ones_cost_nothing() -> None:
    store = Store(":memory:")
    entity = queue(store, sessions=True)
    entity.send([incoming(f"{s}{n}", s) for n in range(2) for s in ("a", "b", "c")], 0)
    order = []
    for turn in range(6):
        accepted = entity.accept_session(None, f"o{turn}", 1)
        assert accepted is not None
        order.append(accepted[0])
        entry = entity.take(accepted[0], f"o{turn}", 1)
        assert entry is not None and entry.lock_token is not None
        entity.complete(entry.lock_token, 1)
        entity.release(f"o{turn}", 1)
    assert order == ["a", "b", "c", "a", "b", "c"]
    assert entity.accept_session(None, "none", 1) is None
    assert not entity._lanes and not entity._session_of and not entity._held
    store.close()
