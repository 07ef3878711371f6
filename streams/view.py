"""What this worker shows of itself: the `View` that web asks (`web/view.py`)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from schemas.partials import NEVER
from schemas.times import format_rfc3339
from schemas.windows import Revision, WindowKey, window_id
from streams.closing import Closing
from streams.tasks import ClosingTask, MeteringTask, PartitionTask
from streams.worker import Worker
from tables.gaps import describe as describe_gaps
from transport.membership import Owners

Json = dict[str, Any]
VERSION = "0.1.0"


class WorkerView:
    """See `web.view.View` for every promise. owners: the group's map, as of its last assignment."""

    def __init__(self, worker: Worker, owners: Callable[[], Owners]) -> None:
        self._worker = worker
        self._owners = owners

    @property
    def worker_url(self) -> str:
        """Advertised base URL of this worker."""
        return self._worker.settings.advertised_url

    @property
    def usage_partitions(self) -> int:
        """N."""
        return self._worker.usage_partitions

    @property
    def partials_partitions(self) -> int:
        """M."""
        return self._worker.partials_partitions

    def peers(self) -> Mapping[str, Mapping[str, list[int]]]:
        """Who owns what; empty while this worker is in no group, or between two assignments."""
        return self._owners() if self._worker.membership is not None else {}

    def totals(
        self,
        subject: str | None,
        meter: str | None,
        window_size: str | None,
        *,
        state: str | None = None,
        after: tuple[str, str] | None = None,
    ) -> Iterable[Json]:
        """Windows in memory that fit, in the order of (subject, window id).

        A sealed one is there while its last revision is in the outbox: until then Cosmos has none, or an earlier one.
        """
        found = [
            (*place, stage, what)
            for stage in self._stages()
            for place, what in _matching(stage, subject, meter, window_size, state)
            if after is None or place > after
        ]
        for _, _, stage, what in sorted(found, key=lambda item: item[:2]):
            document = _sealed(what) if isinstance(what, Revision) else stage.describe(what)
            if document is not None:
                yield document

    def window(self, window_id: str) -> Json | None:
        """One window in memory; a sealed one while its last revision is in the outbox."""
        for stage in self._stages():
            key = stage.find(window_id)
            if key is not None:
                return stage.describe(key)
            revision = stage.table.outbox.newest(window_id)
            if revision is not None:
                return _sealed(revision)
        return None

    async def stored_window(self, window_id: str, subject: str | None) -> Json | None:
        """The document in Cosmos."""
        reader = self._reader()
        found: Json | None = None if reader is None else await reader.read_window(window_id, subject)
        return found

    async def stored_totals(
        self, subject: str, meter: str | None, window_size: str | None, *, after: str | None = None, limit: int = 1000
    ) -> list[Json]:
        """The documents of a subject in Cosmos, by id."""
        reader = self._reader()
        if reader is None:
            return []
        documents: list[Json] = await reader.read_subject(subject, meter, window_size, after=after, limit=limit)
        return [{**document, "state": "sealed"} for document in documents]

    def audit(self) -> dict[str, dict[str, int]]:
        """Ledgers of the owned usage partitions that are restored."""
        return {
            str(partition): task.metering.table.ledger.describe()
            for partition, task in sorted(self._worker.metering.items())
            if task.state != "restoring"
        }

    def alarms(self) -> list[Json]:
        """What must be looked at."""
        stopped = [
            {
                "kind": "partition_stopped",
                "where": f"{t.topic}[{t.partition}]",
                "what": _reason(t),
                "hint": t.stopped.hint,
            }
            for t in self._tasks()
            if t.stopped is not None
        ]
        told = [{"kind": a.kind, "where": a.where, "what": a.what, "hint": a.hint} for a in self._worker.alarms]
        return stopped + told

    def status(self) -> Json:
        """Tasks and sinks."""
        worker = self._worker
        return {
            "worker": self.worker_url,
            "version": VERSION,
            "metering": {str(p): _metering(task) for p, task in sorted(worker.metering.items())},
            "closing": {
                str(p): _closing(owned.task, tuple(worker.sinks)) for p, owned in sorted(worker.closing.items())
            },
            "sinks": {name: self._sink(name) for name in ("servicebus", "cosmos")},
            "throttled": worker.broker.throttling.describe(),
        }

    def dead_letters(self) -> list[Json]:
        """The newest dead letters."""
        return [letter.describe() for letter in self._worker.dead_letters]

    def recent_revisions(self) -> list[Json]:
        """The newest revisions."""
        return list(self._worker.revisions)

    async def live(self) -> AsyncIterator[Json]:
        """Changes from now on; `{"dropped": n}` where a slow reader missed some."""
        async for item in self._worker.live.listen():
            if "dropped" in item:
                yield item
                continue
            yield {**item, "provisional": item["state"] == "open" or item["pending"]}

    def _stages(self) -> list[Closing]:
        return [owned.task.closing for owned in self._worker.closing.values() if owned.task.whole]

    def _tasks(self) -> list[PartitionTask]:
        return [*self._worker.metering.values(), *(owned.task for owned in self._worker.closing.values())]

    def _reader(self) -> Any:
        return self._worker.sinks.get("cosmos")

    def _sink(self, name: str) -> Json:
        worker = self._worker
        if name not in worker.sinks:
            return {"state": "unconfigured", "error": "", "retry_in_s": 0, "waiting": 0, "delivered": 0, "parked": 0}
        couriers = [owned.couriers[name] for owned in worker.closing.values()]
        retrying = [courier.status for courier in couriers if courier.status.state == "retrying"]
        tables = [owned.task.closing.table for owned in worker.closing.values()]
        return {
            "state": "retrying" if retrying else "up",
            "error": retrying[0].error if retrying else "",
            "retry_in_s": round(max(0.0, min((s.retry_at_s for s in retrying), default=0.0) - time.monotonic()), 1)
            if retrying
            else 0,
            "waiting": sum(table.outbox.count_waiting(name) for table in tables),
            "delivered": sum(table.counters.delivered.get(name, 0) for table in tables),
            "parked": sum(sink == name for table in tables for sink, _, _ in table.outbox.parked()),
        }


