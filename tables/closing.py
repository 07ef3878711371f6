"""What CLOSING remembers of one partials partition: each source's watermark, the windows, the outbox."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from schemas.changelog import Entry
from schemas.partials import MEMBER_BYTES, NEVER, Contribution, Partial, Watermark
from schemas.windows import WindowKey, decode_key, encode_key
from tables.aggregates import events_and_digest
from tables.gaps import Gap
from tables.metering import member_pieces, split_members
from tables.outbox import Outbox
from tables.timetable import Timetable


class SourceState(msgspec.Struct, array_like=True):
    """What is known of one source partition.

    watermark_ms, through, folds: joined from its watermarks, the newest by `through`, the watermark by maximum.
    partial_through: highest `through` of a joined partial. joined: folds joined so far, to compare with `folds`.
    imbalance: the difference that was last told as an alarm.
    """

    watermark_ms: int = NEVER
    through: int = -1
    partial_through: int = -1
    folds: int = 0
    joined: int = 0
    imbalance: int = 0


class WindowState(msgspec.Struct, array_like=True, gc=False):
    """One window: a share per source partition, and what was last said about it.

    revision: the last one, 0 while open. revised_at_ms: the joined watermark then. said_…: what the last revision said.
    `ClosingTable.pending` compares with that.
    """

    version: int
    shares: dict[int, Contribution]
    revision: int = 0
    revised_at_ms: int = NEVER
    said_events: int = 0
    said_digest: bytes = b""
    said_value: Decimal | None = None
    said_delta: Decimal | None = None
    said_reason: str = ""
    said_members: int = 0


@dataclass(slots=True)
class Counters:
    """Counts of this partition since the deployment began. alarms: by kind; each is also told as an effect of its step.

    gaps: offsets of the partials log that were passed over.
    """

    windows_opened: int = 0
    windows_closed: int = 0
    windows_sealed: int = 0
    revisions: int = 0
    delivered: dict[str, int] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


_encoder = msgspec.msgpack.Encoder()
_source_decoder = msgspec.msgpack.Decoder(SourceState)
_window_decoder = msgspec.msgpack.Decoder(WindowState)
_counters_decoder = msgspec.msgpack.Decoder(Counters)


class ClosingTable:
    """The state of one partials partition; a function of that partition's log up to `position`, and of what was delivered.

    sources: N, how many partitions the usage topic has. sinks: names of those that get every revision.
    """

    stage = "closing"
    additive = frozenset({"members"})

    def __init__(self, sources: int, correct_for_ms: int, sinks: tuple[str, ...]) -> None:
        self.position = 0
        self.sources = [SourceState() for _ in range(sources)]
        self.windows: dict[WindowKey, WindowState] = {}
        self.members: dict[WindowKey, set[bytes]] = {}
        self.outbox = Outbox(sinks)
        self.counters = Counters()
        self.changed: set[WindowKey] = set()
        self._correct_for_ms = correct_for_ms
        self._closes: Timetable[WindowKey] = Timetable()
        self._seals: Timetable[WindowKey] = Timetable()
        self._touched: set[WindowKey] = set()
        self._touched_sources: set[int] = set()
        self._new_members: dict[WindowKey, set[bytes]] = {}
        self._started_at = -1

    @property
    def windows_open(self) -> int:
        """Windows without a revision yet."""
        return self.counters.windows_opened - self.counters.windows_closed

    @property
    def watermark_ms(self) -> int:
        """The joined watermark: the minimum over all source partitions; NEVER until each has said something."""
        return min(source.watermark_ms for source in self.sources)

    @property
    def gaps(self) -> list[Gap]:
        """Offsets of the partials log that were passed over."""
        return self.counters.gaps

    def pending(self, key: WindowKey) -> bool:
        """Whether something was counted that no revision of this window has said yet.

        Members are looked at too: the many members of one partial come in pieces, and each carries the whole share.
        """
        window = self.windows[key]
        if len(self.members.get(key, ())) != window.said_members:
            return True
        counted = events_and_digest(window.shares)
        return counted[0] + window.said_events > 0 and counted != (window.said_events, window.said_digest)

    def touch(self, key: WindowKey) -> None:
        """The window's state changed."""
        self._touched.add(key)

    def touch_source(self, source: int) -> None:
        """A source's state changed."""
        self._touched_sources.add(source)

    def open(self, key: WindowKey, partial: Partial, end_ms: int, grace_ms: int) -> WindowState:
        """A window that was not there: due to close at end + grace, to be sealed at end + correct_for."""
        window = WindowState(partial.version, {})
        self.windows[key] = window
        self.counters.windows_opened += 1
        self._schedule(key, window, end_ms, grace_ms)
        return window

    def join_members(self, key: WindowKey, members: bytes) -> None:
        """Unites a piece of members."""
        held = self.members.setdefault(key, set())
        for member in split_members(members):
            if member not in held:
                held.add(member)
                self._new_members.setdefault(key, set()).add(member)

    def join_watermark(self, mark: Watermark) -> None:
        """The newest by `through` is believed; a watermark never goes back."""
        source = self.sources[mark.source]
        self.touch_source(mark.source)
        source.watermark_ms = max(source.watermark_ms, mark.watermark_ms)
        if mark.through >= source.through:
            source.through, source.folds = mark.through, mark.folds

    def accept(self, gap: Gap) -> None:
        """The offsets of a gap will never be joined; the state goes on behind it."""
        assert gap.start == self.position < gap.end, "a gap begins where the state ends"
        self.gaps.append(gap)
        self.position = gap.end

    def take_due(self, watermark_ms: int) -> list[WindowKey]:
        """Open windows whose end + grace has passed; each is given once.

        One of which all usage was taken back (a gap in METERING) has nothing to say: it stays open, until there is some.
        """
        due = []
        for time_ms, key in self._closes.take(watermark_ms):
            window = self.windows.get(key)
            if window is not None and window.revision == 0:
                if self.pending(key):
                    due.append(key)
                else:
                    self._closes.add(time_ms, key)
        return due

    def take_sealed(self, watermark_ms: int) -> list[WindowKey]:
        """Windows whose end + correct_for has passed; each is given once."""
        return [key for _, key in self._seals.take(watermark_ms)]

    def remove(self, key: WindowKey) -> None:
        """A sealed window is forgotten. It is never made again (design §2.5)."""
        if self.windows.pop(key).revision == 0:
            self.counters.windows_opened -= 1  # all of its usage was taken back: it never was
        self.members.pop(key, None)
        self._new_members.pop(key, None)
        self.changed.discard(key)
        self.counters.windows_sealed += 1
        self.touch(key)

    def touched(self) -> list[Entry]:
        """See `tables.durable.Table`."""
        outbox = self.outbox.touched()
        if self.position == self._started_at and not self._touched and not outbox:
            return []
        self._started_at = self.position
        keys, self._touched = sorted(self._touched), set()
        sources, self._touched_sources = sorted(self._touched_sources), set()
        members, self._new_members = self._new_members, {}
        entries = [self._counters(), *(self._source(source) for source in sources)]
        entries += [self._entry(key) for key in keys]
        entries += outbox
        for key in sorted(members):
            entries += member_pieces(encode_key(key), members[key])
        return entries

    def units(self) -> list[Hashable]:
        """See `tables.durable.Table`: counters, sources, windows, outbox entries."""
        return [None, *range(len(self.sources)), *self.windows, *self.outbox.units()]

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        """See `tables.durable.Table`."""
        if unit is None:
            return [self._counters()]
        if isinstance(unit, int):
            return [self._source(unit)]
        if isinstance(unit, WindowKey):
            if unit not in self.windows:
                return []
            return [self._entry(unit), *member_pieces(encode_key(unit), self.members.get(unit, ()))]
        assert isinstance(unit, str)
        return self.outbox.slice(unit)

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "counters":
            self.counters = _counters_decoder.decode(value)
        elif kind == "source":
            self.sources[int(key)] = _source_decoder.decode(value)
        elif kind == "window":
            self.windows[decode_key(key)] = _window_decoder.decode(value)
        else:
            self.outbox.restore(kind, key, value)

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        """See `tables.replay.Restorable`."""
        self.members.setdefault(decode_key(key), set()).update(split_members(piece))

    def restored(self, position: int) -> int:
        """See `tables.replay.Restorable`. `schedule_restored` must follow for every window."""
        self.position = self._started_at = position
        self.outbox.restored()
        for key in [key for key in self.members if key not in self.windows]:
            del self.members[key]
        return sum(map(len, self.members.values())) * MEMBER_BYTES

    def schedule_restored(self, key: WindowKey, end_ms: int, grace_ms: int) -> None:
        """Derives from a restored window what is due when."""
        window = self.windows[key]
        self._schedule(key, window, end_ms, grace_ms)
        if window.revision and self.pending(key):
            self.changed.add(key)

    def _schedule(self, key: WindowKey, window: WindowState, end_ms: int, grace_ms: int) -> None:
        if window.revision == 0:
            self._closes.add(end_ms + grace_ms, key)
        self._seals.add(end_ms + self._correct_for_ms, key)

    def _counters(self) -> Entry:
        return Entry("counters", b"", _encoder.encode(self.counters))

    def _source(self, source: int) -> Entry:
        return Entry("source", b"%d" % source, _encoder.encode(self.sources[source]))

    def _entry(self, key: WindowKey) -> Entry:
        window = self.windows.get(key)
        return Entry("window", encode_key(key), None if window is None else _encoder.encode(window))
