"""`GET /v1/status`: everything that the dashboard shows, of all workers, in one answer.

Always 200: a status page has to come up when things are broken. What could not be asked is in `missing_workers`, makes
`complete` false and is an alarm, so that a gap never looks like quiet.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from web import ledger
from web.answers import answer
from web.gather import Gathered
from web.parameters import Parameters
from web.site import Site, site_of
from web.view import Json, View

DEAD_LETTERS_MAX = 50
REVISIONS_MAX = 100

_SINK_ORDER = ("unconfigured", "up", "retrying")
"""From calm to worrying: the deployment's state of a sink is the most worrying one of its workers."""


async def status(request: web.Request) -> web.Response:
    """See `combine` for the shape."""
    site = site_of(request)
    if Parameters.of(request, ()).local:
        return answer(local_status(site.view))
    return answer(await gather_status(site))


def local_status(view: View) -> Json:
    """This worker's share."""
    return {
        "status": view.status(),
        "audit": ledger.local_audit(view),
        "alarms": view.alarms(),
        "dead_letters": view.dead_letters()[:DEAD_LETTERS_MAX],
        "recent_revisions": view.recent_revisions()[:REVISIONS_MAX],
        "partials_partitions": view.partials_partitions,
        "owned": dict(view.peers().get(view.worker_url, {})),
    }


async def gather_status(site: Site) -> Json:
    """The status over all workers; raises nothing for what peers do."""
    gathered = await site.peers.ask("/v1/status", {}, local_status(site.view))
    return combine(gathered, site.view.worker_url, site.now_ms())


def combine(gathered: Gathered, asked: str, now_ms: int) -> Json:
    """One status from the workers' answers.

    `{"now_ms", "asked": url, "workers": [{"worker", "version", "answered", "reason", "owned"}], "metering": {p: task},
    "closing": {p: task}, "sinks": {name: sink}, "audit": as /v1/audit, "alarms": [...], "dead_letters": [...],
    "recent_revisions": [...], "missing": {"metering": [p], "closing": [p]}, "complete", "missing_workers"}`; a task or a
    sink is as in `View.status`, and a task has `worker`.
    """
    answers = gathered.answers
    shares = {url: body["status"] for url, body in answers.items()}
    audits = Gathered({url: body["audit"] for url, body in answers.items()}, (), gathered.missing)
    audit = ledger.combine(audits)
    metering, closing = _tasks(shares, "metering"), _tasks(shares, "closing")
    sources = max((int(body["audit"]["of"]) for body in answers.values()), default=0)
    targets = max((int(body["partials_partitions"]) for body in answers.values()), default=0)
    missing = {"metering": _missing(metering, sources), "closing": _missing(closing, targets)}
    alarms = _gap_alarms(gathered, missing) + _imbalances(audit)
    known = {(alarm["kind"], alarm["where"]) for alarm in alarms}
    for body in answers.values():
        alarms += [alarm for alarm in body["alarms"] if (alarm.get("kind"), alarm.get("where")) not in known]
    return {
        "now_ms": now_ms,
        "asked": asked,
        "workers": _workers(gathered),
        "metering": metering,
        "closing": closing,
        "sinks": _sinks(shares),
        "audit": audit,
        "alarms": alarms,
        "dead_letters": _newest(
            (body["dead_letters"] for body in answers.values()), _dead_letter_time, DEAD_LETTERS_MAX
        ),
        "recent_revisions": _newest(
            (body["recent_revisions"] for body in answers.values()), _revision_time, REVISIONS_MAX
        ),
        "missing": missing,
        "complete": not gathered.missing and sources > 0 and not missing["metering"] and not missing["closing"],
        "missing_workers": gathered.missing_workers,
    }


def _tasks(shares: Mapping[str, Json], stage: str) -> dict[str, Json]:
    """Partition -> task, in order of the partitions. Of two owners while it moves: the one further along."""
    found: dict[str, Json] = {}
    for url, share in shares.items():
        for partition, task in share.get(stage, {}).items():
            held = found.get(str(partition))
            if held is None or _progress(task) > _progress(held):
                found[str(partition)] = {**task, "worker": url}
    return dict(sorted(found.items(), key=lambda entry: int(entry[0])))


