"""Kernels made ready before they are needed: a worker that compiled in the midst of its work would leave its group for it.

A few made-up events go the whole way through both stages once, on lists, recovery included; what they run is compiled, and
kept (`schemas/compiled.py`): some ten seconds the first time, and next to nothing afterwards. `python -m streams.warming`
does only that, so that an image or a fresh clone has it behind it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from schemas.errors import DiskFailed
from schemas.events import tick
from schemas.ids import Ids
from schemas.meters import parse
from schemas.records import Batch, PackedRecords, Record
from schemas.times import format_rfc3339
from streams.closing import Closing
from streams.deployment import Deployment
from streams.live_kernels import let_go, noted
from streams.metering import Metering, Topics
from tables.dedupe import LANE, KnownIds
from tables.effects import Commit, Procedure, Produce, ReadBounds, ReadCommitted, ReadLog
from tables.runs import Disk
from tables.shelves import NEVER, Shelves
from transport.fetching import split

_METERS = """
meters:
  - {slug: sums, event_type: warming.up, aggregation: sum, value: /amount, group_by: {kind: /kind}, windows: [PT1M, PT1H]}
  - {slug: calls, event_type: warming.up, aggregation: count, windows: [PT1M]}
  - {slug: least, event_type: warming.up, aggregation: min, value: /amount, windows: [PT1M]}
  - {slug: newest, event_type: warming.up, aggregation: latest, value: /amount, windows: [PT1M]}
  - {slug: users, event_type: warming.up, aggregation: unique_count, value: /kind, windows: [PT1M]}
"""
_AT_MS = 1_767_268_800_000
_DAYS = 4 * 86_400_000
_SINGLE, _PACKED = 24, 12


def warm() -> float:
    """Has every kernel of a worker compiled, or fetched from where it is kept. How long it took, s."""
    began_s = time.monotonic()
    made = Deployment(parse(_METERS), Topics("usage", "partials", "dead"), "metering", "closing", 1, 1, "warming")
    _Lists(made).run()
    _many_ids()
    return time.monotonic() - began_s


def _many_ids() -> None:
    """What runs only where there are so many ids that they are split, and go to disk, or that lanes are looked at."""
    _many_on(Shelves(large=200))
    # Where nothing can be written, not even here, what runs on a disk is compiled if it is ever needed.
    with contextlib.suppress(DiskFailed, OSError):
        disk = Disk(Path(tempfile.gettempdir()), 0)
        disk.clear()  # of one that was killed here
        try:
            _many_on(Shelves(disk, large=200))
        finally:
            disk.remove()
    known, at_ms = KnownIds(1000, most=2), np.zeros(LANE, np.int64)
    ids = Ids.of([("/warming", f"lane-{2 * number}") for number in range(LANE)])
    known.count(ids, at_ms, at_ms)
    known.known(ids)


def _many_on(shelves: Shelves) -> None:
    for number in range(8):
        words, rows = np.random.default_rng(number).integers(0, 1 << 63, (2, 100), np.uint64), np.arange(100)
        bucket, elsewhere = np.full(100, number + 1), np.full(100, NEVER)
        shelves.count(rows, words, bucket, bucket, elsewhere, np.zeros(100, np.uint8))
        shelves.find(rows, words, elsewhere)


class _Lists:
    """One partition of each topic, as lists."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._logs: dict[str, list[bytes]] = {}
        self._committed: dict[str, int] = {}

    def run(self) -> None:
        """Both stages over some days, twice."""
        for _ in range(2):  # the second time both are restored
            metering, closing = self._deployment.metering(0), self._deployment.closing(0)
            for stage in (metering, closing):
                self._perform(stage, stage.recover())
            for ahead_ms in (0, 60_000, _DAYS):
                self._meter(metering, _usage(metering.table.position, ahead_ms))
                self._close(closing)

    def _meter(self, stage: Metering, records: PackedRecords) -> None:
        stage.step(Batch(stage.table.position, records.end, records))
        self._perform(stage, stage.emit())
        self._perform(stage, stage.checkpoint(snapshot_due=True))

    def _close(self, stage: Closing) -> None:
        values = self._logs.get("partials", [])
        records = [Record(at, 0, b"", values[at]) for at in range(stage.table.position, len(values))]
        stage.step(Batch(stage.table.position, len(values), PackedRecords.of(records)))
        moved = stage.take_changed()  # what somebody who listens, or asks for a subject, has run
        bits = np.zeros(len(moved) + 1, np.uint8)
        let_go(moved[: noted(moved, bits, np.empty(len(moved), np.int64))], bits)
        list(stage.table.select("warming"))
        self._perform(stage, stage.checkpoint(snapshot_due=True))

    def _perform(self, stage: Metering | Closing, procedure: Procedure[Any]) -> None:
        answer: Any = None
        try:
            while True:
                answer = self._do(stage.durable.source_topic, procedure.send(answer))
        except StopIteration:
            pass

    def _do(self, source: str, effect: object) -> Any:
        if isinstance(effect, Produce):
            offsets = []
            for out in effect.records:
                log = self._logs.setdefault(out.topic, [])
                offsets.append(len(log))
                log.append(out.value)
            return offsets
        if isinstance(effect, Commit):
            self._committed[source] = effect.offset
        elif isinstance(effect, ReadCommitted):
            return self._committed.get(source)
        elif isinstance(effect, ReadBounds):
            return 0, max(len(self._logs.get(effect.topic, ())), self._committed.get(effect.topic, 0))
        elif isinstance(effect, ReadLog):
            return [*enumerate(self._logs[effect.topic])][effect.offset : effect.end]
        return None


def _usage(first: int, ahead_ms: int) -> PackedRecords:
    """Records as a fetch brings them, from an offset on, so long after the first."""
    numbers = range(_SINGLE)
    singles = [_event(f"{first}.{number % (_SINGLE - 2)}z", number, ahead_ms) for number in numbers]
    envelope = (
        b"[" + b",".join(_event(f"lane-{number}", number, ahead_ms) for number in range(first, first + _PACKED)) + b"]"
    )
    odd = _event("odd", 1, ahead_ms).replace(b"warming", b"warm\\u0069ng")
    values = [*singles, envelope, odd, tick(_AT_MS + ahead_ms, "warming", str(first))]
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, _AT_MS + ahead_ms, b"key", value, [])
    data = bytes(builder.build())
    read = split(first.to_bytes(8, "big") + data[8:], first, check=True)
    assert read is not None, "a batch as any producer writes it"
    return read[0]


def _event(name: str, number: int, ahead_ms: int) -> bytes:
    amount = f"{number}.25" if number % 2 else str(number)
    return (
        f'{{"specversion":"1.0","id":"{name}","source":"/warming","type":"warming.up","subject":"subject-{number}",'
        f'"time":"{format_rfc3339(_AT_MS + ahead_ms + number)}","data":{{"amount":{amount},"kind":"k{number % 3}"}}}}'
    ).encode()


if __name__ == "__main__":
    print("making kernels ready (some ten seconds where they were never compiled) …", flush=True)
    print(f"kernels are ready ({warm():.1f} s)")
