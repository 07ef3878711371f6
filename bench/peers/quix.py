# mypy: ignore-errors
# Its libraries are not in the environment in which types are checked.
"""The job with Quix Streams: documents "Windowed Aggregations", "Processing & Checkpointing", "Stateful Processing".

Tumbling window over event time (`timestamp_extractor`), closed by partition, since with the default, by key, the last window of a
quiet key never closes; RocksDB state with changelog, at least once, a checkpoint every 5 s: its defaults. Closed windows
leave by `final()`. Where running totals are asked for they leave by `current()`: after every event, it knows no other way.
"""

import os
from datetime import datetime

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum

from bench.field import job


def event_time_ms(value, headers, timestamp, timestamp_type):
    """The event's own time: brokers here stamp records when they append them."""
    return int(datetime.fromisoformat(value["time"]).timestamp() * 1000)


def main():
    """Until it is ended."""
    running = os.environ[job.RUNNING_TOTALS] == "true"
    app = Application(
        broker_address=os.environ[job.BOOTSTRAP],
        consumer_group=os.environ[job.GROUP],
        auto_offset_reset="earliest",
        state_dir=os.environ[job.STATE],
        loglevel="WARNING",
    )
    usage = app.topic(os.environ[job.USAGE], value_deserializer="json", timestamp_extractor=event_time_ms)
    out = app.topic(os.environ[job.OUT], value_serializer="json")
    events = app.dataframe(usage).apply(lambda event: event["data"])
    windows = events.tumbling_window(duration_ms=job.WINDOW_MS, grace_ms=job.GRACE_MS).agg(
        sum=Sum("tokens"), count=Count()
    )
    totals = windows.current() if running else windows.final(closing_strategy="partition")

    def told(total, key, timestamp, headers):
        return {
            "key": key.decode(),
            "start": total["start"],
            "sum": total["sum"],
            "count": total["count"],
            "closed": not running,
        }

    totals.apply(told, metadata=True).to_topic(out)
    app.run()


if __name__ == "__main__":
    main()
