# mypy: ignore-errors
# Its libraries are not in the environment in which types are checked.
"""The job with stock Faust: user guide "Tables and Windowing".

A tumbling table in memory, `relative_to_field`, changelog on, at least once, everything else its default. Totals are shown by a
web view (user guide "Tasks, Timers, Cron Jobs, Web Views, and CLI Commands"). Faust closes windows by the machine's clock:
`expires` is set so that this is BENCH_CLOSES_IN seconds after its first start, when all has been read, since a window that
expires while it is being read loses its value. A window that closes is sent on by `on_window_close`.
"""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import faust

from bench.field import job


class Data(faust.Record):
    """What is metered."""

    tokens: float


class Usage(faust.Record, coerce=True):
    """A CloudEvent, as far as the job goes."""

    time: datetime
    data: Data


# The start of the worker's first life is kept: a table's `expires` may not change with a restart.
_kept = Path(os.environ[job.STATE]) / "expires_s"
if not _kept.exists():
    _end_s = float(os.environ[job.END])
    _kept.write_text(str(time.time() - _end_s + float(os.environ[job.CLOSES_IN])))
_expires = timedelta(seconds=float(_kept.read_text()))

app = faust.App(
    os.environ[job.GROUP],
    broker=f"kafka://{os.environ[job.BOOTSTRAP]}",
    store="memory://",
    topic_partitions=job.PARTITIONS,
    topic_replication_factor=1,
    datadir=os.environ[job.STATE],
    web_port=int(os.environ[job.PORT]),
    web_bind="127.0.0.1",
    web_host="127.0.0.1",
)
usage = app.topic(os.environ[job.USAGE], key_type=str, value_type=Usage, key_serializer="raw")
out = app.topic(os.environ[job.OUT], key_serializer="raw", value_serializer="json")


async def closed(key, value):
    """`key` is the key and its window."""
    name, (start_s, _) = key
    told = {"key": name, "start": round(start_s * 1000), "sum": value[1], "count": value[0], "closed": True}
    await out.send(key=name.encode(), value=told)


table = app.Table("totals", default=lambda: [0, 0.0], partitions=job.PARTITIONS, on_window_close=closed)
totals = table.tumbling(timedelta(milliseconds=job.WINDOW_MS), expires=_expires).relative_to_field(Usage.time)


@app.agent(usage)
async def count(stream):
    """One record at a time, as the user guide has it."""
    async for key, event in stream.items():
        held = totals[key].value()
        totals[key] = [held[0] + 1, held[1] + event.data.tokens]


@app.page("/totals")
class Totals(faust.web.View):
    """`?keys=a,b`: totals of these keys; else of all."""

    async def get(self, request):
        """All windows in memory."""
        wanted = {key for key in request.query.get("keys", "").split(",") if key}
        found = [
            {"key": key, "start": round(start_s * 1000), "sum": total[1], "count": total[0], "closed": False}
            for (key, (start_s, _)), total in table.data.items()
            if not wanted or key in wanted
        ]
        return self.json(found)


if __name__ == "__main__":
    app.main()
