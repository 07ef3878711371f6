"""`GET /metrics`: this worker's numbers for Prometheus, read at each scrape from what the tasks hold.

The counters are the ledger's, so they are part of the checkpointed state: they survive a restart, and move with the
partition to another worker. Sum over workers by partition, and use `max` where a partition just moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from schemas.times import parse_rfc3339
from web.ledger import balances
from web.site import Site
from web.view import Json, View

REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("meterline_metrics", CollectorRegistry)

_EVENTS = {
    "read": "Events read from the usage topic.",
    "counted": "Events counted, once however many meters they feed.",
    "duplicate": "Events whose (source, id) was counted already.",
    "unmatched": "Events of a type that no meter asks for.",
    "late": "Counted events whose window had closed already.",
    "keyless": "Events in records without a key: dedupe needs a key to be exact across partitions.",
    "ticks": "Clock records read.",
    "ticks_refused": "Clock records refused, too far in the future.",
}
_STATES = ("restoring", "running", "stopped")


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text or OpenMetrics, as the Accept header asks."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = encode(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def registry_for(site: Site) -> CollectorRegistry:
    """A registry of our own: nothing that a library registers globally gets in, and several workers fit in a process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ViewCollector(site.view, site.now_ms))
    ProcessCollector(registry=registry)
    return registry


class _ViewCollector(Collector):
    def __init__(self, view: View, now_ms: Callable[[], int]) -> None:
        self._view = view
        self._now_ms = now_ms

    def describe(self) -> Iterable[Metric]:
        return ()  # what there is depends on what is owned: nothing is collected at registration

    def collect(self) -> Iterator[Metric]:
        status = self._view.status()
        info = GaugeMetricFamily("meterline_worker_info", "1; the version is a label.", labels=["version"])
        info.add_metric([str(status.get("version") or "")], 1)
        yield info
        yield from _ledger_metrics(self._view.audit())
        yield from _task_metrics(status, self._now_ms())
        yield from _closing_metrics(status.get("closing", {}))
        yield from _sink_metrics(status.get("sinks", {}))
        yield from _throttling_metrics(status.get("throttled", {}))
        alarms = GaugeMetricFamily(
            "meterline_alarms", "What must be looked at, now; /v1/status says what.", labels=["kind"]
        )
        kinds = [str(alarm.get("kind")) for alarm in self._view.alarms()]
        for kind in sorted(set(kinds)):
            alarms.add_metric([kind], kinds.count(kind))
        yield alarms


def _ledger_metrics(audit: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    for name, text in _EVENTS.items():
        family = CounterMetricFamily(f"meterline_events_{name}", text, labels=["partition"])
        for partition, counts in audit.items():
            family.add_metric([partition], counts.get(name, 0))
        yield family
    dead = CounterMetricFamily(
        "meterline_events_dead_lettered", "Events refused, by reason.", labels=["partition", "reason"]
    )
    balanced = GaugeMetricFamily(
        "meterline_ledger_balanced", "1 where read is the sum of the fates.", labels=["partition"]
    )
    for partition, counts in audit.items():
        by_reason = {n.removeprefix("dead_lettered_"): c for n, c in counts.items() if n.startswith("dead_lettered_")}
        rest = counts["dead_lettered"] - sum(by_reason.values())
        if rest or not by_reason:
            by_reason["other"] = rest
        for reason, count in sorted(by_reason.items()):
            dead.add_metric([partition, reason], count)
        balanced.add_metric([partition], balances(counts))
    yield dead
    yield balanced


def _task_metrics(status: Json, now_ms: int) -> Iterator[Metric]:
    labels = ["stage", "partition"]
    lag = GaugeMetricFamily("meterline_lag_records", "Records between the position and the log's end.", labels=labels)
    behind = GaugeMetricFamily(
        "meterline_watermark_lag_seconds", "Wall clock minus watermark; absent before the first event.", labels=labels
    )
    gaps = GaugeMetricFamily(
        "meterline_gap_offsets", "Offsets that were never counted, by decision; /v1/audit says which.", labels=labels
    )
    restored = GaugeMetricFamily("meterline_restored_ratio", "1 once the partition's state is restored.", labels=labels)
    state = GaugeMetricFamily(
        "meterline_partition_state", "1 for the state that the partition is in.", labels=[*labels, "state"]
    )
    for stage in ("metering", "closing"):
        for partition, task in status.get(stage, {}).items():
            at = [stage, str(partition)]
            if task.get("lag") is not None:
                lag.add_metric(at, task["lag"])
            if task.get("watermark"):
                behind.add_metric(at, (now_ms - parse_rfc3339(task["watermark"])) / 1000)
            restored.add_metric(at, float(task.get("restored") or 0))
            gaps.add_metric(at, sum(gap["to"] - gap["from"] for gap in task.get("gaps", ())))
            for one in _STATES:
                state.add_metric([*at, one], task.get("state") == one)
    yield from (lag, behind, restored, state, gaps)


def _closing_metrics(closing: Mapping[str, Json]) -> Iterator[Metric]:
    revisions = CounterMetricFamily("meterline_revisions", "Revisions taken.", labels=["partition"])
    windows = GaugeMetricFamily("meterline_windows", "Windows in memory, by state.", labels=["partition", "state"])
    waiting = GaugeMetricFamily(
        "meterline_outbox_waiting", "Revisions not yet delivered.", labels=["partition", "sink"]
    )
    delivered = CounterMetricFamily("meterline_delivered", "Revisions delivered.", labels=["partition", "sink"])
    parked = GaugeMetricFamily("meterline_parked", "Revisions that a sink refused for good.", labels=["partition"])
    for partition, task in closing.items():
        at = str(partition)
        revisions.add_metric([at], task.get("revisions") or 0)
        for state in ("open", "closed"):
            windows.add_metric([at, state], task.get(f"windows_{state}") or 0)
        for sink, count in task.get("outbox", {}).items():
            waiting.add_metric([at, sink], count)
        for sink, count in task.get("delivered", {}).items():
            delivered.add_metric([at, sink], count)
        parked.add_metric([at], len(task.get("parked") or ()))
    yield from (revisions, windows, waiting, delivered, parked)


def _sink_metrics(sinks: Mapping[str, Json]) -> Iterator[Metric]:
    up = GaugeMetricFamily("meterline_sink_up", "1 while the sink takes revisions, 0 while retrying.", labels=["sink"])
    for name, sink in sinks.items():
        if sink.get("state") != "unconfigured":
            up.add_metric([name], sink.get("state") == "up")
    yield up


def _throttling_metrics(throttled: Json) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "meterline_throttled_requests",
        "Requests that the broker delayed or refused for throttling.",
        labels=["request"],
    )
    seconds = CounterMetricFamily(
        "meterline_throttled_seconds", "By how much it delayed them, or how long was waited.", labels=["request"]
    )
    for request, count in throttled.get("delayed", {}).items():
        requests.add_metric([request], count)
        seconds.add_metric([request], throttled["delayed_s"][request])
    requests.add_metric(["refused_produce"], throttled.get("refused") or 0)
    seconds.add_metric(["refused_produce"], throttled.get("refused_s") or 0)
    waiting = GaugeMetricFamily("meterline_throttled_waiting", "Produces that wait now, refused for throttling.")
    waiting.add_metric([], throttled.get("waiting") or 0)
    yield from (requests, seconds, waiting)
