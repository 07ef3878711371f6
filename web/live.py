"""`GET /v1/live`: running totals as server-sent events.

Events (WHATWG HTML, "Server-sent events"; `data` is one JSON object each):

- `total`: a window as in `/v1/totals`, and `provisional`: true while its value may still change without a revision
  (it is open, or holds changes that have not left yet), false where it stands as of `revision`.
- `snapshot`: the current totals have been sent; `{"windows", "complete", "truncated", "missing_workers"}`.
- `workers`: whose changes come through: `{"complete", "missing_workers": [url]}`.
- `gap`: `{"dropped"}` changes were not sent because the reader is too slow; ask `/v1/totals` where that matters.

Every feed begins with a snapshot, then changes. That is also how `Last-Event-ID` resumes: the totals are cumulative, so
the current state of each window says everything that a replay of missed changes would. Changes are coalesced per window
and per `interval_ms`; a comment every 15 s keeps an idle feed open.
"""

from __future__ import annotations

import asyncio
import itertools

import orjson
from aiohttp import web

from web.answers import Problem
from web.feed import Reader
from web.parameters import Parameters
from web.site import Site, site_of
from web.totals import Query, gather_page
from web.view import Json

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold small events back
}


async def live(request: web.Request) -> web.StreamResponse:
    """The feed, until the reader goes or the worker ends. 503 where too many read already."""
    site = site_of(request)
    parameters = Parameters.of(request, ("subject", "meter", "window_size", "interval_ms", "snapshot"))
    filters = Query(parameters.subject(), parameters.text("meter"), parameters.window_size(), None, None, 0)
    interval_s = parameters.whole("interval_ms", site.limits.live_interval_ms, 0, 60_000) / 1000
    local, snapshot = parameters.local, parameters.flag("snapshot", default=True)
    if site.feed.readers >= site.limits.live_readers:
        raise Problem(
            503,
            "too-many-readers",
            "Too many live feeds",
            f"{site.limits.live_readers} live feeds are open on this worker",
            hint="close one, ask another worker, or poll /v1/totals",
            retry_after_s=10,
        )
    reader = site.feed.join(lambda item: matches(item, filters), local)
    try:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        stream = _Stream(response, reader, site.limits.stall_s)
        await stream.write(b"retry: 2000\n\n")
        if not local:
            await site.feed.settled()
            reader.stale = snapshot
        while not reader.ended.is_set():
            if reader.stale and snapshot:
                reader.stale = False
                await _send_snapshot(site, filters, reader, stream)
            if not await reader.news(site.limits.heartbeat_s):
                await stream.write(b": heartbeat\n\n")
                continue
            items, dropped, coverage = reader.take()
            chunk = bytearray()
            if coverage is not None:
                chunk += stream.event("workers", coverage)
            if dropped:
                chunk += stream.event("gap", {"dropped": dropped})
            for item in items:
                chunk += stream.event("total", item)
            if chunk:
                await stream.write(bytes(chunk))
            if items:
                await reader.rest(interval_s)
    except ConnectionError:
        pass  # the reader went away: the usual end of a feed
    finally:
        await site.feed.leave(reader)
    return response


def matches(item: Json, filters: Query) -> bool:
    """True where every given filter equals the item's field."""
    return (
        (filters.subject is None or item.get("subject") == filters.subject)
        and (filters.meter is None or item.get("meter") == filters.meter)
        and (filters.window_size is None or item.get("window_size") == filters.window_size)
    )


def provisional(item: Json) -> bool:
    """True while the value may still change without a revision."""
    return item.get("state") == "open" or bool(item.get("pending"))


async def _send_snapshot(site: Site, filters: Query, reader: Reader, stream: _Stream) -> None:
    """The current totals of all workers that answer, page by page, at most `snapshot_windows`."""
    sent, after, complete, missing = 0, None, True, []
    while sent < site.limits.snapshot_windows:
        room = min(site.limits.page_max, site.limits.snapshot_windows - sent)
        query = Query(filters.subject, filters.meter, filters.window_size, None, after, room)
        page = await gather_page(site, query, stored=False)
        chunk = bytearray()
        for item in page.items:
            if reader.settle(item):
                chunk += stream.event("total", {**item, "provisional": provisional(item)})
        sent += len(page.items)
        complete, missing, after = complete and page.complete, page.missing_workers, page.next
        if chunk:
            await stream.write(bytes(chunk))
        if after is None:
            break
    end = {"windows": sent, "complete": complete, "truncated": after is not None, "missing_workers": missing}
    await stream.write(stream.event("snapshot", end))


class _Stream:
    """Writes events, each with an id; a write that nobody takes for `stall_s` ends the feed (ConnectionError)."""

    def __init__(self, response: web.StreamResponse, reader: Reader, stall_s: float) -> None:
        self._response = response
        self._reader = reader
        self._stall_s = stall_s
        self._ids = itertools.count(1)

    def event(self, name: str, data: Json) -> bytes:
        """One event as bytes. JSON has no raw line breaks, so one `data` line holds it."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (next(self._ids), name.encode(), orjson.dumps(data))

    async def write(self, chunk: bytes) -> None:
        """Returns once the socket took it. Raises ConnectionError if the reader is gone, stalls, or the worker ends."""
        writing = asyncio.ensure_future(self._response.write(chunk))
        ending = asyncio.ensure_future(self._reader.ended.wait())
        try:
            await asyncio.wait({writing, ending}, timeout=self._stall_s, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                raise ConnectionResetError(f"the reader took nothing for {self._stall_s:g} s, or the worker ends")
            writing.result()
        finally:
            writing.cancel()
            ending.cancel()
