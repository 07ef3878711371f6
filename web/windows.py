"""`GET /v1/windows/{id}`: one window with its receipt, wherever it is: in some worker's memory, else in Cosmos.

Of a sealed window a worker has the last revision until every sink has it; the newest of that and Cosmos' document is shown.

Caching (RFC 9111). An open window is never stored. A closed one has an ETag of its revision and is revalidated; while it
holds changes that have not left as a revision it has none, because its value moves. A sealed one cannot change any more.
"""

from __future__ import annotations

from aiohttp import web

from schemas.errors import SinkError
from web.answers import Problem, answer
from web.parameters import Parameters, checked_window_id
from web.site import Site, site_of
from web.totals import answering, newest, outdated, uncovered
from web.view import Json

_SEALED_MAX_AGE_S = 300
"""Short: a region of Cosmos that lags may still hold the revision before the last one."""


async def window(request: web.Request) -> web.StreamResponse:
    """The document and `state`. 404 where no worker and no store knows the id, 503 where one that might know is away.

    `subject` spares Cosmos a query over all its partitions.
    """
    site = site_of(request)
    parameters = Parameters.of(request, ("subject",))
    window_id = checked_window_id(request.match_info["id"])
    own = site.view.window(window_id)
    if parameters.local:
        body: Json = {"window": own, "partitions": answering(site.view), "of": site.view.partials_partitions}
        return answer(body)
    found, complete = (own, True) if _unsealed(own) else await _elsewhere(site, window_id, parameters.subject(), own)
    if found is None:
        raise _not_found(window_id) if complete else _unknown(window_id)
    if not complete:
        found = {**found, "complete": False}
    headers = _caching(found, complete)
    if headers.get("ETag") is not None and _matches(request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return answer(found, headers=headers)


async def _elsewhere(site: Site, window_id: str, subject: str | None, own: Json | None) -> tuple[Json | None, bool]:
    """(the window in a peer's memory, else its last revision, here, at a peer or in Cosmos; whether everybody who might
    have a newer one was heard). own: what this worker has."""
    body: Json = {"window": own, "partitions": answering(site.view), "of": site.view.partials_partitions}
    gathered = await site.peers.ask(f"/v1/windows/{window_id}", {}, body)
    missing, known = uncovered(site.view, gathered)
    held: Json | None = None
    for answered in gathered.answers.values():
        if answered.get("window") is not None:
            held = newest(answered["window"], held)
    if _unsealed(held):
        return held, True
    found, heard = await _stored(site, window_id, subject, held)
    if found is None:
        return None, known and not missing
    complete = heard and known and not missing
    # Not in any memory means sealed, but only if every memory was asked.
    return {**found, "state": "sealed" if complete else "closed"}, complete


async def _stored(site: Site, window_id: str, subject: str | None, held: Json | None) -> tuple[Json | None, bool]:
    """(Cosmos' document, or that of a sealed window that a worker has where it is no older; whether Cosmos was heard)."""
    try:
        stored = await site.view.stored_window(window_id, subject if held is None else str(held["subject"]))
    except SinkError:
        if held is None:
            raise
        stored, heard = None, False
    else:
        heard = True
    if held is None or (stored is not None and outdated(held, stored)):
        return stored, heard
    # One body under one ETag, before and after the revision has reached Cosmos.
    return {name: value for name, value in held.items() if name != "pending"}, heard


def _unsealed(found: Json | None) -> bool:
    return found is not None and found["state"] != "sealed"


def _caching(found: Json, complete: bool) -> dict[str, str]:
    if found["state"] == "open" or found.get("pending") or not complete:
        return {}
    tag = f'"{found["state"]}-{int(found["revision"])}"'
    fresh = f"private, max-age={_SEALED_MAX_AGE_S}" if found["state"] == "sealed" else "private, no-cache"
    return {"ETag": tag, "Cache-Control": fresh}


def _matches(request: web.Request, tag: str) -> bool:
    """If-None-Match, weakly compared (RFC 9110 §13.1.2)."""
    given = request.headers.get("If-None-Match", "")
    return given.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in given.split(",")]


def _not_found(window_id: str) -> Problem:
    return Problem(
        404,
        "no-such-window",
        "No such window",
        f"no worker and no stored document has the window {window_id!r}",
        hint="take `id` from /v1/totals or from an invoice message; a window exists from its first event on",
    )


def _unknown(window_id: str) -> Problem:
    return Problem(
        503,
        "incomplete",
        "Not every partition can answer now",
        f"the window {window_id!r} is not stored, and a worker that may hold it does not answer",
        hint="ask again in a few seconds; /v1/status shows which partition is away",
        retry_after_s=2,
    )
