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
from typing import Any, NamedTuple

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.field.job import CLOSER, DISORDER_MS, PARTITIONS, PROBE, TYPES, WINDOW_MS
from schemas.hashing import murmur2, partitions_for
from schemas.texts import Texts

BLOCK_EVENTS = 5_000
BATCH_RECORDS = 1_000
BATCH_ENVELOPES = 4
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


class Key(NamedTuple):
    """What is the same in all events of one key. record_key, partition: of its records. head: what follows the id."""

    record_key: bytes
    partition: int
    head: bytes


class Keys:
    """The keys of inputs, by number. Made once for all inputs of the same names: hashing a million takes its time.

    by_subject: records are keyed by the subject alone, as our client does, instead of by `subject/type`.
    """

    def __init__(self, names: Sequence[str], *, by_subject: bool = False) -> None:
        self.names = names
        self._record_keys = [(n.rpartition("/")[0] if by_subject else n).encode() for n in names]
        self._partitions = partitions_for(Texts.of(self._record_keys), PARTITIONS).tolist()
        self._known: dict[int, Key] = {}

    def __getitem__(self, number: int) -> Key:
        known = self._known.get(number)
        if known is None:
            subject, _, kind = self.names[number].rpartition("/")
            record_key, partition = self._record_keys[number], self._partitions[number]
            known = self._known[number] = Key(record_key, partition, _event_head(subject, kind))
        return known


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
    closes: its windows are few enough to be closed and told one by one, not only to be added up.
    """

    title: str
    names: Sequence[str]
    blocks: list[Block]
    end_ms: int
    opening: int = 0
    closes: bool = True

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
    return _drawn([rank**-ZIPF for rank in range(1, keys + 1)], events, begin_ms, seed, live=live)


def uniform(keys: int, events: int, begin_ms: int, seed: int) -> Iterator[Draw]:
    """The same with every key as often as any other; before them one event of every key."""
    return _drawn([1.0] * keys, events, begin_ms, seed, live=True)


def new_keys(events: int, begin_ms: int, seed: int) -> Iterator[Draw]:
    """Every event is the only one of its key."""
    return _drawn([1.0] * events, 0, begin_ms, seed, live=True)


def _drawn(shares: Sequence[float], events: int, begin_ms: int, seed: int, *, live: bool) -> Iterator[Draw]:
    chance = random.Random(seed)
    keys = len(shares)
    weights = list(accumulate(shares))
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
    keys: Keys,
    draws: Iterator[Draw],
    seed: int,
    *,
    envelopes: bool = False,
    batch_records: int | None = None,
    probes: bool = False,
    opening: int = 0,
    closes: bool = True,
) -> Input:
    """Writes the events into batches, in the order in which they are drawn within each partition.

    envelopes: JSON arrays of events with ids `run-lane-counter`, as `meterline-client` sends them, instead of single
    events with UUIDs. probes: the last event of each batch is one of its partition's probe. opening: so many events are in
    blocks of their own, which come before anything is measured.
    """
    writer = _Envelopes(seed) if envelopes else _Singles(seed)
    blocks: list[Block] = []
    lanes: list[list[tuple[Key, bytes, Draw]]] = [[] for _ in range(PARTITIONS)]
    amounts = [f"{n / 4:g}".encode() for n in range(4_001)]
    seconds: dict[int, bytes] = {}
    size = batch_records or (BATCH_ENVELOPES if envelopes else BATCH_RECORDS)
    size = size * (ENVELOPE_EVENTS if envelopes else 1) - (1 if probes else 0)
    probed = [0] * PARTITIONS
    probe_keys = [_key_of(PROBE, partition) for partition in range(PARTITIONS)]
    block, end_ms, last_ms, opened = Block(), 0, 0, 0

    def cut(partition: int) -> None:
        """What waits for the partition becomes a batch of this block."""
        found = lanes[partition]
        lanes[partition] = []
        texts = []
        for key, text, draw in found:
            texts.append((key, text, len(block.keys)))
            block.keys.append(draw.key)
            block.quarters.append(draw.quarters)
            block.starts.append(draw.time_ms - draw.time_ms % WINDOW_MS)
        if probes:
            key = probe_keys[partition]
            texts.append((key, key.head + _clock(last_ms, seconds) + b'"tokens":1}}', -1))
            probed[partition] += 1
        block.batches.extend(writer.batches(partition, texts, block.retried, probed[partition]))

    def finish() -> None:
        """Nothing waits any more, and the block is whole."""
        nonlocal block
        for partition, lane in enumerate(lanes):
            if lane:
                cut(partition)
        if block.keys:
            blocks.append(block)
            block = Block()

    for number, draw in enumerate(draws, start=1):
        last_ms = draw.time_ms
        end_ms = max(end_ms, last_ms)
        key = keys[draw.key]
        quarters = draw.quarters
        amount = amounts[quarters] if quarters <= 4_000 else f"{quarters / 4:.12g}".encode()
        lane = lanes[key.partition]
        lane.append((key, b'%b%b"tokens":%b}}' % (key.head, _clock(last_ms, seconds), amount), draw))
        if len(lane) >= size:
            cut(key.partition)
            if len(block.keys) >= BLOCK_EVENTS:  # what waits in other lanes is of a later block: no batch is a rest
                blocks.append(block)
                block = Block()
        if number == opening:
            finish()
            opened = len(blocks)
    finish()
    return Input(title, keys.names, blocks, end_ms // WINDOW_MS * WINDOW_MS + WINDOW_MS, opened, closes)


def closers(given: Input) -> list[Batch]:
    """One event per partition whose time is two hours past the end of all windows: for every engine's clock."""
    batches = []
    for partition in range(PARTITIONS):
        key = _key_of(CLOSER, partition)
        text = key.head + _clock(given.end_ms + 2 * WINDOW_MS, {}) + b'"tokens":1}}'
        identity = f"{CLOSER}{partition}-{given.end_ms}".encode()
        batches.append(_batch(partition, [(key.record_key, _START + identity + text)]))
    return batches


