"""Checkpoint and recovery of one partition's state (design §2.2, §2.3).

The order, and why:

Checkpoint
  1. (the stage emits through the offset, acknowledged: nothing is checkpointed that was not sent)
  2. produce the chunks: every entry *touched* since the last accepted checkpoint, removals too, and a slice of a snapshot
     where one is rolling; labelled `start` to `end`
  3. all acknowledged: commit `end`. The commit accepts the checkpoint; until then it is nothing
  4. accepted: what waited for durability may be acted on

Recovery
  1. the committed offset C, then the changelog's bounds: a known end, so it cannot hang
  2. the changelog's last record names the newest complete, accepted snapshot; read from there to the end
  3. ignore chunks that reach beyond C (never accepted) or end before the snapshot's source offset (older than it)
  4. whole checkpoints must link, start to end, from the snapshot's offset to exactly C, or the partition stops
  5. per key the highest `end` wins, a removal too; additive kinds are united (`tables/replay.py`)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from schemas import changelog
from schemas.changelog import Chunk, Entry, Label
from schemas.errors import CommitRefused, PartitionStopped
from schemas.partials import RECORD_MAX
from schemas.records import Out
from tables.effects import Commit, Procedure, Produce, ReadBounds, ReadCommitted, ReadLog
from tables.replay import READING, Replay, Restorable, Unreadable
from tables.stops import Stops


class Table(Restorable, Protocol):
    """The state of one partition, as the checkpoint sees it."""

    stage: str
    """Whose state this is: `metering` or `closing`."""

    additive: frozenset[str]
    """Kinds whose entries are pieces to be united, not values to be replaced."""

    packed: frozenset[str]
    """Kinds whose entries are blocks of many keys."""

    block_max: int
    """Bytes that a block may have. Set by whoever makes the table durable."""

    position: int
    """The next source offset to fold."""

    def touched(self) -> list[Entry]:
        """Every entry touched since the last call, in a deterministic order; forgets that it was."""

    def units(self) -> list[Hashable]:
        """What a snapshot consists of now: names for `slice`."""

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        """The entries of one unit as they are now; none where it is gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. record: of one packed record between the stages or in a changelog, at most (design §6).

    slice: how much of a snapshot goes along with one checkpoint. snapshot_min: below this many changelog bytes no snapshot
    is begun.
    """

    record: int = RECORD_MAX
    slice: int = 4_000_000
    snapshot_min: int = 1_000_000


@dataclass(slots=True)
class _Rolling:
    """A snapshot being written: where its first slice begins, the source offset it begins at, and what is left."""

    log_offset: int
    source_offset: int
    rest: list[Hashable]


@dataclass(slots=True)
class Durable:
    """Makes one `Table` durable in one changelog partition.

    writer: unique name of this owner's incarnation.
    """

    table: Table
    source_topic: str
    changelog_topic: str
    partition: int
    partitions: int
    definitions: str
    writer: str
    limits: Limits = Limits()
    on_restored: Callable[[float], None] = lambda _share: None

    accepted: int = field(default=-1, init=False)
    snapshot: tuple[int, int] = field(default=(0, 0), init=False)
    number: int = field(default=0, init=False)
    restored_keys: int = field(default=0, init=False)
    restored_bytes: int = field(default=0, init=False)
    _log_end: int = field(default=0, init=False)
    _since_snapshot: int = field(default=0, init=False)
    _live_bytes: int = field(default=0, init=False)
    _rolling: _Rolling | None = field(default=None, init=False)
    _stops: Stops = field(init=False)

    def __post_init__(self) -> None:
        self._stops = Stops(self.table.stage, self.partition, self.source_topic, self.changelog_topic)
        self.table.block_max = changelog.block_max(self.limits.record)

    def recover(self) -> Procedure[None]:
        """Restores the table at exactly the committed offset; a partition's very first act where there is none.

        Raises PartitionStopped where the logs do not prove the state, DefinitionsDiffer where it was counted otherwise,
        CommitRefused where another owner has committed meanwhile: what looked wrong was read by a zombie.
        """
        committed: int | None = yield ReadCommitted()
        try:
            yield from self._recover(committed)
        except PartitionStopped:
            now: int | None = yield ReadCommitted()
            if now != committed:
                raise CommitRefused(
                    f"{self.source_topic}[{self.partition}] went on from {committed} to {now} while this owner recovered"
                ) from None
            raise

    def _recover(self, committed: int | None) -> Procedure[None]:
        source_begin, source_end = yield ReadBounds(self.source_topic)
        begin, end = yield ReadBounds(self.changelog_topic)
        self._log_end = end
        if committed is None:
            yield from self._first_act(source_begin, begin, end)
            return
        if committed < source_begin:
            raise self._stops.records_removed(committed, source_begin)
        if committed > source_end:
            raise self._stops.log_made_anew(committed, source_end)
        if end == begin:
            raise self._stops.changelog_empty(committed)
        yield from self._replay(committed, begin, end)

    def restore(self, offset: int) -> Procedure[None]:
        """Restores the table at `offset`, whatever group and source log say; for mending. Raises as `recover` does."""
        begin, end = yield ReadBounds(self.changelog_topic)
        self._log_end = end
        yield from self._replay(offset, begin, end)

    def restart(self, offset: int) -> Procedure[None]:
        """The empty table at `offset`, to fold a source log anew; for mending. Writes nothing."""
        _, self._log_end = yield ReadBounds(self.changelog_topic)
        self.table.restored(offset)
        self.accepted = offset

    def rewrite(self) -> Procedure[None]:
        """Writes the whole table as one checkpoint that is its own snapshot, and commits; for mending.

        Its last chunk, written when all others are acknowledged, names it as the snapshot: from then on nothing before it is
        ever read again. Torn, it is nothing: recovery reads what it read before, and stops as it did.
        """
        table, at, log_offset = self.table, self.table.position, self._log_end
        table.touched()
        entries = (entry for unit in table.units() for entry in table.slice(unit))
        values = self._chunks(changelog.split(entries, self.limits.record), at, at, own_snapshot=(log_offset, at))
        portion = max(1, self.limits.slice // self.limits.record)
        places = [*range(0, len(values) - 1, portion), len(values) - 1]
        for first, end in zip(places, [*places[1:], len(values)], strict=True):
            records = [Out(self.changelog_topic, self.partition, None, value) for value in values[first:end]]
            offsets: list[int] = yield Produce(records)
            self._log_end = max(self._log_end, max(offsets) + 1)
        self.snapshot = (log_offset, at)
        yield Commit(at)
        self.accepted = at

    def newest_proven(self) -> Procedure[int | None]:
        """The highest offset to which whole checkpoints lead from the newest snapshot; None where not even that is whole.

        The state there is right whether or not it was ever committed: each link is a function of the log (design §2.1), and
        was written after the emit through its end (§2.2). Raises PartitionStopped where the changelog cannot be read.
        """
        begin, end = yield ReadBounds(self.changelog_topic)
        if begin == end:
            return None
        log_offset, floor = (yield from self._last_chunk(begin, end)).snapshot
        if log_offset < begin:
            return None
        replay = Replay(floor, through=sys.maxsize)
        at = log_offset
        while at < end:
            records: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, at, end)
            if not records:
                break
            for offset, value in records:
                replay.read(offset, self._label(offset, value), len(value))
            at = records[-1][0] + 1
        return max(replay.reached(), default=None)

    def newest_definitions(self) -> Procedure[str | None]:
        """The digest of the definitions that the changelog's last chunk was written with; None where there is none."""
        begin, end = yield ReadBounds(self.changelog_topic)
        return None if begin == end else (yield from self._last_chunk(begin, end)).definitions

    def first_act(self) -> Procedure[int | None]:
        """The source offset at which this partition began, if the changelog still says so; for mending."""
        begin, end = yield ReadBounds(self.changelog_topic)
        if begin > 0 or end == 0:
            return None
        records: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, begin, end)
        offsets = {chunk.start for chunk in (self._decode(*record) for record in records) if chunk.first_act}
        return offsets.pop() if len(offsets) == 1 else None

    def cannot_fold(self, error: Exception) -> PartitionStopped:
        """What it means that the record behind the table's position raised."""
        return self._stops.cannot_fold(self.table.position, error)

    def checkpoint(self, *, snapshot_due: bool = False) -> Procedure[bool]:
        """Makes the table durable at its position. True if something was written, False where nothing had changed.

        snapshot_due: a new snapshot is written in any case, for retention would take the old one of an idle partition.
        """
        table, end = self.table, self.table.position
        assert end >= self.accepted, "a checkpoint never goes back"
        entries = table.touched()
        if not entries and end == self.accepted and self._rolling is None and not snapshot_due:
            return False
        rolling = self._rolling
        if rolling is None and (snapshot_due or self._since_snapshot > max(self._live_bytes, self.limits.snapshot_min)):
            rolling = self._rolling = _Rolling(self._log_end, end, table.units())
            self._live_bytes = 0
        groups = changelog.split(entries, self.limits.record)
        if rolling is not None:
            slices = self._next_slices(rolling)
            self._live_bytes += sum(len(e.key) + len(e.value or b"") for e in slices)
            groups += [group for group in changelog.split(slices, self.limits.record) if group]
        values = self._chunks(groups, self.accepted, end)
        offsets: list[int] = yield Produce([Out(self.changelog_topic, self.partition, None, value) for value in values])
        self._log_end = max(self._log_end, max(offsets) + 1)
        yield Commit(end)
        self.accepted = end
        self._since_snapshot += sum(map(len, values))
        if rolling is not None and not rolling.rest:
            self.snapshot = (rolling.log_offset, rolling.source_offset)
            self._rolling, self._since_snapshot = None, 0
        return True

    def _first_act(self, source_begin: int, begin: int, end: int) -> Procedure[None]:
        at = begin
        while at < end:
            records: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, at, end)
            if not records:
                break
            for offset, value in records:
                if not self._decode(offset, value).first_act:
                    raise self._stops.offset_forgotten()
            at = records[-1][0] + 1
        if begin > 0:
            raise self._stops.changelog_cleared(begin)
        self.snapshot = (end, source_begin)
        self.table.restored(source_begin)
        values = self._chunks([[]], source_begin, source_begin, first_act=True)
        offsets: list[int] = yield Produce([Out(self.changelog_topic, self.partition, None, value) for value in values])
        self._log_end = max(offsets) + 1
        yield Commit(source_begin)
        self.accepted = source_begin

    def _replay(self, committed: int, begin: int, end: int) -> Procedure[None]:
        last = yield from self._last_chunk(begin, end)
        log_offset, floor = last.snapshot
        if floor > committed:
            raise self._stops.offset_moved_back(committed, floor)
        if log_offset < begin:
            raise self._stops.changelog_cut(log_offset, begin)
        replay = Replay(floor, committed)
        at = log_offset
        while at < end:
            records: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, at, end)
            if not records:
                break
            for offset, value in records:
                replay.read(offset, self._label(offset, value), len(value))
            at = records[-1][0] + 1
            self.on_restored(READING * (at - log_offset) / max(1, end - log_offset))
        reached = replay.reached()
        if committed not in reached:
            raise self._stops.unlinked(floor, committed, reached)
        if replay.newest is not None and replay.newest.definitions != self.definitions:
            raise self._stops.other_definitions()
        try:
            yield from replay.build(self.table, lambda share: self.on_restored(READING + (1 - READING) * share))
        except Unreadable as error:
            raise self._stops.foreign_record(error.offset, error) from error
        self.snapshot, self.accepted = (log_offset, floor), committed
        # What was read is a snapshot and what came since. To write a new one for being restored would cost each rebalance
        # the whole state.
        self._since_snapshot, self._live_bytes = max(0, replay.size - replay.live), replay.live
        self.restored_keys, self.restored_bytes = replay.keys, replay.size

    def _last_chunk(self, begin: int, end: int) -> Procedure[Chunk]:
        back = 1
        while True:
            at = max(begin, end - back)
            records: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, at, end)
            while records and records[-1][0] + 1 < end:
                more: list[tuple[int, bytes]] = yield ReadLog(self.changelog_topic, records[-1][0] + 1, end)
                if not more:
                    break
                records = more
            if records:
                return self._decode(*records[-1])
            if at == begin:
                raise self._stops.changelog_unreadable(begin, end)
            back *= 2

    def _next_slices(self, rolling: _Rolling) -> list[Entry]:
        slices: list[Entry] = []
        size = 0
        while rolling.rest and size < self.limits.slice:
            for entry in self.table.slice(rolling.rest.pop()):
                slices.append(entry)
                size += len(entry.key) + len(entry.value or b"")
        return slices

    def _chunks(
        self,
        groups: list[list[Entry]],
        start: int,
        end: int,
        *,
        first_act: bool = False,
        own_snapshot: tuple[int, int] | None = None,
    ) -> list[bytes]:
        """The chunks of a checkpoint. own_snapshot: what the last of them names as the snapshot, if not the one before."""
        self.number += 1
        last = len(groups) - 1
        return [
            changelog.encode(
                Chunk(
                    writer=self.writer,
                    number=self.number,
                    index=index,
                    of=len(groups),
                    start=start,
                    end=end,
                    partitions=self.partitions,
                    definitions=self.definitions,
                    snapshot=own_snapshot if own_snapshot is not None and index == last else self.snapshot,
                    first_act=first_act,
                    entries=list(group),
                )
            )
            for index, group in enumerate(groups)
        ]

    def _decode(self, offset: int, value: bytes) -> Chunk:
        try:
            return changelog.decode(value)
        except msgspec.DecodeError as error:
            raise self._stops.foreign_record(offset, error) from error

    def _label(self, offset: int, value: bytes) -> Label:
        try:
            label = changelog.decode_label(value)
        except msgspec.DecodeError as error:
            raise self._stops.foreign_record(offset, error) from error
        if label.partitions != self.partitions:
            raise self._stops.other_partition_count(label.partitions, self.partitions)
        return label
