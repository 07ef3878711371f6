"""What is metered, made before anybody is measured: record batches as the broker stores them, and their ledger.

The ledger is kept while the events are drawn and never reads them back: `tests/bench` confronts it with a naive sum of
the decoded bytes. Quantities are whole quarters, so that a peer's binary floats lose nothing: the field is about
counting, not about rounding.
"""

from __future__ import annotations

import csv
import datetime
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.field.job import CLOSER, DISORDER_MS, PARTITIONS, PROBE, TYPES, WINDOW_MS
from schemas.hashing import partition_for

BLOCK_EVENTS = 5_000
BATCH_RECORDS = 1_000
ENVELOPE_EVENTS = 250
RETRY_EVERY = 1_000
"""One record in so many is sent twice, as a producer does that saw no acknowledgement; of envelopes one in a quarter of it."""
ZIPF = 1.1
_HOUR_S = 3_600


class Place(NamedTuple):
    """One window. key: `subject/type`. start_ms: UTC."""

    key: str
    start_ms: int


class Total(NamedTuple):
    """What a window adds up to."""

    events: int
    sum: Decimal


class Batch(NamedTuple):
    """Records of one partition as one record batch. probe: how many events of the partition's probe are sent by its end."""

    partition: int
    data: bytes
    records: int
    probe: int = 0


