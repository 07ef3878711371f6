"""METERING: one source partition's records in, one fate per event, partials and watermarks out (design §1, §4).

`step` folds a batch and is pure; `emit` and `checkpoint` are procedures of effects (`tables/effects.py`). Their order:

emit
  1. dead letters and changed partials, all acknowledged
  2. then the watermarks that cover them (a watermark is sent only after the partials it covers, design §2.5)

checkpoint
  1. emit
  2. chunks, acknowledged; commit (`tables/durable.py`)
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import partials as wire
from schemas.deadletters import DeadLetter
from schemas.definitions import Definitions
from schemas.errors import DataError, PartitionStopped
from schemas.events import TICK_TYPE, Malformed, RawEvent, decode, event_id_digest
from schemas.hashing import partition_for
from schemas.partials import NEVER, Partial, Watermark
from schemas.reader import Reader
from schemas.records import Batch, Out, Record
from schemas.times import parse_rfc3339
from schemas.windows import WindowKey
from tables.durable import Durable
from tables.effects import Procedure, Produce
from tables.metering import MeteringTable


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics METERING writes to, and of its source."""

    usage: str
    partials: str
    dead_letters: str


ROUTED = ("x-opt-partition-key", "meterline-routed")
"""Headers that stand for a key where AMQP has none: Event Hubs' own, and our sender's, which chooses the partition."""


