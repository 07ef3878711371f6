"""`python -m local.servicebus`: the local Service Bus as a process.

Prints one JSON line, `{"ready": true, "service": "servicebus", "port": N}`, once it accepts connections; everything
else goes to stderr. The key comes from the environment (METERLINE_LOCAL_SERVICEBUS_KEY), never from the arguments,
where `ps` would show it. Ends with 0 on SIGTERM or SIGINT, 1 when it cannot start or its store fails, 2 on bad usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from aiokafka.errors import KafkaError

from .server import QueueConfig, ServiceBusConfig, ServiceBusServer

KEY_VARIABLE = "METERLINE_LOCAL_SERVICEBUS_KEY"

_OPTIONS = {"no-sessions", "no-duplicate-detection"}

log = logging.getLogger("local.servicebus")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        parser.error(f"the key is missing: set {KEY_VARIABLE}")
    try:
        config = ServiceBusConfig(
            data_dir=options.data_dir,
            key_name=options.key_name,
            key=key,
            queues=tuple(_queue(text) for text in options.queue),
            port=options.port,
            event_hubs=dict(_hub(text) for text in options.event_hub),
            kafka_bootstrap=options.kafka,
        )
    except ValueError as wrong:
        parser.error(str(wrong))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return asyncio.run(_serve(config))


async def _serve(config: ServiceBusConfig) -> int:
    server = ServiceBusServer(config)
    try:
        await server.start()
    except (OSError, sqlite3.Error, KafkaError, RuntimeError) as failure:
        log.error("the local Service Bus cannot start: %s", failure)
        return 1
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(json.dumps({"ready": True, "service": "servicebus", "port": server.port}), flush=True)
    ends = [loop.create_task(stop.wait()), loop.create_task(server.stopped())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    await server.close()
    return 1 if server.failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local.servicebus", description="A Service Bus for this machine.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where messages are kept")
    parser.add_argument("--port", type=int, default=5672, help="on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--key-name", required=True, help=f"the key itself is read from {KEY_VARIABLE}")
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="NAME[:OPTION…]",
        help="a queue, with sessions and duplicate detection unless it says :no-sessions or :no-duplicate-detection",
    )
    parser.add_argument("--event-hub", action="append", default=[], metavar="NAME=TOPIC", help="passed on to Kafka")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="the broker behind the event hubs")
    return parser


def _queue(text: str) -> QueueConfig:
    name, *options = text.split(":")
    if not set(options) <= _OPTIONS:
        raise ValueError(f"--queue {text}: the options are {', '.join(sorted(_OPTIONS))}")
    window_s = None if "no-duplicate-detection" in options else QueueConfig.duplicate_detection_window_s
    return QueueConfig(name, requires_session="no-sessions" not in options, duplicate_detection_window_s=window_s)


def _hub(text: str) -> tuple[str, str]:
    name, _, topic = text.partition("=")
    if not name or not topic:
        raise ValueError(f"--event-hub {text}: NAME=TOPIC is needed")
    return name, topic


if __name__ == "__main__":
    sys.exit(main())
