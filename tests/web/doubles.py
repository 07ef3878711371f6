"""A hand-written view for the tests of web, and workers that serve it in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.errors import SinkError
from schemas.times import parse_rfc3339
from schemas.windows import WindowKey, window_id
from settings import Settings
from web.limits import Limits
from web.routes import install
from web.site import Publish, Site

Json = dict[str, Any]

NOW_MS = parse_rfc3339("2026-01-31T12:10:00Z")
QUICK = Limits(
    gather_timeout_s=2.0,
    heartbeat_s=0.05,
    live_interval_ms=0,
    peers_every_s=0.01,
    reconnect_s=0.01,
    reconnect_max_s=0.05,
)


def a_window(
    subject: str = "acme",
    meter: str = "api_tokens",
    size: str = "PT1M",
    start: str = "2026-01-31T12:00:00Z",
    **fields: Any,
) -> Json:
    """One open window; `fields` replace its own."""
    group = fields.get("group", {})
    key = WindowKey(subject, meter, tuple(sorted(group.items())), parse_rfc3339(start), size)
    name = window_id(key)
    return {
        "id": name,
        "window_id": name,
        "meter": meter,
        "meter_version": 1,
        "aggregation": "sum",
        "subject": subject,
        "group": {},
        "window_start": start,
        "window_end": "2026-01-31T12:01:00Z",
        "window_size": size,
        "revision": 0,
        "value": "42",
        "delta": "42",
        "events": 7,
        "reason": "open",
        "receipt": {"watermark": "2026-01-31T12:00:30Z"},
        "state": "open",
        **fields,
    }


def a_ledger(counted: int = 0, **counts: int) -> dict[str, int]:
    """A partition's ledger that balances."""
    names = ("duplicate", "unmatched", "dead_lettered", "late", "ticks", "ticks_refused", "keyless")
    ledger = {"counted": counted, **dict.fromkeys(names, 0), **counts}
    ledger.setdefault("read", sum(ledger[n] for n in ("counted", "duplicate", "unmatched", "dead_lettered")))
    return ledger


def a_task(**fields: Any) -> Json:
    """A running task, nothing behind."""
    return {
        "state": "running",
        "restored": 1.0,
        "reason": None,
        "hint": None,
        "position": 10,
        "end": 10,
        "lag": 0,
        "committed": 10,
        "watermark": "2026-01-31T12:09:30Z",
        **fields,
    }


def a_closing_task(**fields: Any) -> Json:
    """A running CLOSING task with an empty outbox."""
    return a_task(
        **{
            "windows_open": 0,
            "windows_closed": 0,
            "revisions": 0,
            "outbox": {"servicebus": 0, "cosmos": 0},
            "delivered": {"servicebus": 0, "cosmos": 0},
            "parked": [],
            **fields,
        }
    )