def _progress(task: Json) -> tuple[bool, int]:
    return task.get("state") == "running", int(task.get("position") or 0)


def _missing(tasks: Mapping[str, Any], count: int) -> list[int]:
    return sorted(set(range(count)) - {int(partition) for partition in tasks})


def _workers(gathered: Gathered) -> list[Json]:
    answered: list[Json] = [
        {
            "worker": url,
            "version": body["status"].get("version"),
            "answered": True,
            "reason": None,
            "owned": body.get("owned", {}),
        }
        for url, body in gathered.answers.items()
    ]
    silent: list[Json] = [
        {"worker": url, "version": None, "answered": False, "reason": reason, "owned": {}}
        for url, reason in gathered.missing.items()
    ]
    return sorted([*answered, *silent], key=lambda worker: str(worker["worker"]))


def _sinks(shares: Mapping[str, Json]) -> dict[str, Json]:
    """Each sink over all workers: the most worrying state with its error, the sums, the soonest retry."""
    merged: dict[str, Json] = {}
    for share in shares.values():
        for name, sink in share.get("sinks", {}).items():
            held = merged.get(name)
            wait_s = sink.get("retry_in_s") if sink.get("state") == "retrying" else None
            if held is None:
                merged[name] = {"error": None, "waiting": 0, "delivered": 0, "parked": 0, **sink, "retry_in_s": wait_s}
                continue
            held["retry_in_s"] = min((s for s in (held["retry_in_s"], wait_s) if s is not None), default=None)
            if _worry(sink) > _worry(held):
                held["state"], held["error"] = sink.get("state"), sink.get("error")
            for count in ("waiting", "delivered", "parked"):
                held[count] += int(sink.get(count) or 0)
    return dict(sorted(merged.items()))


def _worry(sink: Json) -> int:
    state = sink.get("state")
    return _SINK_ORDER.index(state) if state in _SINK_ORDER else len(_SINK_ORDER)


def _gap_alarms(gathered: Gathered, missing: Mapping[str, list[int]]) -> list[Json]:
    alarms: list[Json] = [
        {
            "kind": "worker_silent",
            "where": url,
            "what": f"worker {url} does not answer: {reason}",
            "hint": "if it has ended, its partitions move within the session timeout; else look at its log and at "
            "METERLINE_WEB_ADVERTISED_URL",
        }
        for url, reason in sorted(gathered.missing.items())
    ]
    for stage, partitions in missing.items():
        if partitions:
            alarms.append(
                {
                    "kind": "partition_unowned",
                    "where": f"{stage} {', '.join(map(str, partitions))}",
                    "what": f"nobody answers for {stage} partition {', '.join(map(str, partitions))}",
                    "hint": "it is moving, or no worker is left: usage waits safely in its log until one has it",
                }
            )
    return alarms


def _imbalances(audit: Json) -> list[Json]:
    return [
        {
            "kind": "imbalance",
            "where": f"usage[{partition}]",
            "what": f"read {counts['read']} is not the sum of its fates, {sum(counts[fate] for fate in ledger.FATES)}",
            "hint": "stop billing from this partition and replay it; this must never happen, please report it",
        }
        for partition, counts in audit["partitions"].items()
        if not counts["balanced"]
    ]


def _newest(lists: Iterable[list[Json]], key: Any, most: int) -> list[Json]:
    """The first `most` of the workers' newest-first lists, interleaved by time."""
    merged = heapq.merge(*lists, key=key, reverse=True)
    return [item for item, _ in zip(merged, range(most), strict=False)]


def _dead_letter_time(item: Json) -> str:
    return str(item.get("time") or "")


def _revision_time(item: Json) -> str:
    """The watermark at which it was taken, from its receipt; else the window's end."""
    receipt = item.get("receipt")
    watermark = receipt.get("watermark") if isinstance(receipt, dict) else None
    return str(watermark or item.get("window_end") or "")
