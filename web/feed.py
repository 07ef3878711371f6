"""The live feed of all partitions: this worker's own changes, and those relayed from every peer.

One `Feed` per worker, however many readers: it opens each peer's `/v1/live?local=1` once, while somebody reads. Each
`Reader` is a bounded mailbox: changes are coalesced per window, and what does not fit is dropped *and counted*, so a slow
reader costs a fixed amount of memory and knows when it has missed something (design §6).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import orjson

from web.gather import Peers
from web.limits import Limits
from web.view import Json, View

_log = logging.getLogger(__name__)


def age(item: Json) -> tuple[int, int]:
    """Orders two states of one window: revisions only rise, and so do events within one (partials are cumulative)."""
    return int(item.get("revision", 0)), int(item.get("events", 0))


class Reader:
    """One open feed's mailbox. `wants` filters; `local`: changes of this worker's own partitions only.

    stale: the reader must be given a snapshot before what waits here. dropped: windows whose change did not fit.
    ended: set when the worker ends; nothing comes after.
    """

    def __init__(self, wants: Callable[[Json], bool], local: bool, pending_max: int) -> None:
        assert pending_max > 0
        self.wants = wants
        self.local = local
        self.stale = True
        self.ended = asyncio.Event()
        self.dropped = 0
        self.coverage: Json | None = None
        self.waiting: dict[str, Json] = {}
        self._pending_max = pending_max
        self._wake = asyncio.Event()

    def offer(self, item: Json) -> None:
        """The newest state of one window; replaces what waits for it."""
        if not self.wants(item):
            return
        window = str(item["id"])
        if window not in self.waiting and len(self.waiting) >= self._pending_max:
            del self.waiting[next(iter(self.waiting))]
            self.dropped += 1
        self.waiting[window] = item
        self._wake.set()

    def settle(self, item: Json) -> bool:
        """True if a snapshot's `item` is news; what waits for the same window goes, unless it is newer."""
        waits = self.waiting.get(str(item["id"]))
        if waits is None:
            return True
        if age(waits) > age(item):
            return False
        del self.waiting[str(item["id"])]
        return True

    def tell(self, *, coverage: Json | None = None, stale: bool = False, dropped: int = 0) -> None:
        """Something other than a window changed."""
        self.coverage = coverage if coverage is not None else self.coverage
        self.stale = self.stale or (stale and not self.local)
        self.dropped += dropped
        self._wake.set()

    def end(self) -> None:
        """The worker ends."""
        self.ended.set()
        self._wake.set()

    async def news(self, timeout_s: float) -> bool:
        """Waits until there is something to write, or the feed closes; False after `timeout_s` of nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
                return True
        return False

    async def rest(self, seconds: float) -> None:
        """Sleeps, while changes coalesce here, unless the feed closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()

    def take(self) -> tuple[list[Json], int, Json | None]:
        """(changed windows, dropped, coverage if it changed); empties the mailbox."""
        taken = list(self.waiting.values()), self.dropped, self.coverage
        self.waiting, self.dropped, self.coverage = {}, 0, None
        if not self.ended.is_set():
            self._wake.clear()
        return taken


