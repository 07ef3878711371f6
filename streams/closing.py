"""CLOSING: partials joined into running totals, windows closed, revised and sealed by the watermark (design §1, §3).

`step` folds a batch and is pure. A window's life, decided at watermark records only:

=========  ==================================================================================================
open       a partial came; provisional
closed     joined watermark >= end + grace: revision 1
revised    something was counted since, and the watermark moved on by `revise_every`: revision n + 1, its delta
sealed     watermark >= end + correct_for: what is pending leaves as a last revision, then the window is forgotten
=========  ==================================================================================================

Revisions go to the outbox; they leave only when the checkpoint that carries them is accepted (design §2.6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation

import msgspec
import numpy as np

from schemas.compact import compact
from schemas.definitions import Definitions, Meter
from schemas.errors import PartitionStopped
from schemas.numbers import format_quantity
from schemas.partials import NEVER, PartialRows, Watermark, decode
from schemas.records import Batch, Record
from schemas.texts import Places, Texts
from schemas.windows import (
    Revision,
    WindowKey,
    decode_key,
    document,
    encode_key,
    foreign_key,
    id_beginning,
    receipt,
    window_id,
)
from tables.aggregates import events_and_digest, value
from tables.calendar import Calendar, Ends, Unknown
from tables.closing import ClosingTable, SourceState, rows_of
from tables.durable import Durable
from tables.effects import Procedure, Turn
from tables.windows import WindowState

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
"""Deltas are exact, those of averages too: 20 digits before the point, and at most some 60 after it."""

_REVISED = 1_000
"""Revisions that are decided without a turn for others: some 50 ms."""
_SCHEDULED = 20_000
"""Windows of a restored table that are looked at before others have their turn."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that must not happen: what, where, and what to do about it."""

    kind: str
    where: str
    what: str
    hint: str