@dataclass(slots=True)
class Block:
    """A stretch of an input. keys, starts, quarters: of each event, once; retried: the keys and so on of those sent again."""

    batches: list[Batch] = field(default_factory=list)
    keys: array[int] = field(default_factory=lambda: array("I"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    quarters: array[int] = field(default_factory=lambda: array("I"))
    retried: list[int] = field(default_factory=list)
    """Places within this block."""

    @property
    def events(self) -> int:
        """How many events its records hold, those sent again too."""
        return len(self.keys) + len(self.retried)

    @property
    def records(self) -> int:
        """How many records they are."""
        return sum(batch.records for batch in self.batches)


@dataclass(slots=True)
class Input:
    """A whole input. names: the keys by number. end_ms: no event of it is at or after this; hours end there.

    opening: so many blocks come before anything is measured; after them every key is live, where that is what is asked.
    """

    title: str
    names: Sequence[str]
    blocks: list[Block]
    end_ms: int
    opening: int = 1

    @property
    def events(self) -> int:
        """Events in all blocks."""
        return sum(block.events for block in self.blocks)


class Draw(NamedTuple):
    """One event before it is written. time_ms: its own time."""

    key: int
    quarters: int
    time_ms: int


def hour_before(now_ms: int) -> int:
    """The beginning of the hour that the inputs lie in: over for two hours, so that none of their times is in the future."""
    return now_ms // WINDOW_MS * WINDOW_MS - 3 * WINDOW_MS


def zipf(keys: int, events: int, begin_ms: int, seed: int, *, live: bool = False) -> Iterator[Draw]:
    """So many events within one hour over so many keys, the n-th of them as often as n to the power of -1.1.

    live: before them one event of every key, in random order.
    """
    chance = random.Random(seed)
    weights = list(accumulate(rank**-ZIPF for rank in range(1, keys + 1)))
    span_ms = WINDOW_MS - 2 * DISORDER_MS
    opening = chance.sample(range(keys), keys) if live else []
    total = len(opening) + events
    for first in range(0, total, BLOCK_EVENTS):
        drawn = opening[first : first + BLOCK_EVENTS]
        count = min(BLOCK_EVENTS, total - first) - len(drawn)
        drawn += chance.choices(range(keys), cum_weights=weights, k=count)
        for number, key in enumerate(drawn, start=first):
            time_ms = begin_ms + number * span_ms // total + int(chance.random() * DISORDER_MS)
            yield Draw(key, 1 + int(chance.random() * 4_000), time_ms)


def tenants(keys: int) -> list[str]:
    """Names of so many keys: tenants, each with every type."""
    return [f"tenant-{key // len(TYPES):07d}/{TYPES[key % len(TYPES)]}" for key in range(keys)]


def trace(directory: Path, times: int, begin_ms: int) -> tuple[list[str], Iterator[Draw], int]:
    """Names, events in order of time and their number: the Azure LLM inference trace of 2023, by so many tenants at once."""
    rows: list[tuple[int, int, tuple[int, int]]] = []
    for service, name in enumerate(("code", "conv")):
        with (directory / f"AzureLLMInferenceTrace_{name}.csv").open() as lines:
            for row in csv.DictReader(lines):
                moment = datetime.datetime.fromisoformat(row["TIMESTAMP"][:23]).replace(tzinfo=datetime.UTC)
                tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
                rows.append((int(moment.timestamp() * 1000), service, tokens))
    rows.sort()
    names = [f"llm-{name}-{tenant}/{t}" for tenant in range(times) for name in ("code", "conv") for t in TYPES]

    def draws() -> Iterator[Draw]:
        for time_ms, service, tokens in rows:
            for tenant in range(times):
                for number, count in enumerate(tokens):
                    key = (tenant * 2 + service) * len(TYPES) + number
                    yield Draw(key, 4 * count, begin_ms + time_ms - rows[0][0])

    return names, draws(), len(rows) * times * len(TYPES)


def make(
    title: str,
    names: Sequence[str],
    draws: Iterator[Draw],
    seed: int,
    *,
    envelopes: bool = False,
    batch_records: int = BATCH_RECORDS,
    probes: bool = False,
) -> Input:
    """Writes the events into batches, in order of time within each partition.

    envelopes: JSON arrays of events with ids `run-lane-counter`, as `meterline-client` sends them, instead of single
    events with UUIDs. probes: the last event of each batch is one of its partition's probe.
    """
    writer = _Envelopes(seed) if envelopes else _Singles(seed)
    blocks: list[Block] = []
    waiting: list[list[tuple[bytes, bytes, int]]] = [[] for _ in range(PARTITIONS)]
    known: dict[int, tuple[int, bytes, bytes]] = {}
    amounts = [f"{n / 4:g}".encode() for n in range(4_001)]
    seconds: dict[int, bytes] = {}
    block, end_ms = Block(), 0
    size = batch_records * (ENVELOPE_EVENTS if envelopes else 1)
    size = min(size, BLOCK_EVENTS)
    probed = [0] * PARTITIONS
    probe_names = [subject_for(PROBE, partition) for partition in range(PARTITIONS)]

    def cut(partition: int) -> None:
        found = waiting[partition]
        waiting[partition] = []
        if probes:
            text = _event_head(probe_names[partition], TYPES[0]) + _clock(last_ms, seconds) + b'"tokens":1}}'
            found.append((f"{probe_names[partition]}/{TYPES[0]}".encode(), text, -1))
            probed[partition] += 1
        block.batches.extend(writer.batches(partition, found, block.retried, probed[partition]))

    last_ms = 0
    for key, quarters, time_ms in draws:
        last_ms = time_ms
        if key not in known:
            subject, _, kind = names[key].rpartition("/")
            known[key] = partition_of(names[key]), names[key].encode(), _event_head(subject, kind)
        partition, name, head = known[key]
        amount = amounts[quarters] if quarters <= 4_000 else f"{quarters / 4:.12g}".encode()
        lane = waiting[partition]
        lane.append((name, b'%b%b"tokens":%b}}' % (head, _clock(time_ms, seconds), amount), len(block.keys)))
        block.keys.append(key)
        block.quarters.append(quarters)
        block.starts.append(time_ms - time_ms % WINDOW_MS)
        end_ms = max(end_ms, time_ms)
        if len(lane) >= size:
            cut(partition)
        if len(block.keys) == BLOCK_EVENTS:
            for number in range(PARTITIONS):
                if waiting[number]:
                    cut(number)
            blocks.append(block)
            block = Block()
    if block.keys:
        for number in range(PARTITIONS):
            if waiting[number]:
                cut(number)
        blocks.append(block)
    return Input(title, names, blocks, end_ms // WINDOW_MS * WINDOW_MS + WINDOW_MS)


def closers(given: Input) -> list[Batch]:
    """One event per partition whose time is two hours past the end of all windows: for every engine's clock."""
    batches = []
    for partition in range(PARTITIONS):
        subject = subject_for(CLOSER, partition)
        text = _event_head(subject, TYPES[0]) + _clock(given.end_ms + 2 * WINDOW_MS, {}) + b'"tokens":1}}'
        key, value = f"{subject}/{TYPES[0]}".encode(), _START + f"{subject}-{given.end_ms}".encode() + text
        batches.append(_batch(partition, [(key, value)]))
    return batches


def ledger(given: Input, blocks: Sequence[Block], *, retries_count: bool) -> dict[Place, Total]:
    """What the blocks add up to. retries_count: what is sent again is counted again, as by one who does not deduplicate."""
    sums: dict[tuple[int, int], list[int]] = {}
    for block in blocks:
        for key, start, quarters in zip(block.keys, block.starts, block.quarters, strict=True):
            held = sums.get((key, start))
            if held is None:
                sums[key, start] = [1, quarters]
            else:
                held[0] += 1
                held[1] += quarters
        if retries_count:
            for place in block.retried:
                held = sums[block.keys[place], block.starts[place]]
                held[0] += 1
                held[1] += block.quarters[place]
    return {
        Place(given.names[key], start): Total(count, Decimal(quarters) / 4)
        for (key, start), (count, quarters) in sums.items()
    }


def partition_of(key: str) -> int:
    """Where a record of this key lies, by Kafka's own rule. Not remembered: there are a million of them."""
    return partition_for.__wrapped__(key, PARTITIONS)


def subject_for(prefix: str, partition: int) -> str:
    """The first subject of this prefix whose records lie in this partition."""
    number = 0
    while partition_of(f"{prefix}{number}/{TYPES[0]}") != partition:
        number += 1
    return f"{prefix}{number}"


_START = b'{"specversion":"1.0","id":"'


def _event_head(subject: str, kind: str) -> bytes:
    return f'","source":"/bench/field","type":"{kind}","subject":"{subject}","time":"'.encode()


def _clock(time_ms: int, seconds: dict[int, bytes]) -> bytes:
    second, ms = divmod(time_ms, 1000)
    text = seconds.get(second)
    if text is None:
        moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
        seconds[second] = text = moment.strftime("%Y-%m-%dT%H:%M:%S.").encode()
    return b'%b%03dZ","data":{"model":"gpt-4o",' % (text, ms)


class _Singles:
    """Single events with ids that are random UUIDs."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(~seed)
        self._records = 0

    def batches(
        self, partition: int, events: list[tuple[bytes, bytes, int]], retried: list[int], probe: int
    ) -> list[Batch]:
        digits = self._chance.randbytes(16 * len(events)).hex()
        records = []
        for number, (key, text, place) in enumerate(events):
            at = 32 * number
            name = digits[at : at + 32]
            identity = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-a{name[17:20]}-{name[20:]}"
            value = _START + identity.encode() + text
            records.append((key, value))
            self._records += 1
            if self._records % RETRY_EVERY == 0 and place >= 0:
                retried.append(place)
                records.append((key, value))
        return [_batch(partition, records, probe)]


class _Envelopes:
    """JSON arrays of events whose ids are `run-lane-counter`, one lane per partition."""

    def __init__(self, seed: int) -> None:
        self._run = f"{random.Random(~seed).getrandbits(64):016x}"
        self._counters = [0] * PARTITIONS
        self._envelopes = 0

    def batches(
        self, partition: int, events: list[tuple[bytes, bytes, int]], retried: list[int], probe: int
    ) -> list[Batch]:
        records = []
        for first in range(0, len(events), ENVELOPE_EVENTS):
            part = events[first : first + ENVELOPE_EVENTS]
            texts = []
            for _, text, _ in part:
                self._counters[partition] += 1
                texts.append(b"%b%b-%d-%d%b" % (_START, self._run.encode(), partition, self._counters[partition], text))
            record = part[0][0], b"[" + b",".join(texts) + b"]"
            records.append(record)
            self._envelopes += 1
            if self._envelopes % (RETRY_EVERY // 4) == 0 and part[-1][2] >= 0:
                records.append(record)
                retried.extend(place for _, _, place in part)
        # One batch may hold up to 1 MB (Kafka's max.message.bytes): 16 envelopes are below it.
        pieces = [records[first : first + 16] for first in range(0, len(records), 16)]
        return [_batch(partition, piece, probe if piece is pieces[-1] else 0) for piece in pieces]


def _batch(partition: int, records: Sequence[tuple[bytes, bytes]], probe: int = 0) -> Batch:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset, (key, value) in enumerate(records):
        added = builder.append(offset, 0, key, value, [])
        assert added is not None, f"{len(records)} records are too much for one batch"
    return Batch(partition, bytes(builder.build()), len(records), probe)
