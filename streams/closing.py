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

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation

import msgspec
import orjson

from schemas.definitions import Definitions, Meter
from schemas.errors import PartitionStopped
from schemas.numbers import format_quantity
from schemas.partials import NEVER, Partial, Watermark, decode
from schemas.records import Batch, Record
from schemas.windows import Revision, WindowKey, document, receipt, window_id
from tables.aggregates import events_and_digest, value
from tables.closing import ClosingTable, SourceState, WindowState
from tables.durable import Durable
from tables.effects import Procedure, Turn

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
"""Deltas are exact, those of averages too: 20 digits before the point, and at most some 60 after it."""

_SCHEDULED = 1000
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

    `changed` collects the windows whose running total or state moved, for the live feed; `revised` the documents decided;
    `alarms` what a step found wrong. The shell takes them after each step.
    """

    def __init__(
        self, definitions: Definitions, topic: str, partition: int, durable: Durable, table: ClosingTable
    ) -> None:
        self.table = table
        self.durable = durable
        self.changed: dict[WindowKey, None] = {}
        self.revised: list[dict[str, object]] = []
        self.alarms: list[Alarm] = []
        self._topic = topic
        self._partition = partition
        self._stream = definitions.stream
        self._meters: dict[str, Meter] = {meter.slug: meter for meter in definitions.meters}
        self._sizes = {(m.slug, w.size): w.size_ms for m in definitions.meters for w in m.windows}

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
        for number, key in enumerate(list(self.table.windows), start=1):
            self.table.schedule_restored(key, self._end_ms(key), self._meters[key.meter].grace_ms)
            if number % _SCHEDULED == 0:
                yield

    def step(self, batch: Batch) -> None:
        """Folds the records of one batch that are not folded yet. Raises PartitionStopped for a record of somebody else."""
        table = self.table
        for record in batch.unread(table.position):
            self._fold(record)
            table.position = record.offset + 1
        table.position = max(table.position, batch.end)

    def checkpoint(self, *, snapshot_due: bool = False) -> Procedure[bool]:
        """Makes the state durable; then, and only then, its revisions are visible to DELIVERY."""
        written = yield from self.durable.checkpoint(snapshot_due=snapshot_due)
        if written:
            self.table.outbox.accepted()
        return written

    def describe(self, key: WindowKey) -> dict[str, object] | None:
        """A window in memory as its document, with `state` (`open|closed`), the current value, and `pending`."""
        window = self.table.windows.get(key)
        if window is None:
            return None
        watermark_ms = self.table.watermark_ms
        current = self._value(key, window)
        pending = window.revision > 0 and self.table.pending(key)
        if window.revision == 0:
            delta, reason = current, "open"
        elif pending:
            assert window.said_value is not None
            delta, reason = _EXACT.subtract(current, window.said_value), "late"
        else:
            assert window.said_delta is not None
            delta, reason = window.said_delta, window.said_reason
        shown_ms = None if watermark_ms == NEVER else watermark_ms
        return self._document(key, window, current, delta, reason, shown_ms) | {
            "state": "closed" if window.revision else "open",
            "pending": pending,
        }

    def find(self, name: str) -> WindowKey | None:
        """The key of a window in memory by its id, or None."""
        slug = name.partition("~")[0]
        if slug not in self._meters:
            return None
        return next((key for key in self.table.windows if key.meter == slug and window_id(key) == name), None)

    def _fold(self, record: Record) -> None:
        try:
            message = decode(record.value or b"")
        except msgspec.DecodeError as error:
            raise PartitionStopped(
                self._topic,
                self._partition,
                f"record {record.offset} is neither partials nor a watermark ({error})",
                hint="something else writes to this topic: give it to meterline alone; then, with the workers stopped, "
                + self._pass_over(record.offset),
                way="a-foreign-record-among-the-partials",
            ) from None
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
        if not isinstance(message, Watermark):
            for partial in message.items:
                self._join(message.source, partial)
        else:
            self._watermark(message)

    def _join(self, source_number: int, partial: Partial) -> None:
        """Per source the highest `through` holds; members are united, every piece (design §2.5).

        Of two with the same `through` the one of fewer events: that is what was taken back of it (`streams/mending.py`).
        """
        table, key, source = self.table, partial.key, self.table.sources[source_number]
        window = table.windows.get(key)
        if window is None:
            end_ms = self._end_ms(key)
            if table.watermark_ms >= end_ms + self._stream.correct_for_ms:
                if partial.share.through > source.through:
                    self._alarm("partial_of_sealed_window", f"{key.meter} of {key.subject}, source {source_number}")
                return
            window = table.open(key, partial, end_ms, self._meters[key.meter].grace_ms)
        held = window.shares.get(source_number)
        share = partial.share
        if held is None or (share.through, -share.events) > (held.through, -held.events):
            source.joined += partial.share.events - (held.events if held is not None else 0)
            source.partial_through = max(source.partial_through, partial.share.through)
            window.shares[source_number] = partial.share
            table.touch_source(source_number)
        if partial.members:
            table.join_members(key, partial.members)
        table.touch(key)
        self.changed[key] = None
        if window.revision:
            table.changed.add(key)

    def _watermark(self, mark: Watermark) -> None:
        table = self.table
        table.join_watermark(mark)
        source = table.sources[mark.source]
        if mark.through >= source.partial_through and mark.folds - source.joined != source.imbalance:
            source.imbalance = mark.folds - source.joined  # told when it changes, not at every watermark
            if source.imbalance:
                self._alarm("stages_out_of_balance", _imbalance(mark.source, source))
        watermark_ms = table.watermark_ms
        for key in sorted(table.take_due(watermark_ms)):
            self._revise(key, "closed", watermark_ms)
        for key in sorted(table.changed):
            window = table.windows[key]
            if not table.pending(key):
                table.changed.discard(key)
            elif watermark_ms >= window.revised_at_ms + self._stream.revise_every_ms:
                self._revise(key, "late", watermark_ms)
        for key in sorted(table.take_sealed(watermark_ms)):
            if table.pending(key):
                self._revise(key, "seal", watermark_ms)
            table.remove(key)
            self.changed[key] = None

    def _revise(self, key: WindowKey, reason: str, watermark_ms: int) -> None:
        table = self.table
        window = table.windows[key]
        current = self._value(key, window)
        delta = current if window.said_value is None else _EXACT.subtract(current, window.said_value)
        window.revision += 1
        window.revised_at_ms = watermark_ms
        window.said_events, window.said_digest = events_and_digest(window.shares)
        window.said_members = len(table.members.get(key, ()))
        window.said_value, window.said_delta, window.said_reason = current, delta, reason
        body = self._document(key, window, current, delta, reason, watermark_ms)
        table.counters.revisions += 1
        revision = Revision(str(body["id"]), window.revision, key.subject, orjson.dumps(body))
        table.outbox.put(revision, table.counters.revisions)
        table.counters.windows_closed += window.revision == 1
        table.changed.discard(key)
        table.touch(key)
        self.changed[key] = None
        self.revised.append(body)

    def _value(self, key: WindowKey, window: WindowState) -> Decimal:
        return value(self._meters[key.meter].aggregation, window.shares, len(self.table.members.get(key, ())))

    def _document(
        self,
        key: WindowKey,
        window: WindowState,
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
            revision=window.revision,
            value=format_quantity(current),
            delta=format_quantity(delta),
            events=events,
            reason=reason,
            receipt=receipt(
                window.shares, watermark_ms=watermark_ms, version=window.version, events=events, digest=digest
            ),
        )

    def _end_ms(self, key: WindowKey) -> int:
        size_ms = self._sizes.get((key.meter, key.size))
        if size_ms is None:
            raise PartitionStopped(
                self._topic,
                self._partition,
                f"a partial belongs to meter {key.meter!r} with windows of {key.size}, which the meters file does not have",
                hint="start every worker with the meters file the deployment began with. If another deployment wrote it, keep "
                "that one away; then, with the workers stopped, " + self._pass_over(self.table.position),
                way="a-foreign-record-among-the-partials",
            )
        return key.start_ms + size_ms

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
