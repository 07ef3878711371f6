"""`GET /v1/totals`: running and closed totals of all partitions, a page at a time.

Order: by subject, then by window id, which is meter, size and start (schemas/windows.py). A page is stable: its cursor is
the last item's place in that order, so windows that change, open or close in between neither double nor hide others.
`next` alone says whether there is more; a page may be shorter than `limit`.

What a gap means. A total that is lower than the truth because a worker was not asked is worse on a bill than no answer:
while a partials partition has nobody to answer for it, this is a 503 that names it. `partial=true` takes what there is,
with `complete: false` and who is missing. With `subject`, sealed windows come from Cosmos; they are history, so where
Cosmos is down the running totals still come, with `complete: false` and `stored` saying why. A sealed window whose last
revision is not everywhere yet comes from the worker that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, islice

from aiohttp import web

from schemas.errors import SinkError
from web.answers import Problem, answer
from web.feed import age
from web.gather import Gathered
from web.parameters import Cursor, Parameters, bad, decode_cursor, encode_cursor
from web.site import Site, site_of
from web.view import Json, View

STATES = ("open", "closed", "sealed")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for; None: all. after: only what lies behind it. limit: windows at most."""

    subject: str | None
    meter: str | None
    window_size: str | None
    state: str | None
    after: Cursor | None
    limit: int

    def params(self) -> dict[str, str]:
        """As query parameters, for a peer."""
        given = {"subject": self.subject, "meter": self.meter, "window_size": self.window_size, "state": self.state}
        params = {name: value for name, value in given.items() if value is not None}
        if self.after is not None:
            params["cursor"] = encode_cursor(self.after)
        return {**params, "limit": str(self.limit)}


@dataclass(frozen=True, slots=True)
class Page:
    """Windows in order, where the next page begins, and what is missing.

    complete: every partials partition was answered for. stored: why Cosmos gave nothing, or None.
    """

    items: list[Json]
    next: Cursor | None
    missing_partitions: list[int]
    missing_workers: list[Json]
    known: bool
    stored: str | None

    @property
    def complete(self) -> bool:
        """True if nothing is missing."""
        return self.known and not self.missing_partitions and self.stored is None


async def totals(request: web.Request) -> web.Response:
    """`{"items": [...], "next": cursor or null, "complete": bool, …}`; see the module for 503."""
    site = site_of(request)
    names = ("subject", "meter", "window_size", "state", "limit", "cursor", "partial")
    parameters = Parameters.of(request, names)
    # A peer is asked for one more than the page has, to know whether there is more.
    most = site.limits.page_max + parameters.local
    query = Query(
        parameters.subject(),
        parameters.text("meter"),
        parameters.window_size(),
        parameters.one_of("state", STATES),
        decode_cursor(parameters.text("cursor", 4096)),
        parameters.whole("limit", min(site.limits.page_default, most), 1, most),
    )
    partial = parameters.flag("partial")
    if parameters.local:
        return answer(local_answer(site.view, query))
    if query.state == "sealed" and query.subject is None:
        raise bad("state", "sealed windows are no longer in memory", "give a subject, too: they are read from Cosmos")
    page = await gather_page(site, query, stored=query.subject is not None and query.state in (None, "sealed"))
    if not partial and (page.missing_partitions or not page.known):
        raise _incomplete(page)
    body: Json = {
        "items": page.items,
        "next": None if page.next is None else encode_cursor(page.next),
        "complete": page.complete,
    }
    if not page.complete:
        body["missing_partitions"] = page.missing_partitions
        body["missing_workers"] = page.missing_workers
    if page.stored is not None:
        body["stored"] = page.stored
    return answer(body)


def place(item: Json) -> Cursor:
    """An item's place in the order."""
    return str(item["subject"]), str(item["id"])


def local_answer(view: View, query: Query) -> Json:
    """This worker's share: its first `limit` items behind `after`, and which partitions it answers for."""
    return {
        "items": local_items(view, query),
        "partitions": answering(view),
        "of": view.partials_partitions,
    }


def answering(view: View) -> list[int]:
    """The partials partitions whose windows are all in this worker's memory: owned and running."""
    return sorted(int(p) for p, task in view.status().get("closing", {}).items() if task.get("state") == "running")


