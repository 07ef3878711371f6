"""One fate for every event of a batch, and the fold of those that count (design §4), batch by batch and column by column.

What an event is (malformed, unmatched, invalid, or measured) depends on its bytes alone; what becomes of a measured one
depends on the watermark and the ids known before it. So all of them are measured first, then judged in their order at once:
the watermark before each is the highest time up to there, whatever became of those between (only the future, and what is too
late, which lies behind it, raise nothing). Then those that count are folded per window and meter. Batch boundaries mean
nothing: record by record comes to the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from schemas.columns import Columns, columns, readable, shaped
from schemas.deadletters import DeadLetter
from schemas.definitions import Definitions
from schemas.errors import DataError
from schemas.events import TICK_TYPE, Malformed, RawEvent, decode, is_binary
from schemas.ids import Ids, Words, ids_of
from schemas.partials import NEVER
from schemas.plain import decode_plain
from schemas.reader import LAST_MS, Measured, Reader
from schemas.records import PackedRecords, Record
from schemas.shapes import Matched, Shape, Shapes
from schemas.times import parse_rfc3339
from schemas.written import Flags, Integers
from streams.folding import Folding
from tables.metering import MeteringTable

ROUTED = ("x-opt-partition-key", "meterline-routed")
"""Headers that stand for a key where AMQP has none: Event Hubs' own, and our sender's, which chooses the partition."""

SLICE_RECORDS, SLICE_BYTES = 4096, 1_000_000
"""What is judged together, at most, and folded before the event loop gets a turn; batch boundaries mean nothing.

