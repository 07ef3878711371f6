"""What CLOSING remembers of one partials partition: each source's watermark, the windows, the outbox."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import numpy as np

from schemas import blocks, changelog
from schemas.changelog import Entry
from schemas.partials import COLUMNS, MEMBER_BYTES, NEVER, Partial, Watermark, decoded
from schemas.texts import Flags, Places, Texts
from schemas.windows import WindowKey, beginning, decode_key, encode_key
from tables.agenda import Agenda
from tables.calendar import Ends
from tables.closing_kernels import ASIDE, REVISED_AT, REVISION, SAID_EVENTS, SAID_HIGH, SAID_LOW, VERSION
from tables.gaps import Gap
from tables.joined import Joined, words_of
from tables.keys import KeyTable
from tables.metering import member_pieces, split_members
from tables.outbox import Outbox
from tables.portions import Portion, gone_entries, portions
from tables.windows import Windows, WindowState


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


class _Said(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a window's last revision said, but for what `Joined` compares with."""

    value: Decimal
    delta: Decimal
    reason: str
    members: int


class _SavedWindow(msgspec.Struct, array_like=True):
    version: int
    revision: int
    revised_at_ms: int
    events: int
    digest: bytes
    said: _Said


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
_window_decoder = msgspec.msgpack.Decoder(_SavedWindow)
_counters_decoder = msgspec.msgpack.Decoder(Counters)