def local_items(view: View, query: Query) -> list[Json]:
    """The first `limit` windows in memory; holds no more than that of them at a time."""
    found = view.totals(query.subject, query.meter, query.window_size, state=query.state, after=query.after)
    return list(islice(found, query.limit))


async def gather_page(site: Site, query: Query, *, stored: bool) -> Page:
    """One page over all workers and, if `stored`, Cosmos; of a window that both have, `merge` says which is shown.

    Nothing between the first and the last item is missing: each source gives its own first `limit` + 1, so whatever it
    holds back lies behind them.
    """
    # A window may be closed in memory and look sealed in Cosmos: memory has to be asked for every state to tell. Few of
    # those are then shown, so more are looked through for one page.
    sealed = query.state == "sealed"
    scanned = site.limits.page_max if sealed else query.limit
    asked = replace(query, limit=scanned + 1, state=None if sealed else query.state)
    own = local_answer(site.view, asked)
    gathered = await site.peers.ask("/v1/totals", asked.params(), own)
    documents: list[Json] = []
    failure = None
    if stored:
        assert query.subject is not None
        after = query.after[1] if query.after is not None and query.after[0] == query.subject else None
        try:
            documents = await site.view.stored_totals(
                query.subject, query.meter, query.window_size, after=after, limit=asked.limit
            )
        except SinkError as error:
            failure = error.what
    merged = merge((body["items"] for body in gathered.answers.values()), documents, query.after)
    looked_at = merged[:scanned]
    fitting = [item for item in looked_at if query.state is None or item["state"] == query.state]
    items = fitting[: query.limit]
    missing, known = uncovered(site.view, gathered)
    return Page(
        items=items,
        next=place(items[-1]) if len(fitting) > len(items) else place(looked_at[-1]) if len(merged) > scanned else None,
        missing_partitions=missing,
        missing_workers=gathered.missing_workers,
        known=known,
        stored=failure,
    )


def merge(held: Iterable[Iterable[Json]], stored: Iterable[Json], after: Cursor | None = None) -> list[Json]:
    """All items in order, each window once. held: what each worker has; stored: what Cosmos has."""
    best: dict[Cursor, Json] = {}
    for item in chain.from_iterable(held):
        best[place(item)] = newest(item, best.get(place(item)))
    for item in stored:
        if outdated(best.get(place(item)), item):
            best[place(item)] = item
    return [best[where] for where in sorted(best) if after is None or where > after]


def newest(item: Json, other: Json | None) -> Json:
    """Of what two workers have of one window, both of which may hold its partition while that moves, the newest."""
    return item if other is None or _rank(item) > _rank(other) else other


def outdated(held: Json | None, stored: Json) -> bool:
    """Whether Cosmos' document is shown, and not what a worker has of the window.

    What is open or closed in memory is never outdated. Of a sealed window a worker has what did not get everywhere yet:
    mostly newer than Cosmos' document; older where one sink refused a revision for good and took the next.
    """
    return held is None or (held["state"] == "sealed" and int(stored["revision"]) > int(held["revision"]))


def uncovered(view: View, gathered: Gathered) -> tuple[list[int], bool]:
    """(partials partitions nobody answered for, whether their number is known at all)."""
    count = max([view.partials_partitions, *(int(body.get("of", 0)) for body in gathered.answers.values())])
    covered = {partition for body in gathered.answers.values() for partition in body.get("partitions", ())}
    return sorted(set(range(count)) - covered), count > 0


def _rank(item: Json) -> tuple[tuple[int, int], bool]:
    return age(item), item["state"] == "sealed"


def _incomplete(page: Page) -> Problem:
    partitions = ", ".join(map(str, page.missing_partitions)) or "all"
    return Problem(
        503,
        "incomplete",
        "Not every partition can answer now",
        f"no running worker answers for partition {partitions} of the partials topic",
        hint="ask again: a moving or restoring partition is back soon, /v1/status shows it; or accept a part with partial=true",
        retry_after_s=2,
        more={"missing_partitions": page.missing_partitions, "missing_workers": page.missing_workers},
    )
