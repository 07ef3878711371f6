"""Where the time of an event goes: `make bench-hotpath`, section The hot path of `bench/RESULTS.md`.

Four source partitions are metered and four of partials joined by the stages themselves in one process, from fetched bytes to
packed chunks, with no broker and no thread beside it. Parts are timed by the CPU clock of the thread, each without the parts
inside of it. Between them one event at a time is decoded by msgspec as a consumer would: the same machine's *decode*, which
moves as its speed does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import msgspec

from bench.field import inputs
from bench.field.job import PARTITIONS
from bench.field.meterline import meters_yaml
from bench.results import busy, machine, table, today, write_section
from schemas.definitions import Definitions
from schemas.meters import parse
from schemas.records import Batch, Out, PackedRecords, Record
from schemas.shapes import Shapes
from streams import counting
from streams.closing import Closing
from streams.counting import SLICE_BYTES, SLICE_RECORDS, Counting
from streams.folding import Folding
from streams.metering import Metering, Topics
from tables.closing import ClosingTable
from tables.dedupe import KnownIds
from tables.durable import Durable
from tables.effects import Procedure, Produce
from tables.metering import MeteringTable
from transport.fetching import split

TITLE = "The hot path"
_SEED = 7
_EVENTS = 800_000
"""Of each input, beside one of every key where those are many."""
_FETCH_BYTES = 900_000
"""Of one partition at once: aiokafka asks for a megabyte."""
_WARM = 0.3
"""Of the events, before anything is timed; so is, where there are more than a thousand keys, an event of every key."""
_EMIT_EVERY, _CHECKPOINT_EVERY = 12, 24
"""Fetches: some hundred thousand events a second come to about what a worker does by the clock."""
_YARD_EVENTS = 4_000
_FEW = 1_000
"""Keys that are live without being asked to."""
_CASES = (
    ("single records, 1,000 keys", 1_000, False),
    ("envelopes, 1,000 keys", 1_000, True),
    ("single records, 100,000 keys", 100_000, False),
    ("envelopes, 100,000 keys", 100_000, True),
    ("envelopes, 1,000,000 keys", 1_000_000, True),
)
UNPACK, SHAPES, COLUMNS, ORDER, DIGESTS, IDS, FOLD, REST, EMIT, CHECKPOINT, JOIN, CLOSED = (
    "batches into columns (`transport/fetching.py`)",
    "what stands around the values (`schemas/shapes.py`)",
    "times, subjects, quantities (`schemas/columns.py`)",
    "order and watermarks",
    "digests of ids, and their lanes (`schemas/ids.py`)",
    "known ids (`tables/dedupe.py`)",
    "sums per window (`streams/folding.py`)",
    "the rest of the step",
    "packed partials",
    "METERING's checkpoints",
    "the join (`tables/joined.py`)",
    "CLOSING's checkpoints",
)
_PARTS: tuple[tuple[Any, str, str], ...] = (
    (Shapes, "split", SHAPES),
    (counting, "shaped", COLUMNS),
    (Counting, "_order", ORDER),
    (counting, "_ids", DIGESTS),
    (KnownIds, "count", IDS),
    (Folding, "columns", FOLD),
    (Metering, "step", REST),
)


class Fetch(msgspec.Struct):
    """What one fetch brought of one partition. first: the offset of its first record."""

    partition: int
    first: int
    data: bytes


class _Event(msgspec.Struct):
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: dict[str, Any]


@dataclass
class Stopwatch:
    """CPU time per part, each without the parts inside of it, seconds."""

    spent_s: dict[str, float] = field(default_factory=dict)
    _open: list[float] = field(default_factory=list)

    def timed(self, part: str, work: Callable[[], Any]) -> Any:
        """What the work gives; its time is the part's."""
        self._open.append(0.0)
        began_s = time.thread_time()
        try:
            return work()
        finally:
            took_s = time.thread_time() - began_s
            self.spent_s[part] = self.spent_s.get(part, 0.0) + took_s - self._open.pop()
            if self._open:
                self._open[-1] += took_s

    @contextmanager
    def watching(self, parts: Iterable[tuple[Any, str, str]]) -> Iterator[None]:
        """While inside, these functions (owner, name) are timed as these parts."""
        held = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]
        for (owner, name, work), (_, _, part) in zip(held, parts, strict=True):
            setattr(owner, name, self._watched(work, part))
        try:
            yield
        finally:
            for owner, name, work in held:
                setattr(owner, name, work)

    def _watched(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(work)
        def watched(*args: Any, **more: Any) -> Any:
            return self.timed(part, partial(work, *args, **more))

        return watched


@dataclass(frozen=True)
class Measured:
    """events: how many were timed. us: per part, µs an event. decode_us: the same of one decode."""

    title: str
    events: int
    us: dict[str, float]
    decode_us: float


def fetches(keys: int, events: int, *, envelopes: bool) -> list[Fetch]:
    """The field's input as fetches, the partitions taking turns."""
    begin_ms = inputs.hour_before(int(time.time() * 1000))
    draws = inputs.zipf(keys, events, begin_ms, _SEED, live=_opening(keys) > 0)
    named = inputs.Keys(inputs.tenants(keys), by_subject=envelopes)
    given = inputs.make("", named, draws, _SEED, envelopes=envelopes)
    lanes: list[list[Fetch]] = [[] for _ in range(PARTITIONS)]
    ends = [0] * PARTITIONS
    for batch in (batch for block in given.blocks for batch in block.batches):
        lane, at = lanes[batch.partition], ends[batch.partition]
        data = at.to_bytes(8, "big") + batch.data[8:]  # the base offset stands first, outside of the checksum
        if lane and len(lane[-1].data) < _FETCH_BYTES:
            lane[-1].data += data
        else:
            lane.append(Fetch(batch.partition, at, data))
        ends[batch.partition] = at + batch.records
    order = [(number, fetch.partition, fetch) for lane in lanes for number, fetch in enumerate(lane)]
    return [fetch for _, _, fetch in sorted(order, key=lambda item: item[:2])]


def _opening(keys: int) -> int:
    """How many events come first that only make every key live."""
    return keys if keys > _FEW else 0


def measure(title: str, given: list[Fetch], definitions: Definitions, warm: float = _WARM) -> Measured:
    """One run over all fetches; so large a share of them, the first, is not timed."""
    stages = [_stage(definitions, partition) for partition in range(PARTITIONS)]
    joining = [_closing(definitions, partition) for partition in range(PARTITIONS)]
    now_ms = int(time.time() * 1000)
    decode = _yard(given[0])
    watch, yards, before = Stopwatch(), [], 0
    untimed = int(warm * len(given))
    with watch.watching(_PARTS):
        for number, fetch in enumerate(given, start=1):
            stage = stages[fetch.partition]
            records = watch.timed(UNPACK, partial(_unpacked, fetch, now_ms))
            for part in records.parts(SLICE_RECORDS, SLICE_BYTES):
                stage.step(Batch(part.offsets[0], part.offsets[-1] + 1, part))
            if number % _EMIT_EVERY == 0:
                for one in stages:
                    sent = watch.timed(EMIT, partial(_performed, one.emit()))
                    watch.timed(JOIN, partial(_joined, joining, sent))
            if number % _CHECKPOINT_EVERY == 0:
                for one in stages:
                    sent = watch.timed(CHECKPOINT, partial(_performed, one.checkpoint()))
                    watch.timed(JOIN, partial(_joined, joining, sent))
                for other in joining:
                    watch.timed(CLOSED, partial(_performed, other.checkpoint()))
            yards.append(decode())
            if number == untimed:
                watch.spent_s.clear()
                yards.clear()
                before = _read(stages)
    events = _read(stages) - before
    us = {part: spent_s / events * 1e6 for part, spent_s in watch.spent_s.items()}
    return Measured(title, events, us, sum(yards) / len(yards))


def section(runs: list[Measured], occasion: str) -> str:
    """The section: a table per run."""
    lines = [occasion, ""]
    lines += [line.strip() for line in (__doc__ or "").partition("\n\n")[2].strip().splitlines()]
    for run in runs:
        whole_us = sum(run.us.values())
        rows = [
            [part, f"{us:.2f}", f"{us / whole_us:.0%}", f"{us / run.decode_us:.2f}"]
            for part, us in sorted(run.us.items(), key=lambda item: -item[1])
        ]
        rows.append(["all", f"{whole_us:.2f}", "100%", f"{whole_us / run.decode_us:.2f}"])
        lines += ["", f"### {run.title[0].upper()}{run.title[1:]}: {run.events:,} events", ""]
        lines.append(table(["part", "µs an event", "share", "decodes"], rows))
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write the section."""
    parser = argparse.ArgumentParser(prog="python -m bench.hotpath", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, help=f"of each input, instead of {_EVENTS:,}; printed, not written")
    options = parser.parse_args()
    definitions = parse(meters_yaml())
    occasion = f"`make bench-hotpath`, {today()}: {machine()}; {busy()}."
    runs = []
    for title, keys, envelopes in _CASES:
        print(f"making the input: {title}", flush=True)
        events = options.events or _EVENTS
        given = fetches(keys, events, envelopes=envelopes)
        opening = _opening(keys)
        runs.append(measure(title, given, definitions, (opening + _WARM * events) / (opening + events)))
    text = section(runs, occasion)
    print(text)
    if options.events is None:
        write_section(TITLE, text)


def _stage(definitions: Definitions, partition: int) -> Metering:
    held = MeteringTable(PARTITIONS, definitions.stream.correct_for_ms)
    durable = Durable(held, "usage", "state", partition, PARTITIONS, definitions.digest, "bench")
    return Metering(definitions, Topics("usage", "partials", "dead"), partition, PARTITIONS, durable, held)


def _unpacked(fetch: Fetch, now_ms: int) -> PackedRecords:
    read = split(fetch.data, fetch.first, check=True)
    assert read is not None, "a fetch that the kernel does not understand"
    # A broker with append times would have stamped them; the builder of the input has not.
    read[0].timestamp_column[:] = now_ms
    return read[0]


def _closing(definitions: Definitions, partition: int) -> Closing:
    held = ClosingTable(PARTITIONS, definitions.stream.correct_for_ms, ("cosmos",))
    durable = Durable(held, "partials", "state", partition, PARTITIONS, definitions.digest, "bench")
    return Closing(definitions, "partials", partition, durable, held)


def _joined(stages: list[Closing], sent: list[Out]) -> None:
    """What was sent is folded by whom it was sent to, as one fetch of each; nobody listens to the feed."""
    for target, stage in enumerate(stages):
        at = stage.table.position
        values = [out.value for out in sent if out.topic == "partials" and out.partition == target]
        stage.step(Batch(at, at + len(values), [Record(at + n, 0, None, value) for n, value in enumerate(values)]))
        stage.take_changed()
        stage.revised.clear()


def _performed(procedure: Procedure[Any]) -> list[Out]:
    """To its end; what it produces is accepted, and given."""
    answer: Any = None
    produced: list[Out] = []
    try:
        while True:
            effect = procedure.send(answer)
            answer = None
            if isinstance(effect, Produce):
                produced += effect.records
                answer = [0] * len(effect.records)
    except StopIteration:
        return produced


def _read(stages: list[Metering]) -> int:
    return sum(stage.durable.table.ledger.read for stage in stages)  # type: ignore[attr-defined]


def _yard(fetch: Fetch) -> Callable[[], float]:
    """What times the decoding of single events, µs each."""
    decoder = msgspec.json.Decoder(_Event)
    texts: list[bytes] = []
    for value in _unpacked(fetch, 0).values:
        assert value is not None
        texts += map(bytes, msgspec.json.decode(value, type=list[msgspec.Raw])) if value[:1] == b"[" else [value]
    texts = (texts * (_YARD_EVENTS // len(texts) + 1))[:_YARD_EVENTS]

    def decode() -> float:
        began_s = time.thread_time()
        for text in texts:
            decoder.decode(text)
        return (time.thread_time() - began_s) / len(texts) * 1e6

    return decode


if __name__ == "__main__":
    main()