def _matching(
    stage: Closing, subject: str | None, meter: str | None, window_size: str | None, state: str | None
) -> Iterator[tuple[tuple[str, str], WindowKey | Revision]]:
    """(place, key) of each window of the table that fits; (place, last revision) of each that is sealed."""
    unsealed = set()
    for key, closed in stage.table.select(subject):
        if meter in (None, key.meter) and window_size in (None, key.size):
            name = window_id(key)
            unsealed.add(name)
            if state in (None, "closed" if closed else "open"):
                yield (key.subject, name), key
    if state not in (None, "sealed"):
        return
    for revision in stage.table.outbox.newest_of(subject):
        of_meter, size, _ = revision.window_id.split("~", 2)
        if revision.window_id not in unsealed and meter in (None, of_meter) and window_size in (None, size):
            yield (revision.subject, revision.window_id), revision


def _sealed(revision: Revision) -> Json:
    document: Json = orjson.loads(revision.body)
    return document | {"state": "sealed", "pending": False}


def _task(task: PartitionTask) -> Json:
    return {
        "state": task.state,
        "restored": round(task.restored, 3),
        "reason": _reason(task),
        "hint": task.stopped.hint if task.stopped else "",
        "position": task.position,
        "end": task.end if task.end is not None else task.position,
        "lag": max(0, (task.end or 0) - task.position),
        "committed": task.durable.accepted,
    }


def _reason(task: PartitionTask) -> str:
    """Why it has stopped; the place stands beside it, so not here again."""
    return task.stopped.what.removeprefix(f"{task.topic}[{task.partition}] stopped: ") if task.stopped else ""


def _metering(task: MeteringTask) -> Json:
    table = task.metering.table
    return {
        **_task(task),
        "watermark": _time(table.watermark_ms),
        "ids": len(table.ids),
        "partials": len(table.partials),
        "gaps": describe_gaps(table.gaps),
    }


def _closing(task: ClosingTask, sinks: tuple[str, ...]) -> Json:
    table = task.closing.table
    return {
        **_task(task),
        "watermark": _time(table.watermark_ms),
        "windows_open": table.windows_open,
        "windows_closed": table.counters.windows_closed,
        "windows_sealed": table.counters.windows_sealed,
        "revisions": table.counters.revisions,
        "outbox": {sink: table.outbox.count_waiting(sink) for sink in sinks},
        "delivered": dict(table.counters.delivered),
        "parked": [
            {"sink": sink, "message_id": revision.message_id, "reason": reason}
            for sink, revision, reason in table.outbox.parked()
        ],
        "gaps": describe_gaps(table.gaps),
    }


def _time(ms: int) -> str | None:
    return None if ms == NEVER else format_rfc3339(ms)
