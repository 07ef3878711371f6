"""Sends a file of foreign records through a source stanza: events, packed, in order, with every bad row remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from local.once import Feed, Pause
from schemas.definitions import Definitions
from schemas.errors import ConfigurationError, DataError
from schemas.meters import load
from schemas.sources import Source, read_events
from schemas.times import parse_rfc3339
from transport.packing import Packer

KEPT_BAD_ROWS = 1000


class Producer(Protocol):
    """What a file is sent with: `transport.sending.UsageProducer` or `transport.amqp.AmqpProducer`."""

    partitions: int

    async def send(
        self, partition: int, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Append one record."""

    async def flush(self) -> None:
        """Return when everything is acknowledged."""

    async def tick(self, time_ms: int, source: str) -> None:
        """Append a tick to every partition."""


@dataclass(slots=True)
class Fed:
    """What became of a file. bad: (row, reason) of the first bad rows; latest_ms: event type -> highest event time."""

    events: int = 0
    records: int = 0
    bad_rows: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    latest_ms: dict[str, int] = field(default_factory=dict)


async def feed(
    producer: Producer, source: Source, lines: Iterable[bytes], advance: Callable[[int], object] | None = None
) -> Fed:
    """Send every record of `lines`; all acknowledged when it returns. advance: told the bytes read, as they are read.

    Raises ConfigurationError for a file that lacks a column, SendFailed for what is not acknowledged.
    """
    fed = Fed()
    packer = Packer(producer.partitions)
    for row, event in read_events(source, _told(lines, advance)):
        if isinstance(event, DataError):
            fed.bad_rows += 1
            if len(fed.bad) < KEPT_BAD_ROWS:
                fed.bad.append((row, event.detail))
            continue
        fed.events += 1
        event_type, time_ms = str(event["type"]), parse_rfc3339(str(event["time"]))
        fed.latest_ms[event_type] = max(fed.latest_ms.get(event_type, time_ms), time_ms)
        for envelope in packer.add(str(event["subject"]), orjson.dumps(event)):
            fed.records += 1
            await producer.send(envelope.partition, envelope.key, envelope.value)
            await asyncio.sleep(0)  # reading a file never waits: this is where the sending happens
    for envelope in packer.rest():
        fed.records += 1
        await producer.send(envelope.partition, envelope.key, envelope.value)
    await producer.flush()
    return fed


def final_ms(definitions: Definitions, latest_ms: dict[str, int], now_ms: int) -> int | None:
    """The time of the last ticks: what closes every window of what was sent, and shows its last change. None: no window.

    Not beyond `now_ms`: a tick from the future would be refused (design §3), and windows that end later are not over.
    """
    ends_ms = [
        window.start_of(time_ms) + window.size_ms + meter.grace_ms
        for event_type, time_ms in latest_ms.items()
        for meter in definitions.by_event_type.get(event_type, ())
        for window in meter.windows
    ]
    return min(max(ends_ms) + definitions.stream.revise_every_ms, now_ms) if ends_ms else None


def named_source(definitions: Definitions, name: str, meters: Path) -> Source:
    """The stanza of that name. Raises ConfigurationError, with the names there are."""
    if name not in definitions.sources:
        known = ", ".join(sorted(definitions.sources)) or "none"
        raise ConfigurationError(
            f"there is no source {name!r} in {meters}",
            where="--source",
            hint=f"there are: {known}; a stanza adds another",
        )
    return definitions.sources[name]


def file_feed(meters: Path, path: Path, name: str, bad: list[tuple[int, str]]) -> Feed:
    """For `local --once`: sends the file, and says how many events that was. Refuses an unknown source at once.

    bad: is given (row, reason) of each row that is no event, of the first thousand.
    """
    source = named_source(load(meters), name, meters)

    async def send(producer: Producer, pause: Pause) -> int:
        with path.open("rb") as file:
            fed = await feed(producer, source, file)
        bad.extend(fed.bad)
        return fed.events

    return send


def now_ms() -> int:
    """The wall clock, ms UTC."""
    return time.time_ns() // 1_000_000


def _told(lines: Iterable[bytes], advance: Callable[[int], object] | None) -> Iterator[bytes]:
    for line in lines:
        yield line
        if advance is not None:
            advance(len(line))
