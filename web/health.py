"""`/healthz` and `/readyz`: what an orchestrator asks. Both are about this worker alone, and never ask a peer.

Alive means that the process serves HTTP; restart it otherwise. Ready means that every partition it owns is restored and
running, so that its answers are whole; a worker that is not ready must not be restarted for it, restoring would begin anew.
"""

from __future__ import annotations

from aiohttp import web

from web.answers import answer
from web.parameters import Parameters
from web.site import site_of
from web.view import Json, View


async def healthz(request: web.Request) -> web.Response:
    """200, always, while this process can answer at all."""
    site = site_of(request)
    Parameters.of(request, ())
    return answer({"alive": True, "worker": site.view.worker_url})


async def readyz(request: web.Request) -> web.Response:
    """200 `{"ready": true, "reasons": []}`, or 503 with the reasons."""
    site = site_of(request)
    Parameters.of(request, ())
    reasons = why_not_ready(site.view, site.settings.usage_topic, site.settings.partials_topic)
    body: Json = {"ready": not reasons, "reasons": reasons}
    return answer(body, status=503 if reasons else 200, headers={"Retry-After": "2"} if reasons else None)


def why_not_ready(view: View, usage_topic: str, partials_topic: str) -> list[str]:
    """One line per reason; empty when ready. A worker without partitions is ready: there are more workers than work."""
    reasons = []
    if view.usage_partitions == 0 or view.partials_partitions == 0:
        reasons.append("the broker has not told how many partitions the topics have")
    if view.worker_url not in view.peers():
        reasons.append("the consumer group has not taken this worker in yet")
    status = view.status()
    for stage, topic in (("metering", usage_topic), ("closing", partials_topic)):
        for partition, task in sorted(status.get(stage, {}).items(), key=lambda entry: int(entry[0])):
            reason = _why(task)
            if reason is not None:
                reasons.append(f"{stage} of {topic}[{partition}] {reason}")
    return reasons


def _why(task: Json) -> str | None:
    if task.get("state") == "running":
        return None
    if task.get("state") == "restoring":
        return f"restoring {int(100 * float(task.get('restored') or 0))} %"
    why = f"{task.get('state')}: {task.get('reason') or 'no reason given'}"
    return f"{why} -> {task['hint']}" if task.get("hint") else why