Less costs more for each; more leaves the processor's caches, and then what words can sum (`folding.MOST`).
"""


class _Measured(NamedTuple):
    """An event that was measured by itself. number: of its record in the slice."""

    number: int
    event: RawEvent
    measured: Measured


class _Tick(NamedTuple):
    """A tick that is believed. number: of its record in the slice; place: in its envelope."""

    number: int
    place: int
    time_ms: int


class _Block(NamedTuple):
    """Events of one type that were measured together. records, places: of each its record in the slice, and its place in it."""

    read: Columns
    records: Integers
    places: Integers


@dataclass(slots=True)
class _Slice:
    """What a slice of records was found to be. keyless: of each record, whether it has no key; None where all have one."""

    records: PackedRecords
    keyless: Flags | None
    blocks: list[_Block] = field(default_factory=list)
    single: list[_Measured] = field(default_factory=list)
    ticks: list[_Tick] = field(default_factory=list)
    letters: list[tuple[int, int, DeadLetter]] = field(default_factory=list)
    decoded: dict[int, list[RawEvent | Malformed]] = field(default_factory=dict)

    def is_keyless(self, number: int) -> bool:
        """Whether a record has no key."""
        return self.keyless is not None and bool(self.keyless[number])

    def exactly(self, number: int) -> list[RawEvent | Malformed]:
        """The events of a record, one by one."""
        if number not in self.decoded:
            record = self.records[number]
            self.decoded[number] = decode(record.value, record.headers)
        return self.decoded[number]


class _Judged(NamedTuple):
    """Measured events in their order, ticks among them. kind: the number of its block, _SINGLE or _TICK; at: where in it.

    before_ms: the watermark before each; after_ms: the one behind all of them. future: events too far ahead of their
    records. record, place: the number of each one's record in the slice, and its place in the envelope.
    """

    kind: Integers
    at: Integers
    times_ms: Integers
    recorded_ms: Integers
    before_ms: Integers
    after_ms: int
    future: Flags
    record: Integers
    place: Integers


_SINGLE, _TICK = -1, -2


class Counting:
    """Counts the events of one source partition into its table.

    targets: M, how many partitions the partials topic has.
    """

    def __init__(
        self, definitions: Definitions, topic: str, partition: int, targets: int, table: MeteringTable
    ) -> None:
        self.table = table
        self._stream = definitions.stream
        self._reader = Reader(definitions)
        self._topic = topic
        self._partition = partition
        self._folding = Folding(table, targets)
        self._shapes = Shapes()

    def count(self, records: PackedRecords) -> list[DeadLetter]:
        """Counts the events of records, which follow one another. Returns the dead letters, in order."""
        letters: list[DeadLetter] = []
        for part in records.parts(SLICE_RECORDS, SLICE_BYTES):
            try:
                letters += self._count(part)
            except Exception:
                self.table.position = self._at_fault(part)
                raise
            self.table.position = part.end
        return letters

    def _at_fault(self, records: PackedRecords) -> int:
        """The offset of the record that cannot be counted, as near as it can be told; the state is lost anyway."""
        for record in records:
            try:
                self._read(PackedRecords.of([record]))
            except Exception:
                return record.offset
        return int(records.offset_column[0])

    def _count(self, records: PackedRecords) -> list[DeadLetter]:
        found = self._read(records)
        if found.blocks or found.single:
            judged = self._order(found)
            if judged is not None:
                self._judge(found, judged)
        elif found.ticks:
            self.table.raise_watermark(max(tick.time_ms for tick in found.ticks))
        found.letters.sort(key=lambda letter: letter[:2])
        return [letter for _, _, letter in found.letters]

    # -- what each event is

    def _read(self, records: PackedRecords) -> _Slice:
        found = _Slice(records, self._keyless(records))
        headers = records.headers
        plain = None if headers is None else np.array([not is_binary(held) for held in headers])
        matched, left = self._shapes.split(records.texts, plain)
        types = [(events.shape, events.told_apart(events.shape.attributes["type"])) for events in matched]
        odd = [m.records for shape, named in types for name, m in named.items() if not self._readable(name, shape)]
        others = np.unique(np.concatenate([np.array(left, np.int64), *odd]))
        for _, named in types:
            for name, events in named.items():
                self._shaped(found, name, events.only(~np.isin(events.records, others)) if len(others) else events)
        if len(others):
            self._decoded(found, others.tolist(), plain)
        return found

    def _readable(self, event_type: str, shape: Shape) -> bool:
        """Whether events of this type and shape can be read together; if not, neither is what shares their records."""
        plan = self._reader.plan(event_type)
        return event_type != TICK_TYPE and (plan is None or readable(plan, shape))

    def _shaped(self, found: _Slice, event_type: str, events: Matched) -> None:
        """Events of one shape and type."""
        if not len(events.records):
            return
        self._note(found, events.records)
        plan = self._reader.plan(event_type)
        if plan is None:
            self.table.ledger.unmatched += len(events.records)
        else:
            self._block(found, shaped(plan, events), events.records, events.places)

    def _decoded(self, found: _Slice, numbers: list[int], plain: Flags | None) -> None:
        """Records that have no shape: together where they are plain, else one by one."""
        texts, nulls = found.records.texts, found.records.nulls
        values = [None if nulls[number] else texts.text(number) for number in numbers]
        events, odd = decode_plain(values, None if plain is None else plain[numbers].tolist())
        for at in odd:
            for event in found.exactly(numbers[at]):
                self._single(found, numbers[at], event)
        places: dict[str, list[int]] = {}
        for at, decoded in enumerate(events.events):
            places.setdefault(decoded.type, []).append(at)
        for kind, rows in places.items():
            records = np.array(numbers)[[events.records[at] for at in rows]]
            indexes = np.array([events.indexes[at] for at in rows])
            plan = self._reader.plan(kind)
            if plan is not None:
                self._note(found, records)
                self._block(found, columns(plan, [events.events[at] for at in rows]), records, indexes)
            elif kind == TICK_TYPE:
                for number, index in zip(records.tolist(), indexes.tolist(), strict=True):
                    self._single(found, number, found.exactly(number)[index])
            else:
                self._note(found, records)
                self.table.ledger.unmatched += len(rows)

    def _note(self, found: _Slice, records: Integers) -> None:
        """So many events are read."""
        ledger = self.table.ledger
        ledger.read += len(records)
        if found.keyless is not None:
            ledger.keyless += int(found.keyless[records].sum())

    def _block(self, found: _Slice, read: Columns, records: Integers, places: Integers) -> None:
        """Events that were measured together; the odd ones among them are read by themselves."""
        if not read.odd:
            found.blocks.append(_Block(read, records, places))
            return
        ledger = self.table.ledger
        odd = sorted(read.odd)
        ledger.read -= len(odd)
        for number, place in zip(records[odd].tolist(), places[odd].tolist(), strict=True):
            ledger.keyless -= found.is_keyless(number)
            self._single(found, number, found.exactly(number)[place])
        found.blocks.append(_Block(read, records, places))

    def _single(self, found: _Slice, number: int, event: RawEvent | Malformed) -> None:
        """One event by itself: its fate, or what it measures."""
        ledger = self.table.ledger
        record = found.records[number]
        if type(event) is RawEvent and event.type == TICK_TYPE:
            self._tick(found, number, event, record)
            return
        ledger.read += 1
        ledger.keyless += found.is_keyless(number)
        if type(event) is Malformed:
            self._dead(found, number, "malformed", event.reason, event)
            return
        assert type(event) is RawEvent
        if not self._reader.matches(event.type):
            ledger.unmatched += 1
            return
        try:
            found.single.append(_Measured(number, event, self._reader.measure(event)))
        except DataError as error:
            self._dead(found, number, "invalid", error.detail, event)

    def _tick(self, found: _Slice, number: int, event: RawEvent, record: Record) -> None:
        ledger = self.table.ledger
        try:
            time_ms = parse_rfc3339(event.time or "")
        except ValueError:
            ledger.ticks_refused += 1
            return
        limit_ms = record.timestamp_ms + self._stream.future_tolerance_ms
        if not 0 <= time_ms <= limit_ms:  # before 1970 no event is valid, and in year 0 no document can say it
            ledger.ticks_refused += 1
            return
        ledger.ticks += 1
        found.ticks.append(_Tick(number, event.index, time_ms))

    def _keyless(self, records: PackedRecords) -> Flags | None:
        """Which records have no key, and nothing that stands for one."""
        if not records.keyless.any():
            return None
        keyless = records.keyless.copy()
        if records.headers is not None:
            for number in np.flatnonzero(keyless).tolist():
                keyless[number] = not any(name in ROUTED for name, _ in records.headers[number])
        return keyless

    # -- what becomes of each

    def _order(self, found: _Slice) -> _Judged | None:
        """Everything that has a time, in the log's order, each with the watermark before it."""
        kind: list[Integers] = []
        at: list[Integers] = []
        times: list[Integers] = []
        records: list[Integers] = []
        places: list[Integers] = []
        for number, (read, record, place) in enumerate(found.blocks):
            good = _without(len(record), read.odd)
            kind.append(np.full(len(good), number))
            at.append(good)
            times.append(read.times_ms[good])
            records.append(record[good])
            places.append(place[good])
        if found.single:
            kind.append(np.full(len(found.single), _SINGLE))
            at.append(np.arange(len(found.single)))
            times.append(np.array([one.measured.time_ms for one in found.single], np.int64))
            records.append(np.array([one.number for one in found.single], np.int64))
            places.append(np.array([one.event.index for one in found.single], np.int64))
        if found.ticks:
            kind.append(np.full(len(found.ticks), _TICK))
            at.append(np.arange(len(found.ticks)))
            times.append(np.array([tick.time_ms for tick in found.ticks], np.int64))
            records.append(np.array([tick.number for tick in found.ticks], np.int64))
            places.append(np.array([tick.place for tick in found.ticks], np.int64))
        if not kind or not sum(map(len, kind)):
            return None
        record = np.concatenate(records)
        place = np.concatenate(places)
        kinds, where, times_ms = np.concatenate(kind), np.concatenate(at), np.concatenate(times)
        if len(kind) > 1:
            order = np.lexsort((place, record))
            record, place = record[order], place[order]
            kinds, where, times_ms = kinds[order], where[order], times_ms[order]
        recorded_ms = np.clip(found.records.timestamp_column[record], NEVER, LAST_MS)  # whatever a producer put there
        is_tick = kinds == _TICK
        future = ~is_tick & (times_ms > recorded_ms + self._stream.future_tolerance_ms)
        raised = np.where(is_tick, times_ms, np.minimum(times_ms, recorded_ms))
        raised[future] = NEVER
        marks = np.maximum.accumulate(np.concatenate(([self.table.watermark_ms], raised)))
        return _Judged(kinds, where, times_ms, recorded_ms, marks[:-1], int(marks[-1]), future, record, place)

    def _judge(self, found: _Slice, judged: _Judged) -> None:
        """The future, the too late, duplicates, and the counted: those are folded."""
        table, stream, ledger = self.table, self._stream, self.table.ledger
        events, future = judged.kind != _TICK, judged.future
        too_late = events & ~future & (judged.times_ms < judged.before_ms - stream.correct_for_ms)
        for at in np.flatnonzero(future | too_late).tolist():
            self._out_of_time(found, judged, at, "future" if future[at] else "too_late")
        chosen = np.flatnonzero(events & ~future & ~too_late)
        if len(chosen):
            ids = _ids(found, judged, chosen)
            duplicate = table.ids.count(ids, judged.times_ms[chosen], judged.before_ms[chosen])
            counted, words = chosen, ids.words
            if duplicate.any():
                ledger.duplicate += int(duplicate.sum())
                counted, words = chosen[~duplicate], words[:, ~duplicate]
            ledger.counted += len(counted)
            self._fold(found, judged, counted, words)
        table.raise_watermark(judged.after_ms)

    def _out_of_time(self, found: _Slice, judged: _Judged, at: int, reason: str) -> None:
        number = int(judged.record[at])
        event = found.exactly(number)[int(judged.place[at])]
        assert isinstance(event, RawEvent)
        if reason == "future":
            by_s, what = (judged.times_ms[at] - judged.recorded_ms[at]) / 1000, "ahead of its record"
        else:
            by_s, what = (judged.before_ms[at] - judged.times_ms[at]) / 1000, "behind the watermark"
        self._dead(found, number, reason, f"time {event.time} is {by_s:.0f} s {what}", event)

    def _dead(self, found: _Slice, number: int, reason: str, detail: str, event: RawEvent | Malformed) -> None:
        self.table.ledger.dead(reason)
        record = found.records[number]
        known = event if isinstance(event, RawEvent) else None
        letter = DeadLetter(
            reason=reason,
            detail=detail,
            topic=self._topic,
            partition=self._partition,
            offset=record.offset,
            index=event.index,
            recorded_ms=record.timestamp_ms,
            original=event.raw,
            event_id=known.id if known else None,
            event_source=known.source if known else None,
            event_type=known.type if known else None,
            headers=tuple(record.headers),
        )
        found.letters.append((number, event.index, letter))

    def _fold(self, found: _Slice, judged: _Judged, counted: Integers, words: Words) -> None:
        """Folds the counted events. words: of their ids, in the same order."""
        offsets = found.records.offset_column[judged.record[counted]]
        at, places, before_ms = judged.at[counted], judged.place[counted], judged.before_ms[counted]
        kind = judged.kind[counted]
        for number, block in enumerate(found.blocks):
            mine = np.flatnonzero(kind == number)
            if len(mine):
                self._folding.columns(
                    block.read, at[mine], offsets[mine], places[mine], before_ms[mine], words[:, mine]
                )
        for n in np.flatnonzero(kind == _SINGLE).tolist():
            digest = (int(words[0, n]) << 64) + int(words[1, n])
            measured = found.single[int(at[n])].measured
            self._folding.single(measured, int(offsets[n]), int(places[n]), int(before_ms[n]), digest)


def _ids(found: _Slice, judged: _Judged, chosen: Integers) -> Ids:
    """The ids of chosen events, in their order."""
    kinds, at = judged.kind[chosen], judged.at[chosen]
    parts, rows = [], []
    for number, (read, _, _) in enumerate(found.blocks):
        mine = np.flatnonzero(kinds == number)
        if len(mine):
            there = at[mine]
            parts.append(ids_of(read.ids.only(there), read.sources.codes[there], read.sources.names))
            rows.append(mine)
    mine = np.flatnonzero(kinds == _SINGLE)
    if len(mine):
        events = [found.single[n].event for n in at[mine].tolist()]
        parts.append(Ids.of([(event.source, event.id) for event in events]))
        rows.append(mine)
    ids = Ids.joined(parts)
    return ids if len(parts) == 1 else ids.only(np.argsort(np.concatenate(rows)))


def _without(count: int, odd: set[int]) -> Integers:
    if not odd:
        return np.arange(count)
    keep = np.ones(count, bool)
    keep[list(odd)] = False
    return np.flatnonzero(keep)
