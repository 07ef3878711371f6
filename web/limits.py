"""The bounds of the web rooms, in one place (design §6: memory is bounded whatever the backlog)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Frozen; production runs with the defaults, tests shorten the waits."""

    gather_timeout_s: float = 3.0
    """A peer that has not answered by then is missing from the answer, which says so."""
    page_default: int = 100
    page_max: int = 1000
    """Windows on a page of /v1/totals."""
    heartbeat_s: float = 15.0
    """A comment on every idle live feed, so that proxies keep it and a gone reader is noticed."""
    stall_s: float = 30.0
    """A reader that takes nothing for so long is let go; it resumes with a snapshot when it comes back."""
    live_readers: int = 200
    """Open live feeds per worker; the next one is told 503."""
    live_pending: int = 2000
    """Changed windows that wait for one slow reader; beyond that the oldest is dropped and a `gap` event says so."""
    live_interval_ms: int = 250
    """Least time between two bursts of one feed: changes in between are coalesced per window."""
    live_burst: int = 500
    """Own changes taken from the view before a rest of `live_interval_ms`: describing a window costs metering time."""
    snapshot_windows: int = 5000
    """Windows in the snapshot that a live feed begins with."""
    peers_every_s: float = 1.0
    """How often the live feed looks who its peers are."""
    reconnect_s: float = 0.5
    """First wait before a broken feed of a peer is opened again; doubles up to `reconnect_max_s`."""
    reconnect_max_s: float = 10.0
    body_max_bytes: int = 1_000_000
    """Body of POST /v1/events: Event Hubs takes 1 MB per record, and an event must fit in one."""