class MemoryView:
    """A worker that owns what it is told. Everything is a plain attribute that tests change."""

    def __init__(self, usage: Iterable[int] = (), partials: Iterable[int] = (), n: int = 2, m: int = 2) -> None:
        self.worker_url = "http://worker.invalid"
        self.urls: dict[str, dict[str, list[int]]] | None = None
        self.usage_partitions = n
        self.partials_partitions = m
        self.windows: dict[str, Json] = {}
        self.stored: dict[str, Json] = {}
        self.stored_down: str | None = None
        self.stored_calls: list[Json] = []
        self.ledgers = {str(p): a_ledger() for p in usage}
        self.metering = {str(p): a_task(ids=0, partials=0) for p in usage}
        self.closing = {str(p): a_closing_task() for p in partials}
        self.sinks: dict[str, Json] = {}
        self.throttled: Json = {"delayed": {}, "delayed_s": {}, "refused": 0, "refused_s": 0.0, "waiting": 0}
        self.alarm_list: list[Json] = []
        self.letters: list[Json] = []
        self.revisions: list[Json] = []
        self.listeners: list[asyncio.Queue[Json | Exception]] = []

    def put(self, *windows: Json) -> None:
        """Into memory, without telling the live feed."""
        self.windows |= {w["id"]: w for w in windows}

    def change(self, window: Json) -> None:
        """Into memory and to whoever listens."""
        self.put(window)
        for queue in self.listeners:
            queue.put_nowait({**window, "provisional": window["state"] == "open"})

    def peers(self) -> Mapping[str, Mapping[str, list[int]]]:
        own = {self.worker_url: {"usage": [int(p) for p in self.metering], "partials": [int(p) for p in self.closing]}}
        return own if self.urls is None else self.urls

    def totals(
        self,
        subject: str | None,
        meter: str | None,
        window_size: str | None,
        *,
        state: str | None = None,
        after: tuple[str, str] | None = None,
    ) -> Iterable[Json]:
        for w in sorted(self.windows.values(), key=lambda w: (w["subject"], w["id"])):
            wanted = (
                (subject, w["subject"]),
                (meter, w["meter"]),
                (window_size, w["window_size"]),
                (state, w["state"]),
            )
            if all(asked is None or asked == is_ for asked, is_ in wanted) and (
                after is None or (w["subject"], w["id"]) > after
            ):
                yield w

    def window(self, window_id: str) -> Json | None:
        return self.windows.get(window_id)

    async def stored_window(self, window_id: str, subject: str | None) -> Json | None:
        self.stored_calls.append({"window_id": window_id, "subject": subject})
        if self.stored_down:
            raise SinkError(self.stored_down, hint="wait")
        return self.stored.get(window_id)

    async def stored_totals(
        self, subject: str, meter: str | None, window_size: str | None, *, after: str | None = None, limit: int = 1000
    ) -> list[Json]:
        self.stored_calls.append({"subject": subject, "after": after, "limit": limit})
        if self.stored_down:
            raise SinkError(self.stored_down, hint="wait")
        found = [
            {**w, "state": "sealed"}
            for _, w in sorted(self.stored.items())
            if w["subject"] == subject and meter in (None, w["meter"]) and window_size in (None, w["window_size"])
        ]
        return [w for w in found if after is None or w["id"] > after][:limit]

    def audit(self) -> dict[str, dict[str, int]]:
        return self.ledgers

    def alarms(self) -> list[Json]:
        return self.alarm_list

    def status(self) -> Json:
        return {
            "worker": self.worker_url,
            "version": "0.1.0",
            "metering": self.metering,
            "closing": self.closing,
            "sinks": self.sinks,
            "throttled": self.throttled,
        }

    def dead_letters(self) -> list[Json]:
        return self.letters

    def recent_revisions(self) -> list[Json]:
        return self.revisions

    async def live(self) -> AsyncIterator[Json]:
        queue: asyncio.Queue[Json | Exception] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.listeners.remove(queue)


class Worker:
    """One worker's HTTP, on a port of its own, with a client that speaks to it."""

    def __init__(self, view: MemoryView, server: TestServer, site: Site, app: web.Application) -> None:
        self.view = view
        self.site = site
        self._server = server
        self.app = app
        self.url = str(server.make_url("")).rstrip("/")
        self.http = aiohttp.ClientSession(base_url=self.url)

    async def get(self, path: str, status: int = 200, **headers: str) -> Json:
        """The JSON at `path`, whose status must be `status`."""
        async with self.http.get(path, headers=headers) as response:
            body = await response.read()
            assert response.status == status, body
            found = orjson.loads(body)
            assert isinstance(found, dict)
            return found

    async def stop(self) -> None:
        """As a worker that ends; idempotent."""
        await self.http.close()
        await self._server.close()


@contextlib.asynccontextmanager
async def workers(
    *views: MemoryView, limits: Limits = QUICK, publish: Publish | None = None
) -> AsyncIterator[list[Worker]]:
    """Workers that know each other, one per view."""
    started = []
    for view in views:
        app = web.Application()
        site = install(app, view, Settings(), publish=publish, limits=limits, now_ms=lambda: NOW_MS)
        server = TestServer(app)
        await server.start_server()
        worker = Worker(view, server, site, app)
        view.worker_url = worker.url
        started.append(worker)
    urls = {
        w.url: {"usage": [int(p) for p in w.view.metering], "partials": [int(p) for p in w.view.closing]}
        for w in started
    }
    for view in views:
        view.urls = dict(urls)
    try:
        yield started
    finally:
        for worker in started:
            await worker.stop()