class ClosingTable:
    """The state of one partials partition; a function of that partition's log up to `position`, and of what was delivered.

    sources: N, how many partitions the usage topic has. sinks: names of those that get every revision. Windows are named by
    their slots in `joined.keys`; which slot is whose is nobody else's business, and no decision may depend on it.
    """

    stage = "closing"
    additive = frozenset({"members"})
    packed = frozenset({"shares", "gone"})

    def __init__(self, sources: int, correct_for_ms: int, sinks: tuple[str, ...]) -> None:
        self.position = 0
        self.block_max = changelog.block_max()
        self.sources = [SourceState() for _ in range(sources)]
        self.joined = Joined()
        self.windows = Windows(self)
        self.members: dict[WindowKey, set[bytes]] = {}
        self.outbox = Outbox(sinks)
        self.counters = Counters()
        self._correct_for_ms = correct_for_ms
        self._said: dict[int, _Said] = {}
        self._closes = Agenda()
        self._seals = Agenda()
        self._revisable = Agenda()
        self._silent: set[int] = set()
        self._touched: set[int] = set()
        self._gone: list[bytes] = []
        self._touched_sources: set[int] = set()
        self._new_members: dict[WindowKey, set[bytes]] = {}
        self._started_at = -1
        self._gone_since = KeyTable()

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

    def key(self, slot: int) -> WindowKey:
        """The window that has this slot."""
        return decode_key(self.joined.keys.key(slot))

    def window(self, slot: int) -> WindowState:
        """A window as it is now."""
        words, said = self.joined.windows[slot].tolist(), self._said.get(slot)
        version, shares = words[VERSION], self.joined.of(slot)
        if said is None:
            return WindowState(version, shares)
        return WindowState(
            version, shares, words[REVISION], words[REVISED_AT], words[SAID_EVENTS], digest_of(words), said.value, said.delta,
            said.reason, said.members,
        )  # fmt: skip

    def select(self, subject: str | None = None) -> Iterator[tuple[WindowKey, bool]]:
        """The windows, of one subject or all, and whether each has a revision."""
        keys = self.joined.keys
        slots = keys.slots() if subject is None else keys.beginning(beginning(subject))
        closed = self.joined.windows[slots, REVISION] > 0
        return zip(map(decode_key, keys.texts(slots).tolist()), closed.tolist(), strict=True)

    def in_order(self, slots: Places) -> list[tuple[WindowKey, int]]:
        """Windows in the order of their keys, which is everybody's."""
        return sorted(zip(map(decode_key, self.joined.keys.texts(slots).tolist()), slots.tolist(), strict=True))

    def pending(self, slots: Places) -> Flags:
        """Of which windows something was counted that no revision has said yet.

        Members are looked at too: the many members of one partial come in pieces, and each carries the whole share.
        """
        pending = self.joined.pending(slots)
        if self.members:
            for row, slot in enumerate(slots.tolist()):
                said = self._said.get(slot)
                pending[row] |= len(self.members.get(self.key(slot), ())) != (said.members if said else 0)
        return pending

    def open(self, keys: Texts, versions: Places, ends: Ends) -> Places:
        """The windows of these keys, which were not there: due to close at end + grace, to be sealed at end + correct_for."""
        slots, new = self.joined.open(keys, versions)
        self.counters.windows_opened += int(np.count_nonzero(new))
        self._schedule(slots[new], Ends(ends.ends_ms[new], ends.closes_ms[new]))
        return slots

    def join(self, number: int, slots: Places, values: Places) -> Places:
        """What a source contributes to windows, as rows of `Joined.join`. Of each row its share, -1 where it was not taken."""
        source = self.sources[number]
        taken = self.joined.join(np.full(len(slots), number), slots, values)
        source.joined += taken.events
        source.partial_through = max(source.partial_through, taken.through)
        self.touch_source(number)
        return taken.shares

    def join_objects(self, number: int, slots: Places, partials: list[Partial]) -> None:
        """The same of partials that are objects; their members are united, every piece."""
        values = rows_of(partials)
        taken = self.join(number, slots, values).tolist()
        for slot, share, partial, places in zip(slots.tolist(), taken, partials, values[:, -1].tolist(), strict=True):
            if share >= 0 and places == ASIDE:
                self.joined.put_aside(share, partial.share.amount, partial.share.at)
            if slot >= 0 and partial.members:
                self._join_members(slot, partial)

    def _join_members(self, slot: int, partial: Partial) -> None:
        held = self.members.setdefault(partial.key, set())
        for member in split_members(partial.members):
            if member not in held:
                held.add(member)
                self._new_members.setdefault(partial.key, set()).add(member)
        self.joined.note_moved(slot)
        if self.joined.windows[slot, REVISION]:
            self.joined.note_changed(np.array([slot]))

    def join_watermark(self, mark: Watermark) -> None:
        """The newest by `through` is believed; a watermark never goes back."""
        source = self.sources[mark.source]
        self.touch_source(mark.source)
        source.watermark_ms = max(source.watermark_ms, mark.watermark_ms)
        if mark.through >= source.through:
            source.through, source.folds = mark.through, mark.folds

    def touch_source(self, source: int) -> None:
        """A source's state changed."""
        self._touched_sources.add(source)

    def accept(self, gap: Gap) -> None:
        """The offsets of a gap will never be joined; the state goes on behind it."""
        assert gap.start == self.position < gap.end, "a gap begins where the state ends"
        self.gaps.append(gap)
        self.position = gap.end

    def take_due(self, watermark_ms: int) -> Places:
        """Open windows whose end + grace has passed; each is given once.

        One of which all usage was taken back (a gap in METERING) has nothing to say: it stays open, until there is some.
        """
        due = self._closes.take(watermark_ms)
        if self._silent:
            due = np.append(due, sorted(self._silent))
        pending = self.pending(due)
        self._silent = set(due[~pending].tolist())
        return due[pending]

    def take_revisable(self, watermark_ms: int, every_ms: int) -> Places:
        """Windows that have more to say than their last revision, which is `every_ms` old by now; each is given once."""
        joined = self.joined
        noted = joined.take_changed()
        due_ms = joined.windows[noted, REVISED_AT] + every_ms
        waits = due_ms > watermark_ms
        joined.keep_changed(noted[waits])
        self._revisable.add(due_ms[waits], noted[waits])
        waited = self._revisable.take(watermark_ms)  # a slot may have gone over to another window meanwhile
        waited = joined.still_changed(waited[joined.windows[waited, REVISED_AT] + every_ms <= watermark_ms])
        due = np.append(noted[~waits], waited)
        return due[self.pending(due)]

    def take_sealed(self, watermark_ms: int) -> Places:
        """Windows whose end + correct_for has passed; each is given once."""
        return self._seals.take(watermark_ms)

    def say(
        self, slot: int, revised_at_ms: int, events: int, digest: bytes, current: Decimal, delta: Decimal, reason: str
    ) -> None:
        """A window's next revision, what it says and why."""
        revision = int(self.joined.windows[slot, REVISION]) + 1
        members = len(self.members.get(self.key(slot), ())) if self.members else 0
        self.joined.said(slot, revision, revised_at_ms, events, digest)
        self._said[slot] = _Said(current, delta, reason, members)
        self._touched.add(slot)
        self.joined.note_moved(slot)

    def remove(self, slots: Places) -> None:
        """Sealed windows are forgotten. They are never made again (design §2.5)."""
        joined = self.joined
        never = int(np.count_nonzero(joined.windows[slots, REVISION] == 0))
        self.counters.windows_opened -= never  # all of their usage was taken back: they never were
        self.counters.windows_sealed += len(slots)
        keys = joined.keys.texts(slots).tolist()
        self._gone += keys
        for slot, key in zip(slots.tolist(), keys, strict=True):
            self._said.pop(slot, None)
            self._touched.discard(slot)
            self._silent.discard(slot)
            if self.members:
                self.members.pop(decode_key(key), None)
                self._new_members.pop(decode_key(key), None)
        joined.remove(slots)

    def touched(self) -> list[Entry]:
        """See `tables.durable.Table`."""
        outbox = self.outbox.touched()
        shares = self.joined.take_touched()
        if self.position == self._started_at and not (len(shares) or self._touched or self._gone or outbox):
            return []
        self._started_at = self.position
        said, self._touched = sorted(self._touched), set()
        gone, self._gone = self._gone, []
        sources, self._touched_sources = sorted(self._touched_sources), set()
        members, self._new_members = self._new_members, {}
        entries = [self._counters(), *(self._source(source) for source in sources)]
        entries += gone_entries(gone, self.block_max)
        entries += self.joined.packed(shares, self.block_max)
        entries += [self._entry(slot) for slot in said]
        entries += outbox
        for key in sorted(members):
            entries += member_pieces(encode_key(key), members[key])
        return entries

    def units(self) -> list[Hashable]:
        """See `tables.durable.Table`: counters, sources, shares and what was said by their places, members, outbox entries."""
        shares, said = portions("shares", self.joined.size), portions("said", self.joined.keys.size)
        return [None, *range(len(self.sources)), *shares, *said, *self.members, *self.outbox.units()]

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        """See `tables.durable.Table`."""
        if unit is None:
            return [self._counters()]
        if isinstance(unit, int):
            return [self._source(unit)]
        if isinstance(unit, Portion):
            if unit.kind == "shares":
                return self.joined.packed(self.joined.live(unit.begin, unit.end), self.block_max)
            return [self._entry(slot) for slot in range(unit.begin, unit.end) if slot in self._said]
        if isinstance(unit, WindowKey):
            return member_pieces(encode_key(unit), self.members.get(unit, ()))
        assert isinstance(unit, str)
        return self.outbox.slice(unit)

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "counters":
            self.counters = decoded(_counters_decoder, value)
        elif kind == "source":
            self.sources[int(key)] = decoded(_source_decoder, value)
        elif kind == "window":
            if self._gone_since.slot(key) < 0:
                saved = decoded(_window_decoder, value)
                slot = int(self.joined.open(Texts.of([key]), np.array([saved.version]))[0][0])
                self.joined.said(slot, saved.revision, saved.revised_at_ms, saved.events, saved.digest)
                self._said[slot] = saved.said
        elif kind == "share":
            self.joined.restore_share(key, value, self._gone_since)
        else:
            self.outbox.restore(kind, key, value)

    def restore_block(self, kind: str, block: bytes) -> tuple[int, int]:
        """See `tables.replay.Restorable`."""
        self.joined.restore_waiting(self._gone_since)
        if kind == "shares":
            return self.joined.restore_block(block, self._gone_since)
        keys, _ = blocks.unpack(block, 0)
        self._gone_since.slots_of(keys, True)
        return 0, len(keys.starts)

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        """See `tables.replay.Restorable`."""
        self.members.setdefault(decode_key(key), set()).update(split_members(piece))

    def restored(self, position: int) -> int:
        """See `tables.replay.Restorable`. `schedule_restored` must follow for every window."""
        self.position = self._started_at = position
        self.joined.restore_waiting(self._gone_since)
        self._gone_since = KeyTable()
        self.outbox.restored()
        for key in [key for key in self.members if key not in self.windows]:
            del self.members[key]
        return sum(map(len, self.members.values())) * MEMBER_BYTES

    def schedule_restored(self, slots: Places, ends: Ends) -> None:
        """Derives from restored windows what is due when."""
        self._schedule(slots, ends)
        closed = slots[self.joined.windows[slots, REVISION] > 0]
        self.joined.note_changed(closed[self.pending(closed)])

    def _schedule(self, slots: Places, ends: Ends) -> None:
        opened = self.joined.windows[slots, REVISION] == 0
        self._closes.add(ends.closes_ms[opened], slots[opened])
        self._seals.add(ends.ends_ms + self._correct_for_ms, slots)

    def _counters(self) -> Entry:
        return Entry("counters", b"", _encoder.encode(self.counters))

    def _source(self, source: int) -> Entry:
        return Entry("source", b"%d" % source, _encoder.encode(self.sources[source]))

    def _entry(self, slot: int) -> Entry:
        words = self.joined.windows[slot].tolist()
        saved = _SavedWindow(
            words[VERSION], words[REVISION], words[REVISED_AT], words[SAID_EVENTS], digest_of(words), self._said[slot]
        )
        return Entry("window", self.joined.keys.key(slot), _encoder.encode(saved))


def digest_of(words: list[int]) -> bytes:
    """The digest that was said last of a window."""
    return np.array([words[SAID_HIGH], words[SAID_LOW]], ">i8").tobytes()


def rows_of(partials: list[Partial]) -> Places:
    """Partials that are objects as rows of `Joined.join`."""
    words = [words_of(partial.version, partial.share) for partial in partials]
    return np.array(words, np.int64).reshape(-1, COLUMNS)
