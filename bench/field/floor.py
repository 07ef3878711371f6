"""The floor: what fetching costs, and fetching and decoding, with the client and the decoder that meterline uses.

`python -m bench.field.floor fetch|decode`; told where by the environment (`bench/field/job.py`), until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from decimal import Decimal

import msgspec
from aiokafka import AIOKafkaConsumer

from bench.field import job

_COMMIT_S = 1.0


class Data(msgspec.Struct, gc=False):
    """What is metered."""

    tokens: Decimal
    model: str


class Event(msgspec.Struct, gc=False):
    """A CloudEvent, every attribute of it."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Data


async def fetch(decode: bool) -> None:
    """Fetch for ever, and say how far by committing once a second."""
    one, many = msgspec.json.Decoder(Event), msgspec.json.Decoder(list[Event])
    consumer = AIOKafkaConsumer(
        os.environ[job.USAGE],
        bootstrap_servers=os.environ[job.BOOTSTRAP],
        group_id=os.environ[job.GROUP],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,  # what meterline asks for
    )
    await consumer.start()
    try:
        committed_s = time.monotonic()
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records if decode else ():
                    (one if record.value[:1] == b"{" else many).decode(record.value)
            if time.monotonic() - committed_s > _COMMIT_S:
                await consumer.commit()
                committed_s = time.monotonic()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(fetch(decode=sys.argv[1] == "decode"))
