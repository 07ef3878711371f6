"""What the handlers share, in one typed place of the aiohttp application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from settings import Settings
from web.feed import Feed
from web.gather import Peers
from web.limits import Limits
from web.view import View

Publish = Callable[[bytes | None, bytes], Awaitable[tuple[int, int]]]
"""Produces (key, value) to the usage topic; returns (partition, offset) once acknowledged, else raises MeterlineError."""


@dataclass(frozen=True, slots=True)
class Site:
    """One worker's web rooms."""

    view: View
    settings: Settings
    limits: Limits
    peers: Peers
    feed: Feed
    publish: Publish | None
    now_ms: Callable[[], int]
    """Wall clock, ms UTC: for the age of watermarks only; nothing is decided by it (design §2.1)."""


SITE: web.AppKey[Site] = web.AppKey("meterline_site", Site)


def site_of(request: web.Request) -> Site:
    """The site that answers this request."""
    return request.app[SITE]


def wall_clock_ms() -> int:
    """Now, ms UTC."""
    return time.time_ns() // 1_000_000