def ledger(given: Input, blocks: Sequence[Block], *, retries_count: bool) -> dict[Place, Total]:
    """What the blocks add up to. retries_count: what is sent again is counted again, as by one who does not deduplicate."""
    columns = [np.concatenate(parts) for parts in zip(*(_columns(b, again=retries_count) for b in blocks), strict=True)]
    keys, starts, quarters = columns
    hours, hour = np.unique(starts, return_inverse=True)
    windows, window = np.unique(keys.astype(np.int64) * len(hours) + hour, return_inverse=True)
    counts = np.bincount(window)
    sums = np.bincount(window, quarters)  # as floats, which are exact up to 2^53
    return {
        Place(given.names[place // len(hours)], int(hours[place % len(hours)])): Total(count, Decimal(int(total)) / 4)
        for place, count, total in zip(windows.tolist(), counts.tolist(), sums.tolist(), strict=True)
    }


def _columns(block: Block, *, again: bool) -> list[Any]:
    """Keys, starts and quarters of a block. again: those that are sent again follow."""
    found = [np.array(column) for column in (block.keys, block.starts, block.quarters)]
    return [np.concatenate([column, column[block.retried]]) for column in found] if again and block.retried else found


def partition_of(key: str) -> int:
    """Where a record of this key lies, by Kafka's own rule."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS


def subject_for(prefix: str, partition: int) -> str:
    """The first subject of this prefix whose records lie in this partition."""
    number = 0
    while partition_of(f"{prefix}{number}/{TYPES[0]}") != partition:
        number += 1
    return f"{prefix}{number}"


def _key_of(prefix: str, partition: int) -> Key:
    subject = subject_for(prefix, partition)
    return Key(f"{subject}/{TYPES[0]}".encode(), partition, _event_head(subject, TYPES[0]))


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
        self, partition: int, events: list[tuple[Key, bytes, int]], retried: list[int], probe: int
    ) -> list[Batch]:
        digits = self._chance.randbytes(16 * len(events)).hex()
        records = []
        for number, (key, text, place) in enumerate(events):
            at = 32 * number
            name = digits[at : at + 32]
            identity = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-a{name[17:20]}-{name[20:]}"
            value = _START + identity.encode() + text
            records.append((key.record_key, value))
            self._records += 1
            if self._records % RETRY_EVERY == 0 and place >= 0:
                retried.append(place)
                records.append((key.record_key, value))
        return [_batch(partition, records, probe)]


class _Envelopes:
    """JSON arrays of events whose ids are `run-lane-counter`, one lane per partition."""

    def __init__(self, seed: int) -> None:
        self._run = f"{random.Random(~seed).getrandbits(64):016x}"
        self._counters = [0] * PARTITIONS
        self._envelopes = 0

    def batches(
        self, partition: int, events: list[tuple[Key, bytes, int]], retried: list[int], probe: int
    ) -> list[Batch]:
        records = []
        for first in range(0, len(events), ENVELOPE_EVENTS):
            part = events[first : first + ENVELOPE_EVENTS]
            texts = []
            for _, text, _ in part:
                self._counters[partition] += 1
                texts.append(b"%b%b-%d-%d%b" % (_START, self._run.encode(), partition, self._counters[partition], text))
            record = part[0][0].record_key, b"[" + b",".join(texts) + b"]"
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