class Feed:
    """Own changes and the peers', to all readers. Runs only while there are readers."""

    def __init__(self, view: View, peers: Peers, limits: Limits) -> None:
        self._view = view
        self._peers = peers
        self._limits = limits
        self._readers: set[Reader] = set()
        self._own: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._relays: dict[str, asyncio.Task[None]] = {}
        self._connected: set[str] = set()
        self._tried: set[str] = set()
        self._moved = asyncio.Event()
        self._closed = False

    @property
    def readers(self) -> int:
        """Open feeds, local ones included."""
        return len(self._readers)

    @property
    def connected(self) -> frozenset[str]:
        """Peers whose feed is being relayed now."""
        return frozenset(self._connected)

    def join(self, wants: Callable[[Json], bool], local: bool = False) -> Reader:
        """A new mailbox, filled from now on. The caller must `leave`."""
        reader = Reader(wants, local, self._limits.live_pending)
        reader.stale = not local
        if self._closed:
            reader.end()
        self._readers.add(reader)
        if self._own is None:
            self._own = _task(self._run_own())
        if not local:
            if self._watch is None:
                self._watch = _task(self._run_watch())
            reader.tell(coverage=self._coverage())
        return reader

    async def leave(self, reader: Reader) -> None:
        """Takes the mailbox away; the last one to leave ends the relays."""
        self._readers.discard(reader)
        ending: list[asyncio.Task[None]] = []
        if not any(not r.local for r in self._readers) and self._watch is not None:
            ending += [self._watch, *self._relays.values()]
            self._watch = None
            self._relays = {}
        if not self._readers and self._own is not None:
            ending.append(self._own)
            self._own = None
        await _end(ending)

    async def settled(self) -> None:
        """Waits until every peer's feed is open or has failed once, at most `gather_timeout_s`.

        A snapshot taken after this misses no change: whatever happens later comes through an open feed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.gather_timeout_s):
                while not self._peers.urls() <= self._tried:
                    self._moved.clear()
                    await self._moved.wait()

    async def close(self) -> None:
        """Ends all feeds: readers are told, relays are cancelled. Idempotent."""
        self._closed = True
        for reader in self._readers:
            reader.end()
        ending = [task for task in (self._own, self._watch, *self._relays.values()) if task is not None]
        self._own = self._watch = None
        self._relays = {}
        await _end(ending)

    # -- what runs while somebody reads

    async def _run_own(self) -> None:
        """The worker's own changes; taken in bursts, so that in a flood the view coalesces and metering goes on."""
        wait_s = self._limits.reconnect_s
        taken = 0
        while True:
            try:
                async for item in self._view.live():
                    if "dropped" in item:
                        self._tell(dropped=int(item["dropped"]), local=True)
                        continue
                    self._offer(item, relayed=False)
                    wait_s = self._limits.reconnect_s
                    taken += 1
                    if taken % self._limits.live_burst == 0:
                        await asyncio.sleep(self._limits.live_interval_ms / 1000)
            except Exception:
                _log.exception("the worker's own live changes broke off; trying again in %g s", wait_s)
            self._tell(stale=True)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._limits.reconnect_max_s)

    async def _run_watch(self) -> None:
        """Keeps one relay per peer, as peers come and go."""
        while True:
            urls = self._peers.urls()
            for url in urls - self._relays.keys():
                self._relays[url] = _task(self._run_relay(url))
            gone = [self._relays.pop(url) for url in self._relays.keys() - urls]
            if gone:
                await _end(gone)
                self._tried &= urls
                self._tell(coverage=self._coverage())
            await asyncio.sleep(self._limits.peers_every_s)

    async def _run_relay(self, url: str) -> None:
        """Relays one peer's feed; reopens it, with a growing wait, until cancelled."""
        wait_s = self._limits.reconnect_s
        first = True
        try:
            while True:
                try:
                    async for event, data in self._events(url):
                        if event == "open":
                            wait_s = self._limits.reconnect_s
                            self._mark(url, connected=True)
                            # What changed while this feed was closed was told to nobody: a snapshot makes it good.
                            self._tell(stale=not first)
                        elif event == "total":
                            self._offer(data, relayed=True)
                        elif event == "gap":
                            self._tell(dropped=int(data.get("dropped", 0)))
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                    _log.info("live feed of %s broke off: %s", url, type(error).__name__)
                first = False
                self._mark(url, connected=False)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, self._limits.reconnect_max_s)
        finally:
            self._connected.discard(url)
            self._tried.discard(url)

    async def _events(self, url: str) -> AsyncIterator[tuple[str, Json]]:
        """(event, data) of a peer's server-sent events, an `open` first. Ends where the peer ends it."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._limits.gather_timeout_s, sock_read=self._limits.heartbeat_s * 3
        )
        params = {"local": "1"}
        async with self._peers.session.get(f"{url}/v1/live", params=params, timeout=timeout) as response:
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            yield "open", {}
            event = ""
            async for raw in response.content:
                line = raw.rstrip(b"\r\n")
                if line.startswith(b"event:"):
                    event = line[6:].strip().decode()
                elif line.startswith(b"data:"):
                    yield event, orjson.loads(line[5:])

    # -- telling

    def _offer(self, item: Json, *, relayed: bool) -> None:
        for reader in self._readers:
            if not (relayed and reader.local):
                reader.offer(item)

    def _tell(
        self, *, coverage: Json | None = None, stale: bool = False, dropped: int = 0, local: bool = False
    ) -> None:
        for reader in self._readers:
            if local or not reader.local:
                reader.tell(coverage=coverage, stale=stale, dropped=dropped)

    def _mark(self, url: str, *, connected: bool) -> None:
        self._tried.add(url)
        if connected:
            self._connected.add(url)
        else:
            self._connected.discard(url)
        self._moved.set()
        self._tell(coverage=self._coverage())

    def _coverage(self) -> Json:
        """Which workers' changes do not come through now."""
        missing = sorted(self._peers.urls() - self._connected)
        return {"complete": not missing, "missing_workers": missing}


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
