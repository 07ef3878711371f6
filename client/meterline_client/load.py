"""A load generator: `python -m meterline_client.load --bootstrap 127.0.0.1:9092 --events 100000 --rate 20000`.

Sends events as a service would, through the Producer, to Kafka or Event Hubs (`--amqp`: over AMQP), and says at the end
what it did, in one line of JSON: events, seconds, events per second and per CPU-second, envelopes' mean size, outcomes.
The connection string comes from METERLINE_EVENTHUBS_CONNECTION_STRING, never from the command line, which all can read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, TypeVar

from meterline_client.errors import ConfigurationError, MeterlineClientError
from meterline_client.kafka import KafkaTransport
from meterline_client.producer import LINGER_S, MAX_BYTES, Producer
from meterline_client.transport import Transport

CONNECTION_STRING = "METERLINE_EVENTHUBS_CONNECTION_STRING"
BURST_S = 0.02
"""A paced load is sent in bursts of so many seconds' events: a loop cannot sleep for microseconds."""
_N = TypeVar("_N", int, float)
_DRAWN = 4096
"""So much is drawn at a time, so that drawing costs little beside sending."""


class Nowhere:
    """A transport that takes everything and keeps nothing: what is left is the cost of encoding and packing."""

    def __init__(self, partitions: int) -> None:
        self.topic = "nowhere"
        self._partitions = partitions

    async def open(self) -> int:
        """As many partitions as it was told."""
        return self._partitions

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        """Acknowledged at once."""
        return None

    async def close(self) -> None:
        """Nothing to do."""


class Counted:
    """A transport that counts what another one was given."""

    def __init__(self, inner: Transport) -> None:
        self.topic = inner.topic
        self.records = 0
        self.bytes = 0
        self._inner = inner

    async def open(self) -> int:
        """As the other one."""
        return await self._inner.open()

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        """As the other one; counted once it is acknowledged."""
        offset = await self._inner.send(partition, key, value)
        self.records += 1
        self.bytes += len(value)
        return offset

    async def close(self) -> None:
        """As the other one."""
        await self._inner.close()


def subjects(count: int, skew: float, seed: int) -> Iterator[str]:
    """Subjects without end: `tenant-0` … , drawn by Zipf's law with that exponent; 0: all alike."""
    draw = random.Random(seed)
    names = [f"tenant-{number}" for number in range(count)]
    weights = [*accumulate((rank + 1) ** -skew for rank in range(count))]
    while True:
        yield from draw.choices(names, cum_weights=weights, k=_DRAWN)


async def load(producer: Producer, options: argparse.Namespace) -> None:
    """Send the events, at the rate, and wait until all have their outcome. Raises what `flush` raises."""
    draw = random.Random(options.seed)
    names = subjects(options.subjects, options.skew, options.seed)
    pad = {"pad": "x" * options.pad} if options.pad else {}
    usage = [
        {"model": "gpt-4o", "context_tokens": draw.randrange(4000), "generated_tokens": draw.randrange(800), **pad}
        for _ in range(_DRAWN)
    ]
    started_s = time.monotonic()
    burst = max(1, int((options.rate or 0) * BURST_S))
    for number in range(options.events):
        if options.rate and number % burst == 0:
            ahead_s = started_s + number / options.rate - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        elif number % 500 == 0:
            await asyncio.sleep(0)  # a service, too, does other things in between
        await producer.send(options.type, next(names), usage[number % _DRAWN])
    await producer.flush()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, from connecting to the summary."""
    transport = Counted(_transport(options))
    producer = Producer(
        transport, options.source, max_bytes=options.max_bytes, linger_s=options.linger_ms / 1000,
        spool_dir=options.spool_dir, durable=options.durable,
    )  # fmt: skip
    async with producer:
        started_s, started_cpu_s = time.monotonic(), time.process_time()
        await load(producer, options)
        wall_s, cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
    return {
        **producer.ledger()._asdict(),
        "run": producer.run,
        "partitions": producer.partitions,
        "seconds": round(wall_s, 3),
        "events_per_second": round(options.events / wall_s),
        "events_per_cpu_second": round(options.events / cpu_s),
        "envelopes": transport.records,
        "bytes_per_envelope": round(transport.bytes / max(transport.records, 1)),
        "bytes_per_event": round(transport.bytes / max(producer.ledger().delivered, 1)),
    }


def _transport(options: argparse.Namespace) -> Transport:
    connection = os.environ.get(CONNECTION_STRING)
    if options.nowhere:
        return Nowhere(options.nowhere)
    if options.amqp:
        if not connection:
            raise ConfigurationError("--amqp needs a connection string", hint=f"set {CONNECTION_STRING}")
        from meterline_client.amqp import AmqpTransport  # the extra `amqp`

        return AmqpTransport(options.topic, connection_string=connection)
    if options.bootstrap:
        return KafkaTransport(options.topic, bootstrap=options.bootstrap)
    if not connection:
        raise ConfigurationError("no broker is named", hint=f"give --bootstrap HOST:PORT, or set {CONNECTION_STRING}")
    return KafkaTransport(options.topic, connection_string=connection, ca_file=options.ca_file)


def _number(kind: Callable[[str], _N], least: float, *, above: bool = False) -> Callable[[str], _N]:
    """Reads a number that is not below `least`, or above it, and none beyond all measure."""

    def number(text: str) -> _N:
        value = kind(text)
        if not least <= value <= sys.maxsize or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text} is not a number {'above' if above else 'from'} {least:g}")
        return value

    number.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return number


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m meterline_client.load", description="Send usage events through the client, and say how fast."
    )
    parser.add_argument("--bootstrap", help="HOST:PORT of a Kafka without authentication")
    parser.add_argument("--ca-file", help="PEM of the authority that signed the broker's certificate")
    parser.add_argument("--amqp", action="store_true", help="over AMQP instead of Kafka (Event Hubs)")
    parser.add_argument(
        "--nowhere", type=_number(int, 1), metavar="PARTITIONS", help="send nothing: the cost of packing alone"
    )
    parser.add_argument("--topic", default="usage", help="topic, or event hub (%(default)s)")
    parser.add_argument("--events", type=_number(int, 0), default=100_000, help="how many (%(default)s)")
    parser.add_argument(
        "--rate", type=_number(float, 0, above=True), help="events per second; as fast as it goes otherwise"
    )
    parser.add_argument("--subjects", type=_number(int, 1), default=1000, help="how many subjects (%(default)s)")
    parser.add_argument(
        "--skew", type=_number(float, 0), default=0.0, help="Zipf exponent of the subjects, 0: all alike (%(default)s)"
    )
    parser.add_argument("--pad", type=_number(int, 0), default=0, help="bytes more in each event's data (%(default)s)")
    parser.add_argument("--type", default="llm.inference", help="type of the events (%(default)s)")
    parser.add_argument("--source", default="//load.meterline/client", help="source of the events (%(default)s)")
    parser.add_argument("--linger-ms", type=_number(float, 0), default=LINGER_S * 1000)
    parser.add_argument(
        "--max-bytes", type=_number(int, 1), default=MAX_BYTES, help="bound of the events in memory (%(default)s)"
    )
    parser.add_argument("--spool-dir", help="where events go that do not fit into memory")
    parser.add_argument("--durable", action="store_true", help="every event to disk first (needs --spool-dir)")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    """Exit code 0: all acknowledged; 1: not all were; 2: a setting is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname).1s %(name)s: %(message)s")
    options = arguments().parse_args()
    try:
        print(json.dumps(asyncio.run(run(options))))
    except MeterlineClientError as error:
        print(f"error: {error.what}", *([f"to do: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
