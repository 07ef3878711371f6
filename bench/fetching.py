"""The floor of a recovery: fetch the bytes that it reads, decode nothing, keep nothing. A process of its own.

`python -m bench.fetching` takes its settings from the environment, as a worker does, and prints one JSON line:
`{"records", "bytes", "wall_s", "cpu_s"}`, from where it connects to its last record.
"""

from __future__ import annotations

import asyncio
import json
import time

from aiokafka import AIOKafkaConsumer, TopicPartition

import settings as configuration
from schemas import changelog
from settings import Settings
from transport.client import client_options


async def fetch(settings: Settings) -> tuple[int, int]:
    """Records and bytes of every changelog partition, each from its newest snapshot to its end."""
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        cluster = await consumer._client.fetch_all_metadata()
        places = [
            TopicPartition(topic, partition)
            for topic in (settings.metering_state_topic, settings.closing_state_topic)
            for partition in sorted(cluster.partitions_for_topic(topic) or ())
        ]
        ends = await consumer.end_offsets(places)
        begins = {}
        for place in places:
            consumer.assign([place])
            consumer.seek(place, ends[place] - 1)
            last = await consumer.getone()
            begins[place] = changelog.decode(last.value or b"").snapshot[0]
        consumer.assign(places)
        for place, begin in begins.items():
            consumer.seek(place, begin)
        records = size = 0
        left = set(places)
        while left:
            for place, found in (await consumer.getmany(timeout_ms=500)).items():
                records += len(found)
                size += sum(len(record.value or b"") for record in found)
                if found[-1].offset + 1 >= ends[place]:
                    left.discard(place)
        return records, size
    finally:
        await consumer.stop()


def main() -> None:
    """Fetch, and print what it took."""
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    records, size = asyncio.run(fetch(configuration.load()))
    figures = {
        "records": records,
        "bytes": size,
        "wall_s": time.monotonic() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