class Metering:
    """One source partition: its table, the step over it, and what leaves.

    targets: M, how many partitions the partials topic has. Dead letters of a step wait in `dead_letters` until the next
    emit has them acknowledged.
    """

    def __init__(
        self,
        definitions: Definitions,
        topics: Topics,
        partition: int,
        targets: int,
        durable: Durable,
        table: MeteringTable,
    ) -> None:
        self.definitions = definitions
        self.table = table
        self.durable = durable
        self.dead_letters: list[DeadLetter] = []
        self._topics = topics
        self._partition = partition
        self._targets = targets
        self._reader = Reader(definitions)
        self._sent: list[Watermark | None] = [None] * targets

    def recover(self) -> Procedure[None]:
        """Restores the table. Raises PartitionStopped where it was counted for another number of targets."""
        yield from self.durable.recover()
        self.restored()

    def restored(self) -> None:
        """What follows a restored table: it must belong to this many targets."""
        found = len(self.table.folds)
        if found != self._targets:
            raise PartitionStopped(
                self._topics.usage,
                self._partition,
                f"its state sent to {found} partitions of {self._topics.partials}, which has {self._targets} now",
                hint="partition counts never change in place: use a new METERLINE_APP_ID with new topics",
                way="another-number-of-partitions",
            )

    def step(self, batch: Batch) -> None:
        """Folds the records of one batch that are not folded yet. A batch that leaves a gap is the caller's to refuse."""
        table = self.table
        for record in batch.unread(table.position):
            self._fold(record)
            table.position = record.offset + 1
        table.position = max(table.position, batch.end)
        assert table.ledger.balanced, "every event read met exactly one fate (design §4)"

    def emit(self, *, everywhere: bool = True) -> Procedure[None]:
        """Sends what changed since the last emit: dead letters and partials, then watermarks.

        everywhere: watermarks also to targets that got no partials in this emit, where theirs has moved.
        """
        letters, self.dead_letters = self.dead_letters, []
        records = [
            Out(self._topics.dead_letters, 0, letter.key.encode(), value)
            for letter in letters
            for value in letter.records()
        ]
        by_target: list[list[Partial]] = [[] for _ in range(self._targets)]
        for key, partial in self.table.take_dirty():
            target = partition_for(key.subject, self._targets)
            members = b"".join(sorted(partial.fresh_members))
            by_target[target].append(Partial(*key, partial.version, partial.share.contribution(), members))
        for target, items in enumerate(by_target):
            key_bytes = b"%d" % self._partition
            records += [
                Out(self._topics.partials, target, key_bytes, value)
                for value in wire.pack(self._partition, items, self.durable.limits.record)
            ]
        if records:
            yield Produce(records)
        marks = [(t, mark) for t, mark in self._watermarks() if everywhere or by_target[t]]
        if marks:
            yield Produce([Out(self._topics.partials, t, b"%d" % self._partition, wire.encode(m)) for t, m in marks])
            for target, mark in marks:
                self._sent[target] = mark

    def checkpoint(self, *, snapshot_due: bool = False) -> Procedure[bool]:
        """Emits, then makes the state durable. True if a checkpoint was written."""
        yield from self.emit()
        written = yield from self.durable.checkpoint(snapshot_due=snapshot_due)
        if written:
            self.table.accepted()
        return written

    def tick_due(self, now_ms: int, log_end: int | None) -> int | None:
        """The time of a tick that the partition's owner should append now, ms; None while it should not.

        now_ms: the wall clock. log_end: the partition's end as the last fetch saw it, None before any. Only an owner that
        has read to the end may say that nothing older is to be expected, or a backlog would be called late (design §3).
        """
        max_delay_ms = self.definitions.stream.max_delay_ms
        if max_delay_ms is None or self.table.position != log_end:
            return None
        time_ms = now_ms - max_delay_ms
        return time_ms if time_ms > self.table.watermark_ms else None

    def _watermarks(self) -> list[tuple[int, Watermark]]:
        table = self.table
        if table.position == 0 and table.watermark_ms == NEVER:
            return []
        marks = []
        for target in range(self._targets):
            mark = Watermark(self._partition, table.watermark_ms, table.position - 1, table.folds[target])
            if mark != self._sent[target]:
                marks.append((target, mark))
        return marks

    def _fold(self, record: Record) -> None:
        events = decode(record.value, record.headers)
        keyless = record.key is None and not any(name in ROUTED for name, _ in record.headers)
        for event in events:
            if type(event) is RawEvent and event.type == TICK_TYPE:
                self._tick(event, record)
                continue
            ledger = self.table.ledger
            ledger.read += 1
            if keyless:
                ledger.keyless += 1
            if type(event) is Malformed:
                self._dead("malformed", event.reason, record, event)
            else:
                self._judge(event, record)  # type: ignore[arg-type]

    def _tick(self, event: RawEvent, record: Record) -> None:
        ledger = self.table.ledger
        try:
            time_ms = parse_rfc3339(event.time or "")
        except ValueError:
            ledger.ticks_refused += 1
            return
        limit_ms = record.timestamp_ms + self.definitions.stream.future_tolerance_ms
        if not 0 <= time_ms <= limit_ms:  # before 1970 no event is valid, and in year 0 no document can say it
            ledger.ticks_refused += 1
            return
        ledger.ticks += 1
        self.table.raise_watermark(time_ms)

    def _judge(self, event: RawEvent, record: Record) -> None:
        """One event, one fate, in the order of design §4; judged by the watermark before it."""
        table, stream = self.table, self.definitions.stream
        ledger = table.ledger
        if not self._reader.matches(event.type):
            ledger.unmatched += 1
            return
        try:
            measured = self._reader.measure(event)
        except DataError as error:
            self._dead("invalid", error.detail, record, event)
            return
        time_ms, watermark_ms = measured.time_ms, table.watermark_ms
        if time_ms > record.timestamp_ms + stream.future_tolerance_ms:
            ahead_s = (time_ms - record.timestamp_ms) / 1000
            self._dead("future", f"time {event.time} is {ahead_s:.0f} s ahead of its record", record, event)
            return
        if time_ms < watermark_ms - stream.correct_for_ms:
            behind_s = (watermark_ms - time_ms) / 1000
            self._dead("too_late", f"time {event.time} is {behind_s:.0f} s behind the watermark", record, event)
            return
        digest = event_id_digest(event.source, event.id)
        raised_ms = min(time_ms, record.timestamp_ms)
        if table.ids.knows(digest, watermark_ms):
            ledger.duplicate += 1
            table.raise_watermark(raised_ms)
            return
        ledger.counted += 1
        table.ids.add(digest, time_ms)
        subject = measured.subject
        target = partition_for(subject, self._targets)
        number = int.from_bytes(digest, "big")
        place = (time_ms, record.offset, event.index)
        late = False
        for meter, group, quantity, member in measured.measurements:
            for window in meter.windows:
                start_ms = time_ms - time_ms % window.size_ms
                end_ms = start_ms + window.size_ms
                late = late or end_ms + meter.grace_ms <= watermark_ms
                key = WindowKey(subject, meter.slug, group, start_ms, window.size)
                partial = table.partial(key, end_ms, meter.version, record.offset)
                partial.share.fold(meter.aggregation, quantity, number, place)
                if member is not None:
                    table.add_member(key, partial, member)
                table.folds[target] += 1
        ledger.late += late
        table.raise_watermark(raised_ms)

    def _dead(self, reason: str, detail: str, record: Record, event: RawEvent | Malformed) -> None:
        self.table.ledger.dead(reason)
        known = event if isinstance(event, RawEvent) else None
        self.dead_letters.append(
            DeadLetter(
                reason=reason,
                detail=detail,
                topic=self._topics.usage,
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
        )
