"""The producer: takes events, gives ids, packs, sends lane by lane, waits or spools where there is no room.

What is where, and in which order it moves:

1. `send` encodes the event, gives it the next id of its lane, and puts it into the lane's open envelope: in memory, or on
   disk where memory is full or `durable` is set. Only then is it accepted. No room anywhere: it waits, or raises.
2. A lane's envelope leaves when it is full, `linger_s` old, or when somebody waits for room or for a flush.
3. It is tried until it is acknowledged, the same bytes to the same partition, before the next one of its lane leaves.
4. Its outcome is told to every handle; only then are memory and disk given free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from meterline_client.accounts import Accounts, Ledger
from meterline_client.clock import Clock, SystemClock, sleep
from meterline_client.delivery import Delivery
from meterline_client.ending import put_away, until_settled
from meterline_client.errors import (
    Closed,
    ConfigurationError,
    EventRefused,
    MeterlineClientError,
    SpoolError,
    SpoolFull,
)
from meterline_client.events import (
    DATA,
    HEAD,
    Extension,
    Stamps,
    data_text,
    extended,
    id_text,
    middle,
    milliseconds,
    source_text,
)
from meterline_client.hashing import partition_for
from meterline_client.lane import Lane
from meterline_client.outcomes import Failure, Sent
from meterline_client.packing import EVENT_OVERHEAD_BYTES, Envelope
from meterline_client.spool import Spool, sync
from meterline_client.transport import Transport
from meterline_client.turns import NO_ROOM, Turns

log = logging.getLogger("meterline.client")

MAX_BYTES = 64 * 1024 * 1024
LINGER_S = 0.05
CLOSE_S = 30.0
FSYNC_S = 1.0
_ROUTES_BYTES = 16 * 1024 * 1024
"""What is remembered of subjects takes so much at the most; then it is begun anew."""
_ROUTE_BYTES = 400
"""What remembering one takes besides its text (64-bit CPython)."""
_REST_EVERY = 256
"""So many events are sent at most before the lanes have their turn: a loop of sends that need not wait never yields."""
_RUN = re.compile(r"[A-Za-z0-9]{8,64}")


class _Route(NamedTuple):
    lane: Lane
    key: bytes
    middle: bytes


class Producer:
    """`async with Producer(transport, source) as producer: await producer.send(type, subject, data)`.

    source: the CloudEvents source of every event; ids are unique within it. max_bytes: bounds the events in memory; one
    envelope per partition, read back from the spool, comes on top. linger_s: how long an event may wait for company.

    spool_dir: what does not fit into memory goes to this directory, and what an earlier producer left there is sent first.
    One producer at a time. max_spool_bytes: its bound, None for as much as the disk takes. durable: every event is on disk
    before `send` returns, so that a `kill -9` of this process loses none. fsync_s: how often the spool is synced, which
    bounds what a loss of power costs; None: never.

    delivery_timeout_s: after so long an envelope is given up, and its events have failed; None: it is tried for ever.
    on_failure: called once for each event that failed. run: the first part of the ids, a fresh random one by default.
    partitions: how many the topic has, if a start shall not wait for the broker; nothing is sent where it has another number.
    """

    def __init__(
        self,
        transport: Transport,
        source: str,
        *,
        max_bytes: int = MAX_BYTES,
        linger_s: float = LINGER_S,
        spool_dir: str | Path | None = None,
        max_spool_bytes: int | None = None,
        durable: bool = False,
        fsync_s: float | None = FSYNC_S,
        delivery_timeout_s: float | None = None,
        on_failure: Callable[[Failure], object] | None = None,
        run: str | None = None,
        partitions: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        if run is not None and not _RUN.fullmatch(run):
            raise ConfigurationError(f"{run!r} is no run", hint="8 to 64 letters and digits, never used before")
        if durable and spool_dir is None:
            raise ConfigurationError("durable needs a place on disk", hint="set spool_dir")
        self.run = run or ""
        """The first part of the ids; drawn at the start, so that processes forked before it have different ones."""
        self._transport = transport
        self._source = source_text(source)
        self._max_bytes = max_bytes
        self._linger_s = linger_s
        self._durable = durable
        self._fsync_s = fsync_s
        self._clock: Clock = clock or SystemClock()
        self._spool = Spool(Path(spool_dir), transport.topic, max_bytes=max_spool_bytes) if spool_dir else None
        self._stamps = Stamps()
        self._told_partitions = partitions
        self._delivery = Delivery(transport, self._clock, delivery_timeout_s)
        self._unsynced: SpoolError | None = None
        self._lanes: list[Lane] = []
        self._routes: dict[tuple[str, str], _Route] = {}
        self._routes_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._turns = Turns(self._clock)
        self._since_rest = 0
        self._accounts = Accounts(on_failure)
        self._open = False
        self._ended: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def trouble(self) -> MeterlineClientError | None:
        """What stands in the way now: the last refusal of the broker, or of the disk. None: all is well.

        A disk that refused to sync once is named for good: what was spooled by then may never reach it.
        """
        return self._delivery.trouble or self._unsynced

    @property
    def partitions(self) -> int:
        """How many the topic had at the start; subjects are spread over so many."""
        return len(self._lanes)

    @property
    def memory_bytes(self) -> int:
        """What the events in memory take, as `max_bytes` bounds it."""
        return self._accounts.memory_bytes

    @property
    def spool_bytes(self) -> int:
        """What the spool takes on disk."""
        return self._spool.bytes if self._spool else 0

    def ledger(self) -> Ledger:
        """Where every event is that was ever accepted."""
        return self._accounts.ledger()

    async def start(self) -> None:
        """Read the spool, connect, begin to send. Raises ConfigurationError, SpoolError, TransportError."""
        assert not self._open and not self._lanes, "a producer starts once"
        self.run = self.run or secrets.token_hex(8)
        left = await _opened(self._spool, self.run) if self._spool else []
        try:
            partitions = self._told_partitions or await self._delivery.connect(None)
            lanes = [Lane(partition, self.run) for partition in range(partitions)]
            for envelope in left:
                if envelope.partition >= partitions:
                    topic = self._transport.topic
                    raise ConfigurationError(
                        f"the spool holds events for partition {envelope.partition} of {topic}, which has {partitions}",
                        hint="was the topic made anew? events may only be repeated in the partition they were for",
                    )
                lanes[envelope.partition].recovered(envelope)
        except BaseException:
            await self._transport.close()
            if self._spool:
                self._spool.close()
            raise
        recovered = sum(envelope.events for envelope in left)
        self._accounts.recovered = self._accounts.pending = recovered
        if recovered:
            log.info("%d events of an earlier producer are in the spool, and are sent first", recovered)
        self._lanes = lanes
        self._open = True
        _OPEN.add(self)
        self._tasks = [asyncio.create_task(self._drive(lane)) for lane in lanes]
        if self._told_partitions:
            self._tasks.append(asyncio.create_task(_completed(self._delivery.connect(self._told_partitions))))
        if self._spool and self._fsync_s is not None:
            self._tasks.append(asyncio.create_task(self._sync_often(self._spool, self._fsync_s)))

    async def send(
        self,
        type: str,
        subject: str,
        data: object,
        *,
        time: datetime | int | None = None,
        id: str | None = None,
        extensions: Mapping[str, Extension] | None = None,
        timeout_s: float | None = None,
    ) -> Sent:
        """Accept one event; wait for room where there is none.

        data: what orjson can encode; a Decimal becomes a text. time: when it was used, a datetime with time zone or
        milliseconds since the epoch; now by default. id: the caller's own; one is given otherwise, and is best.
        extensions: CloudEvents extension attributes, like a `traceparent`; they are kept with the event, and meter nothing.
        Raises SpoolFull after `timeout_s` (None: never), EventRefused, SpoolError, Closed; then it was not accepted.
        """
        self._since_rest += 1
        if self._since_rest >= _REST_EVERY:  # before it is accepted, so that a cancelled call has accepted nothing
            self._since_rest = 0
            await asyncio.sleep(0)
        if not self._turns.taken:  # else whoever waits already comes first
            try:
                return self.try_send(type, subject, data, time=time, id=id, extensions=extensions)
            except SpoolFull:
                pass
        if time is None:
            time = self._clock.time_ms()  # when it was used, not when there was room
        deadline_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        await self._turns.line_up(deadline_s)
        try:
            while True:
                try:
                    return self.try_send(type, subject, data, time=time, id=id, extensions=extensions)
                except SpoolFull:
                    for lane in self._lanes:
                        lane.wake.set()  # nothing lingers while somebody waits
                    if not await self._turns.until_freed(deadline_s):
                        raise
        finally:
            self._turns.next()

    def try_send(
        self,
        type: str,
        subject: str,
        data: object,
        *,
        time: datetime | int | None = None,
        id: str | None = None,
        extensions: Mapping[str, Extension] | None = None,
    ) -> Sent:
        """The same, at once or not at all. Raises SpoolFull where there is no room."""
        if not self._open:
            raise Closed("the producer is closed, or was not started in this process")
        route = self._routes.get((type, subject)) or self._route(type, subject)
        lane = route.lane
        stamp = self._stamps.text(self._clock.time_ms() if time is None else milliseconds(time))
        behind = extended(extensions) if extensions else DATA
        if id is None:
            number = lane.counter + 1
            event = b'%b%d"%b%b%b%b}' % (lane.head, number, route.middle, stamp, behind, data_text(data))
        else:
            number = lane.counter
            event = b"%b%b%b%b%b%b}" % (HEAD, id_text(id), route.middle, stamp, behind, data_text(data))
        envelope, index = self._accept(lane, route.key, event)
        lane.counter = number
        self._accounts.accepted += 1
        self._accounts.pending += 1
        return Sent(envelope, index, number if id is None else id)

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything accepted before has its outcome.

        Raises DeliveryFailed if any event has failed since the last flush, and TimeoutError after `timeout_s`.
        """
        if not await until_settled(self._lanes, self._clock, timeout_s):
            raise TimeoutError(f"{self._accounts.pending} events are not acknowledged after {timeout_s:g} s")
        self._accounts.failures.report()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Accept nothing more, send what is left, and end. Idempotent.

        What is not acknowledged after `timeout_s` stays in the spool, said in the log; without a spool it has failed.
        Raises DeliveryFailed if any event has failed since the last flush.
        """
        if not self._open:
            if self._ended is not None:
                await self._ended.wait()  # somebody else is closing it
            return
        self._open, self._ended = False, asyncio.Event()
        _OPEN.discard(self)
        self._turns.freed()
        try:
            if not await until_settled(self._lanes, self._clock, timeout_s):
                log.warning("%d events were not acknowledged within %g s", self._accounts.pending, timeout_s)
        finally:
            try:
                await self._end()
            finally:
                self._ended.set()
        self._accounts.failures.report()

    # --- accepting -----------------------------------------------------------------------------------------------------

    def _route(self, type: str, subject: str) -> _Route:
        between = middle(self._source, type, subject)
        key = subject.encode()
        route = _Route(self._lanes[partition_for(key, len(self._lanes))], key, between)
        size = _ROUTE_BYTES + len(between) + 2 * len(key)
        self._routes_bytes += size
        if self._routes_bytes > _ROUTES_BYTES:
            self._routes.clear()
            self._routes_bytes = size
        self._routes[type, subject] = route
        return route

    def _accept(self, lane: Lane, key: bytes, event: bytes) -> tuple[Envelope, int]:
        size = len(event) + EVENT_OVERHEAD_BYTES
        spool, accounts = self._spool, self._accounts
        if not lane.stored and not self._durable and accounts.memory_bytes + size <= self._max_bytes:
            placed = lane.keep(key, event)
            accounts.memory_bytes += size
        elif spool is not None and spool.has_room(size):
            placed = lane.store(spool, key, event)
        elif (self._durable or size > self._max_bytes) and (spool is None or not spool.could_have_room(size)):
            raise EventRefused(
                f"an event of {len(event)} bytes is larger than all the room there is",
                hint="raise max_spool_bytes" if self._spool else "raise max_bytes, or set a spool_dir",
            )
        else:
            raise SpoolFull(
                f"no room: {accounts.memory_bytes} bytes of events wait in memory, {self.spool_bytes} on disk",
                hint=f"{NO_ROOM}; what stands in the way: {self._delivery.trouble or 'nothing but speed'}",
            )
        if placed[1] == 0:
            lane.wake.set()  # the envelope before it is full
            placed[0].timer = self._clock.call_later(self._linger_s, lambda: lane.due(placed[0]))
        return placed

    # --- sending -------------------------------------------------------------------------------------------------------

    async def _drive(self, lane: Lane) -> None:
        while True:
            while not lane.ready(hurry=self._turns.taken):
                lane.wake.clear()
                await lane.wake.wait()
            envelope = lane.take()
            try:
                offset = await self._delivery.deliver(envelope)
            except MeterlineClientError as error:
                self._settle(lane, envelope, None, error)
            else:
                self._settle(lane, envelope, offset, None)

    def _settle(self, lane: Lane, envelope: Envelope, offset: int | None, error: MeterlineClientError | None) -> None:
        self._accounts.settle(envelope, error)
        envelope.settle(offset, error)
        lane.settled()
        if envelope.span is not None and not isinstance(error, SpoolError):  # what cannot be read is kept as it is
            try:
                envelope.span.settled()
            except OSError as failure:  # sent again by the next producer, and recognised by its ids
                log.error("%s: cannot be removed from the spool: %s", failure.filename, failure.strerror)
        self._turns.freed()

    async def _sync_often(self, spool: Spool, every_s: float) -> None:
        while True:
            await sleep(self._clock, every_s)
            try:
                await asyncio.to_thread(sync, spool.unsynced())
            except OSError as error:
                self._unsynced = SpoolError(f"the spool cannot be synced to disk: {error.strerror}")
                log.error("%s", self._unsynced)

    # --- ending --------------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            for lane in self._lanes:
                put_away(lane, self._spool, self._accounts)
            await self._transport.close()
        finally:
            if self._spool:
                self._spool.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


_OPEN: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has neither the connections nor ids of its own: what it sent would be taken for its parent's."""
    for producer in list(_OPEN):
        producer._open = False
        if producer._spool:
            producer._spool.disown()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(after_in_child=_after_fork)


async def _opened(spool: Spool, run: str) -> list[Envelope]:
    """What `spool.open` gives. Who is cancelled meanwhile has given the directory free when it raises."""
    opening = asyncio.ensure_future(asyncio.to_thread(spool.open, run))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: spool.close() if done.exception() is None else None)
        await asyncio.wait({opening})
        raise


async def _completed(work: Awaitable[object]) -> None:
    await work
