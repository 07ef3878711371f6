# mypy: ignore-errors
# Its libraries are not in the environment in which types are checked.
"""The job with Bytewax: documents "Windowing", "Recovery", API of `bytewax.connectors.kafka`.

`fold_window` over event time. Its clocks are per key and run on with the machine's, so a replay of the past closes nothing
until as much time has gone by as is left of the hour; it reads to the end of the topic instead (`tail=False`), where every
window closes. Recovery to SQLite every 5 s, as its document on recovery does. It has no running totals.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.field import job

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_LENGTH = timedelta(milliseconds=job.WINDOW_MS)
_BROKERS = [os.environ[job.BOOTSTRAP]]


def _keyed(message):
    event = orjson.loads(message.value)
    return message.key.decode(), (datetime.fromisoformat(event["time"]), event["data"]["tokens"])


def _fold(total, event):
    return total[0] + 1, total[1] + event[1]


def _told(closed):
    key, (window, (count, total)) = closed
    start_ms = int((_EPOCH + window * _LENGTH).timestamp() * 1000)
    body = {"key": key, "start": start_ms, "sum": total, "count": count, "closed": True}
    return KafkaSinkMessage(key.encode(), orjson.dumps(body))


flow = Dataflow("field")
_usage = kop.input("usage", flow, brokers=_BROKERS, topics=[os.environ[job.USAGE]], tail=False)
_windows = fold_window(
    "totals",
    op.map("decode", _usage.oks, _keyed),
    EventClock(lambda event: event[0], wait_for_system_duration=timedelta(milliseconds=job.GRACE_MS)),
    TumblingWindower(align_to=_EPOCH, length=_LENGTH),
    lambda: (0, 0.0),
    _fold,
    lambda one, other: (one[0] + other[0], one[1] + other[1]),
    ordered=False,
)
kop.output("out", op.map("told", _windows.down, _told), brokers=_BROKERS, topic=os.environ[job.OUT])


def main():
    """To the end of the topic; from where its recovery store says, if there is one."""
    store = Path(os.environ[job.STATE]) / "recovery"
    if not store.exists():
        store.mkdir()
        init_db_dir(store, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=5), recovery_config=RecoveryConfig(store, timedelta(0)))


if __name__ == "__main__":
    main()
