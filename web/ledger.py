"""`GET /v1/audit`: the conservation ledger of every usage partition, and whether it holds (design §4).

`balanced` says that the equation holds for every partition that is there; `complete`, that all are there. The answer is
200 either way, because an auditor wants to see what there is: a partition without an owner, or one still restoring, is
named in `missing`, and the totals are then those of the others. `gaps` are the offsets that no count contains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiohttp import web

from web.answers import answer
from web.gather import Gathered
from web.parameters import Parameters
from web.site import Site, site_of
from web.view import Json, View

FATES = ("counted", "duplicate", "unmatched", "dead_lettered")
"""The four fates of an event; their sum is `read`, always."""
COUNTS = ("read", *FATES, "late")
"""`late` events are among the counted."""


async def audit(request: web.Request) -> web.Response:
    """`{"partitions": {p: {...}}, "total": {...}, "balanced", "complete", "gaps", "missing", "missing_workers"}`."""
    site = site_of(request)
    if Parameters.of(request, ()).local:
        return answer(local_audit(site.view))
    return answer(await gather_audit(site))


def local_audit(view: View) -> Json:
    """This worker's partitions, and how many there are in all.

    A partition that stopped before it was restored is left out: its ledger is not empty, it is unknown.
    """
    tasks = view.status().get("metering", {})
    unknown = {str(p) for p, t in tasks.items() if t.get("state") != "running" and float(t.get("restored") or 0) < 1}
    return {
        "partitions": {p: c for p, c in view.audit().items() if p not in unknown},
        "of": view.usage_partitions,
        "gaps": gaps(view.status()),
    }


def gaps(status: Json) -> list[Json]:
    """What of a log was never counted, because somebody decided so (`mend accept-gap`), of this worker's partitions.

    `{"stage", "partition", "from", "to", "accepted_at", "reason"}`; `from` to `to` (exclusive) are offsets of the usage log
    (`metering`) or of the partials log (`closing`).
    """
    return [
        {"stage": stage, "partition": int(partition), **gap}
        for stage in ("metering", "closing")
        for partition, task in status.get(stage, {}).items()
        for gap in task.get("gaps", ())
    ]


async def gather_audit(site: Site) -> Json:
    """The audit over all workers; raises nothing for what peers do."""
    return combine(await site.peers.ask("/v1/audit", {}, local_audit(site.view)))


def combine(gathered: Gathered) -> Json:
    """One audit from the workers' answers. Of a partition that two hold while it moves, the one that read more counts."""
    partitions: dict[str, dict[str, int]] = {}
    count = 0
    accepted: dict[tuple[str, int, int], Json] = {}
    for body in gathered.answers.values():
        count = max(count, int(body.get("of", 0)))
        accepted |= {(gap["stage"], gap["partition"], gap["from"]): gap for gap in body.get("gaps", ())}
        for partition, ledger in body["partitions"].items():
            held = partitions.get(str(partition))
            if held is None or ledger["read"] > held["read"]:
                partitions[str(partition)] = ledger
    missing = sorted(set(range(count)) - {int(p) for p in partitions})
    ordered = sorted(partitions.items(), key=lambda entry: int(entry[0]))
    return {
        "partitions": {p: {**ledger, "balanced": balances(ledger)} for p, ledger in ordered},
        "total": total(partitions.values()),
        "balanced": all(balances(ledger) for ledger in partitions.values()),
        "complete": count > 0 and not missing,
        "gaps": [accepted[place] for place in sorted(accepted, key=lambda place: (place[0] != "metering", place))],
        "missing": missing,
        "missing_workers": gathered.missing_workers,
    }


def balances(ledger: Mapping[str, int]) -> bool:
    """read = counted + duplicate + unmatched + dead_lettered."""
    return ledger["read"] == sum(ledger[fate] for fate in FATES)


def total(ledgers: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The six counts, summed."""
    sums = dict.fromkeys(COUNTS, 0)
    for ledger in ledgers:
        for name in COUNTS:
            sums[name] += ledger[name]
    return sums