class Closing:
    """One partials partition: its table and the step over it.

    `revised` collects the documents decided, the last `show` of them (None: all; one watermark may close a million windows),
    `alarms` what a step found wrong; the shell takes them after each step, and with
    `take_changed` the windows whose running total or state moved, for the live feed.
    """

    def __init__(
        self, definitions: Definitions, topic: str, partition: int, durable: Durable, table: ClosingTable,
        show: int | None = None,
    ) -> None:  # fmt: skip
        self.table = table
        self.durable = durable
        self.revised: deque[dict[str, object]] = deque(maxlen=show)
        self.alarms: list[Alarm] = []
        self._topic = topic
        self._partition = partition
        self._stream = definitions.stream
        self._meters: dict[str, Meter] = {meter.slug: meter for meter in definitions.meters}
        self._sizes = {(m.slug, w.size): w.size_ms for m in definitions.meters for w in m.windows}
        self._calendar = Calendar(definitions)
        self._at = 0

    def recover(self) -> Procedure[None]:
        """Restores the table and what is due when; an imbalance that an earlier owner told of is told again."""
        yield from self.durable.recover()
        for _ in self._schedule():
            yield Turn()
        for number, source in enumerate(self.table.sources):
            if source.imbalance:
                self.alarms.append(self._alarm_of("stages_out_of_balance", _imbalance(number, source)))

    def restored(self) -> None:
        """What follows a restored table: what is due when, by the definitions."""
        for _ in self._schedule():
            pass

    def _schedule(self) -> Iterator[None]:
        keys = self.table.joined.keys
        slots = keys.slots()
        for begin in range(0, len(slots), _SCHEDULED):
            portion = slots[begin : begin + _SCHEDULED]
            self.table.schedule_restored(portion, self._ends(keys.texts(portion)))
            yield

    def step(self, batch: Batch) -> None:
        """Folds the records of one batch that are not folded yet. Raises PartitionStopped for a record of somebody else."""
        for _ in self.stepping(batch):
            pass

    def stepping(self, batch: Batch) -> Iterator[None]:
        """The step, in portions: one watermark may close a million windows. Between them others may look, and nothing else.

        No checkpoint and no other batch before its end: the state is that of no offset until then.
        """
        table = self.table
        for record in batch.unread(table.position):
            yield from self._fold(record)
            table.position = record.offset + 1
        table.position = max(table.position, batch.end)

    def checkpoint(self, *, snapshot_due: bool = False) -> Procedure[bool]:
        """Makes the state durable; then, and only then, its revisions are visible to DELIVERY."""
        written = yield from self.durable.checkpoint(snapshot_due=snapshot_due)
        if written:
            self.table.outbox.accepted()
        return written

    @property
    def changed(self) -> list[WindowKey]:
        """Windows that moved since they were last taken."""
        return [self.table.key(slot) for slot in self.table.joined.moved().tolist()]

    def take_changed(self) -> Places:
        """The slots of the windows that moved since the last call, for `describe_slot`."""
        return self.table.joined.take_moved()

    def describe(self, key: WindowKey) -> dict[str, object] | None:
        """A window in memory as its document, with `state` (`open|closed`), the current value, and `pending`."""
        slot = self.table.windows.slot(key)
        return None if slot < 0 else self._describe(slot, key)

    def describe_slot(self, slot: int) -> dict[str, object] | None:
        """The same of the window that has this slot now, if one has."""
        keys = self.table.joined.keys
        return self._describe(slot, self.table.key(slot)) if slot in keys else None

    def _describe(self, slot: int, key: WindowKey) -> dict[str, object]:
        window = self.table.window(slot)
        current = self._value(key, window)
        pending = window.revision > 0 and bool(self.table.pending(np.array([slot]))[0])
        if window.revision == 0:
            delta, reason = current, "open"
        elif pending:
            assert window.said_value is not None
            delta, reason = _EXACT.subtract(current, window.said_value), "late"
        else:
            assert window.said_delta is not None
            delta, reason = window.said_delta, window.said_reason
        # What stands as of a revision has the receipt of its message: the watermark that decided it, not today's.
        as_of_ms = window.revised_at_ms if window.revision and not pending else self.table.watermark_ms
        shown_ms = None if as_of_ms == NEVER else as_of_ms
        return self._document(key, window, window.revision, current, delta, reason, shown_ms) | {
            "state": "closed" if window.revision else "open",
            "pending": pending,
        }

    def find(self, name: str) -> WindowKey | None:
        """The key of a window in memory by its id, or None."""
        if name.partition("~")[0] not in self._meters:
            return None
        return next(
            (key for key in self.table.windows if name.startswith(id_beginning(key)) and window_id(key) == name), None
        )

    def _fold(self, record: Record) -> Iterator[None]:
        self._at = record.offset
        try:
            message = decode(record.value or b"")
        except msgspec.DecodeError as error:
            raise self._foreign(error) from None
        if not 0 <= message.source < len(self.table.sources):
            raise PartitionStopped(
                self._topic,
                self._partition,
                f"record {record.offset} comes from usage partition {message.source}, but usage has "
                f"{len(self.table.sources)} partitions",
                hint="partition counts never change in place. If another deployment wrote it, keep that one away; then, with "
                "the workers stopped, " + self._pass_over(record.offset),
                way="a-foreign-record-among-the-partials",
            )
        if isinstance(message, Watermark):
            yield from self._watermark(message)
        elif isinstance(message, PartialRows):
            words = message.rows.words
            self.table.join(message.source, self._slots(message.source, message.rows.keys, words), words)
        else:
            keys = Texts.of([encode_key(partial.key) for partial in message.items])
            slots = self._slots(message.source, keys, rows_of(message.items))
            self.table.join_objects(message.source, slots, message.items)

    def _slots(self, source: int, keys: Texts, words: Places) -> Places:
        """The windows of partials, made where they are not there; -1 for one that was sealed. words: as `Rows.words`."""
        table = self.table
        slots, _ = table.joined.keys.slots_of(keys, False)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            new, through = keys.only(missing), words[missing, 5]
            ends = self._ends(new)
            sealed = table.watermark_ms >= ends.ends_ms + self._stream.correct_for_ms
            for row in np.flatnonzero(sealed & (through > table.sources[source].through)).tolist():
                key = decode_key(new.text(row))
                self._alarm("partial_of_sealed_window", f"{key.meter} of {key.subject}, source {source}")
            live = missing[~sealed]
            slots[live] = table.open(
                keys.only(live), words[live, 0], Ends(ends.ends_ms[~sealed], ends.closes_ms[~sealed])
            )
        return slots

    def _watermark(self, mark: Watermark) -> Iterator[None]:
        table = self.table
        table.join_watermark(mark)
        source = table.sources[mark.source]
        if mark.through >= source.partial_through and mark.folds - source.joined != source.imbalance:
            source.imbalance = mark.folds - source.joined  # told when it changes, not at every watermark
            if source.imbalance:
                self._alarm("stages_out_of_balance", _imbalance(mark.source, source))
        watermark_ms = table.watermark_ms
        for key, slot in table.in_order(table.take_due(watermark_ms)):
            yield from self._revise(key, slot, "closed", watermark_ms)
        for key, slot in table.in_order(table.take_revisable(watermark_ms, self._stream.revise_every_ms)):
            yield from self._revise(key, slot, "late", watermark_ms)
        sealed = table.take_sealed(watermark_ms)
        if len(sealed):
            for key, slot in table.in_order(sealed[table.pending(sealed)]):
                yield from self._revise(key, slot, "seal", watermark_ms)
            table.remove(sealed)

    def _revise(self, key: WindowKey, slot: int, reason: str, watermark_ms: int) -> Iterator[None]:
        table = self.table
        window = table.window(slot)
        current = self._value(key, window)
        delta = current if window.said_value is None else _EXACT.subtract(current, window.said_value)
        body = self._document(key, window, window.revision + 1, current, delta, reason, watermark_ms)
        table.say(slot, watermark_ms, *events_and_digest(window.shares), current, delta, reason)
        table.counters.revisions += 1
        revision = Revision(str(body["id"]), window.revision + 1, key.subject, compact(body))
        table.outbox.put(revision, table.counters.revisions)
        table.counters.windows_closed += window.revision == 0
        self.revised.append(body)
        if table.counters.revisions % _REVISED == 0:
            yield

    def _value(self, key: WindowKey, window: WindowState) -> Decimal:
        return value(self._meters[key.meter].aggregation, window.shares, len(self.table.members.get(key, ())))

    def _document(
        self,
        key: WindowKey,
        window: WindowState,
        revision: int,
        current: Decimal,
        delta: Decimal,
        reason: str,
        watermark_ms: int | None,
    ) -> dict[str, object]:
        meter = self._meters[key.meter]
        events, digest = events_and_digest(window.shares)
        return document(
            key,
            aggregation=meter.aggregation,
            unit=meter.unit,
            version=window.version,
            end_ms=self._end_ms(key),
            revision=revision,
            value=format_quantity(current),
            delta=format_quantity(delta),
            events=events,
            reason=reason,
            receipt=receipt(
                window.shares, watermark_ms=watermark_ms, version=window.version, events=events, digest=digest
            ),
        )

    def _ends(self, keys: Texts) -> Ends:
        try:
            return self._calendar.ends(keys)
        except Unknown as unknown:
            raw = keys.text(unknown.row)
        if foreign_key(raw):
            raise self._foreign("one of its windows has no key")
        key = decode_key(raw)
        raise PartitionStopped(
            self._topic,
            self._partition,
            f"a partial belongs to meter {key.meter!r} with windows of {key.size}, which the meters file does not have",
            hint="start every worker with the meters file the deployment began with. If another deployment wrote it, keep "
            "that one away; then, with the workers stopped, " + self._pass_over(self.table.position),
            way="a-foreign-record-among-the-partials",
        )

    def _foreign(self, why: object) -> PartitionStopped:
        return PartitionStopped(
            self._topic,
            self._partition,
            f"record {self._at} is neither partials nor a watermark ({why})",
            hint="something else writes to this topic: give it to meterline alone; then, with the workers stopped, "
            + self._pass_over(self._at),
            way="a-foreign-record-among-the-partials",
        )

    def _end_ms(self, key: WindowKey) -> int:
        return key.start_ms + self._sizes[key.meter, key.size]

    def _pass_over(self, offset: int) -> str:
        return f"`python app.py mend accept-gap closing {self._partition} --to {offset + 1}`"

    def _alarm(self, kind: str, what: str) -> None:
        alarms = self.table.counters.alarms
        alarms[kind] = alarms.get(kind, 0) + 1
        self.alarms.append(self._alarm_of(kind, what))

    def _alarm_of(self, kind: str, what: str) -> Alarm:
        return Alarm(
            kind,
            f"{self._topic}[{self._partition}]",
            what,
            "totals may be wrong: compare the windows' receipts with the usage log before invoicing",
        )


def _imbalance(number: int, source: SourceState) -> str:
    sent = source.joined + source.imbalance
    return f"usage partition {number} sent {sent} folds, {source.joined} were joined"
