"""The local Service Bus: a TCP server on the loopback, its queues, and the one place where turns are committed.

    start()   opens the store, takes back what it kept, connects to Kafka if event hubs are bridged, listens
    a turn    clients' frames change queues and the store; at its end `_settle` lets time pass and delivers, then
              commits once, then writes every frame the turn produced. That order is the guarantee: what a client is
              told is on disk. If a commit fails, nothing of the turn is told and the server stops (`failure`).
    close()   hangs up, closes the store

Invariant kept for design.md 2.7: a message id is stored once per duplicate window, also across a crash.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import cbs, errors
from .cbs import Authority
from .connection import Connection
from .entities import Entity
from .errors import Refusal
from .eventhubs import EventHubs
from .links import AttachRequest, Link
from .management import Management
from .message import Reply, Request
from .nodes import QueueSink, QueueSource, ReplySource, RequestSink
from .session import Session
from .store import Store

log = logging.getLogger(__name__)

SESSION_WAIT_MS = 65_000  # for the next available session, where the client gives no timeout (SDK's own default)
_DEAD_LETTERS = "/$deadletterqueue"
_MANAGEMENT = "/$management"
_POLL_S = 1.0  # the clock is injected, so it is looked at even when nothing seems due


@dataclass(frozen=True)
class QueueConfig:
    """A queue. `duplicate_detection_window_s` None switches duplicate detection off. Defaults as on Azure."""

    name: str
    requires_session: bool = True
    duplicate_detection_window_s: float | None = 600
    lock_duration_s: float = 60
    max_delivery_count: int = 10

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip("/") or "$" in self.name:
            raise ValueError(f"a queue's name must be a plain path, not {self.name!r}")
        if self.lock_duration_s <= 0 or self.max_delivery_count < 1:
            raise ValueError(f"queue {self.name!r}: lock duration and delivery count must be positive")


@dataclass(frozen=True)
class ServiceBusConfig:
    """One server. `event_hubs` maps an event hub's name to the Kafka topic its events go to; port 0 picks a port."""

    data_dir: Path
    key_name: str
    key: str = field(repr=False)
    queues: tuple[QueueConfig, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    event_hubs: Mapping[str, str] = field(default_factory=dict)
    kafka_bootstrap: str | None = None

    def __post_init__(self) -> None:
        if not self.key_name or not self.key:
            raise ValueError("a key name and a key are needed")
        names = [name.lower() for name in (*(queue.name for queue in self.queues), *self.event_hubs)]
        if len(set(names)) != len(names):
            raise ValueError("queues and event hubs need names that differ, also in more than their case")
        if self.event_hubs and not self.kafka_bootstrap:
            raise ValueError("event hubs are passed on to Kafka: kafka_bootstrap is needed")


class ServiceBusServer:
    """A Service Bus namespace for this machine. `clock` is unix time in seconds; tests give their own."""

    def __init__(
        self, config: ServiceBusConfig, *, clock: Callable[[], float] = time.time, hubs: EventHubs | None = None
    ) -> None:
        self.config = config
        self.failure: BaseException | None = None
        self._clock = clock
        self._authority = Authority(config.key_name, config.key)
        self._hubs = hubs
        self._store: Store | None = None
        self._entities: dict[str, Entity] = {}
        self._receivers: dict[Entity, list[QueueSource]] = {}
        self._waiters: dict[Entity, deque[QueueSource]] = {}
        self._woken: dict[Entity, None] = {}
        self._connections: set[Connection] = set()
        self._touched: dict[Connection, None] = {}
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError where it cannot listen, sqlite3.Error where the data directory is unusable or in use."""
        self._loop = asyncio.get_running_loop()
        self.config.data_dir.mkdir(parents=True, exist_ok=True)
        self._store = Store(self.config.data_dir / "servicebus.sqlite3")
        try:
            for queue in self.config.queues:
                self._restore(self._store, queue)
            if self._hubs is None and self.config.event_hubs:
                assert self.config.kafka_bootstrap is not None, "checked by the configuration"
                self._hubs = EventHubs.over_kafka(self.config.event_hubs, self.config.kafka_bootstrap)
            if self._hubs is not None:
                await self._hubs.start()
            self._listener = await self._loop.create_server(self._connect, self.config.host, self.config.port)
        except BaseException:
            await self.close()
            raise
        self._tick()

    async def close(self) -> None:
        """Hang up and close. What was acknowledged is on disk already; what was not is not kept."""
        store, self._store = self._store, None  # from here on nothing schedules another turn
        for handle in (self._turn, self._timer):
            if handle is not None:
                handle.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        if self._hubs is not None:
            await self._hubs.close()
        if store is not None:
            store.close()
        self._listener = self._turn = self._timer = None
        self._stopped.set()

    async def stopped(self) -> None:
        """Wait until the server is closed, or has failed (see `failure`)."""
        await self._stopped.wait()

    @property
    def port(self) -> int:
        assert self._listener is not None, "the server is not listening"
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def connection_string(self) -> str:
        """For the Azure SDKs. It holds the key: hand it on, never log it."""
        return (
            f"Endpoint=sb://{self.config.host}:{self.port};SharedAccessKeyName={self.config.key_name};"
            f"SharedAccessKey={self.config.key};UseDevelopmentEmulator=true;"
        )

    def _restore(self, store: Store, queue: QueueConfig) -> None:
        lock_ms = int(queue.lock_duration_s * 1000)
        dead = Entity(
            queue.name,
            store,
            requires_session=False,
            lock_ms=lock_ms,
            max_delivery_count=queue.max_delivery_count,
            duplicate_window_ms=None,
            dead_letters=None,
            wake=self._wake,
        )
        window_s = queue.duplicate_detection_window_s
        entity = Entity(
            queue.name,
            store,
            requires_session=queue.requires_session,
            lock_ms=lock_ms,
            max_delivery_count=queue.max_delivery_count,
            duplicate_window_ms=None if window_s is None else int(window_s * 1000),
            dead_letters=dead,
            wake=self._wake,
        )
        entity.restore_sequence(store.last_sequence(queue.name))
        for is_dead, entry in store.stored(queue.name):
            (dead if is_dead else entity).restore(entry)
        self._entities[queue.name.lower()] = entity
        self._entities[queue.name.lower() + _DEAD_LETTERS] = dead
        for one in (entity, dead):
            self._receivers[one] = []
            self._waiters[one] = deque()

    # --- the turn --------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._clock()

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def clock_moved(self) -> None:
        """Let what is due by now happen now. For tests whose clock jumps; a running server looks by itself."""
        self._tick()

    def touched(self, connection: Connection) -> None:
        self._touched[connection] = None
        self._schedule()

    def _wake(self, entity: Entity) -> None:
        self._woken[entity] = None
        self._schedule()

    def _schedule(self) -> None:
        if self._turn is None and self._loop and self._store and not self.failure:
            self._turn = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """The end of a turn: 1 deliver, 2 commit, 3 tell. In this order, or a crash could unsay what was told."""
        self._turn = None
        assert self._store is not None, "no turns after the close"
        try:
            while self._woken:
                entity, _ = self._woken.popitem()
                self._deliver(entity)
            self._store.commit()
        except (sqlite3.Error, AssertionError) as failure:
            self._fail(failure)
            return
        touched, self._touched = list(self._touched), {}
        for connection in touched:
            connection.flush()

    def _fail(self, failure: BaseException) -> None:
        log.critical("the local Service Bus stops: its store failed", exc_info=failure)
        self.failure = failure
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.abort()
        self._stopped.set()

    def _deliver(self, entity: Entity) -> None:
        now = self.now_ms()
        entity.advance(now)
        lost, entity.lost_sessions = entity.lost_sessions, []
        for link in lost:
            if isinstance(link, QueueSource):
                link.detach(errors.session_lock_lost())
        waiters = self._waiters[entity]
        while waiters and self._begin(waiters[0]):
            waiters.popleft()
        # Round-robin, one message each, so that competing receivers share.
        hungry = list(self._receivers[entity])
        while hungry:
            hungry = [link for link in hungry if link.pump()]
        for link in self._receivers[entity]:
            link.drained()

    def _begin(self, link: QueueSource) -> bool:
        """True when the link need not wait (any longer)."""
        try:
            if not link.begin():
                return False
        except Refusal as refusal:
            link.detach(refusal)
            return True
        self._receivers[link.entity].append(link)
        return True

    def _tick(self) -> None:
        """Time passes: wake what is due, end what has waited or is no longer allowed."""
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None, "the server was started"
        now, soonest = self.now_ms(), int(_POLL_S * 1000)
        for entity in self._entities.values():
            due = entity.next_due_ms()
            if due is not None and due <= now:
                self._wake(entity)
            elif due is not None:
                soonest = min(soonest, due - now)
            for link in [link for link in self._waiters[entity] if link.deadline_ms <= now]:
                self._waiters[entity].remove(link)
                link.detach(errors.no_session_free(link.waits_s))
        for connection in self._connections:
            for held in connection.links():
                if held.path and not connection.covers(held.path):
                    held.detach(Refusal(errors.UNAUTHORIZED, "ExpiredToken: The token is expired."))
        self._timer = self._loop.call_later(soonest / 1000, self._tick)

    # --- connections and links -------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._touched.pop(connection, None)
        if self._store is None or self.failure is not None:
            return
        for entity in self._entities.values():
            entity.release(connection, self.now_ms())

    def link_for(self, session: Session, request: AttachRequest) -> Link:
        """Attach a client's link to the node it names. Raises Refusal: authorization first, then existence."""
        connection, path = session.connection, cbs.path_of(request.address)
        if path == "$cbs":
            return self._pair(
                session, request, "", lambda asked, later: self._put_token(connection, asked), hyphens=True
            )
        if self._hubs is not None and path == "$management":
            if not connection.authenticated():
                raise errors.claim_required("Manage,Listen,Send", request.address)
            hubs = self._hubs
            return self._pair(session, request, "", lambda asked, later: hubs.answer(asked, later), hyphens=True)
        if not connection.covers(path):
            raise errors.claim_required("Listen" if request.receiving else "Send", request.address)
        if self._hubs is not None and self._hubs.knows(path):
            link = self._hubs.link_for(session, request, path)
            link.open()
            return link
        is_management = path.endswith(_MANAGEMENT)
        entity = self._entities.get(path.removesuffix(_MANAGEMENT))
        if entity is None or self._store is None:
            raise errors.entity_not_found(request.address)
        if is_management:
            management = Management(
                entity,
                self._store,
                self.now_ms,
                connection,
                lambda owner: isinstance(owner, QueueSource) and owner.session.connection is connection,
                lambda name: _session_of(connection, name),
            )
            return self._pair(session, request, path, management.answer, hyphens=False)
        if request.receiving:
            return self._receiver(session, request, path, entity, self._store)
        if entity.is_dead_letter_queue:
            raise Refusal(errors.NOT_ALLOWED, "A message cannot be sent to a dead-letter queue.")
        sink = QueueSink(session, request, path, entity, self.now_ms)
        sink.open()
        return sink

    def _receiver(
        self, session: Session, request: AttachRequest, path: str, entity: Entity, store: Store
    ) -> QueueSource:
        link = QueueSource(session, request, path, entity, store, self.now_ms, self._wake, self._gone)
        wait_ms = request.properties.get("com.microsoft:timeout")
        wait_ms = wait_ms if isinstance(wait_ms, int) else SESSION_WAIT_MS
        link.waits_s, link.deadline_ms = wait_ms / 1000, self.now_ms() + wait_ms
        if link.begin():
            self._receivers[entity].append(link)
        else:
            self._waiters[entity].append(link)
            self._tick()
        return link

    def _gone(self, link: QueueSource) -> None:
        for links in (self._receivers[link.entity], self._waiters[link.entity]):
            if link in links:
                links.remove(link)

    def _pair(
        self,
        session: Session,
        request: AttachRequest,
        path: str,
        answer: Callable[[Request, Callable[[Reply], None]], Reply | None],
        *,
        hyphens: bool,
    ) -> Link:
        """One half of a request-response pair: the client attaches both, in either order."""
        if request.receiving:
            reply = ReplySource(session, request, path)
            reply.attach()
            return reply
        sink = RequestSink(session, request, path, answer, hyphens=hyphens)
        sink.open()
        return sink

    def _put_token(self, connection: Connection, request: Request) -> Reply:
        grant, reply = cbs.put_token(request, self._authority, self.now_s())
        connection.grants[grant.path] = grant
        return reply


def _session_of(connection: Connection, link_name: str) -> str | None:
    for link in connection.links():
        if isinstance(link, QueueSource) and link.request.name == link_name:
            return link.session_id
    return None
