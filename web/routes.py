"""All routes of the web rooms, put on an aiohttp application before it starts."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from settings import Settings
from web.answers import problems
from web.feed import Feed
from web.gather import Peers
from web.health import healthz, readyz
from web.ingest import events
from web.ledger import audit
from web.limits import Limits
from web.live import live
from web.metrics import REGISTRY, metrics, registry_for
from web.openapi import openapi
from web.pages import add_security_headers, page_routes
from web.site import SITE, Publish, Site, wall_clock_ms
from web.status import status
from web.totals import totals
from web.view import View
from web.windows import window

_DEFAULTS = Limits()


def install(
    app: web.Application,
    view: View,
    settings: Settings,
    *,
    publish: Publish | None = None,
    limits: Limits = _DEFAULTS,
    now_ms: Callable[[], int] = wall_clock_ms,
) -> Site:
    """Puts every route, the error rendering and the security headers on `app`, which must not have started.

    publish: produces to the usage topic; without it there is no POST /v1/events. Feeds and connections end with the
    application: live feeds at shutdown (before aiohttp waits for open connections), the client session at cleanup.
    """
    peers = Peers(view, limits)
    feed = Feed(view, peers, limits)
    site = Site(view, settings, limits, peers, feed, publish, now_ms)
    app[SITE] = site
    app[REGISTRY] = registry_for(site)
    app.middlewares.append(problems)
    app.on_response_prepare.append(add_security_headers)
    app.add_routes(
        [
            web.get("/v1/totals", totals),
            web.get("/v1/windows/{id}", window),
            web.get("/v1/live", live, allow_head=False),  # it has no end
            web.get("/v1/audit", audit),
            web.get("/v1/status", status),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/openapi.json", openapi),
            *page_routes(),
        ]
    )
    if publish is not None:
        app.router.add_post("/v1/events", events)
    app.on_shutdown.append(_end_feeds)
    app.on_cleanup.append(_close_peers)
    return site


async def _end_feeds(app: web.Application) -> None:
    await app[SITE].feed.close()


async def _close_peers(app: web.Application) -> None:
    await app[SITE].peers.close()
