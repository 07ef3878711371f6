"""What METERING remembers of one source partition: watermark, ledger, known ids, partials, folds per target."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from schemas import blocks, changelog
from schemas.changelog import Entry
from schemas.hashing import partitions_for
from schemas.partials import COLUMNS, MEMBER_BYTES, NEVER, Contribution, Rows, check_columns, decoded
from schemas.texts import Texts
from schemas.windows import WindowKey, check_keys, decode_key, encode_key, subjects_of
from schemas.written import Flags, Integers
from tables.agenda import Agenda
from tables.aggregates import Share
from tables.dedupe import KnownIds, Unit
from tables.gaps import Gap
from tables.keys import KeyTable, grown
from tables.ledger import Ledger
from tables.portions import WAITING, Portion, gone_entries, portions
from tables.runs import Disk
from tables.share_kernels import THROUGH, VERSION
from tables.shares import Shares

_PIECE = 32_000 // MEMBER_BYTES * MEMBER_BYTES
_META_KEY = b""
_DIRTY, _TOUCHED = np.uint8(1), np.uint8(2)
"""Marks of a slot: changed since the last emit, and since the last checkpoint."""


class _Meta(msgspec.Struct, array_like=True):
    watermark_ms: int
    counts: list[int]
    reasons: dict[str, int]
    folds: list[int]
    gaps: list[Gap] = []


class _Saved(msgspec.Struct, array_like=True, gc=False):
    seal_ms: int
    version: int
    share: Contribution


_NOBODY: set[bytes] = frozenset()  # type: ignore[assignment]
"""Most meters tell nobody apart; two sets of its own would be half of what a partial takes."""


class OpenPartial(msgspec.Struct, gc=False):
    """One partial as it is now: its share, when its window is sealed (watermark ms), the meter's version, the members, if any.

    fresh_members: those not yet part of an accepted checkpoint; they travel again with every emit until they are.
    """

    share: Share
    seal_ms: int
    version: int
    members: set[bytes] = _NOBODY
    fresh_members: set[bytes] = _NOBODY


class _Members(msgspec.Struct, gc=False):
    """Of a window of a unique count. fresh: as in `OpenPartial`."""

    all: set[bytes]
    fresh: set[bytes]


class Changed(NamedTuple):
    """What is to be emitted: slots of partials that are live, ascending, and the partials of windows sealed meanwhile."""

    slots: Integers
    gone: list[tuple[WindowKey, OpenPartial]]


_encoder = msgspec.msgpack.Encoder()
_meta_decoder = msgspec.msgpack.Decoder(_Meta)
_saved_decoder = msgspec.msgpack.Decoder(_Saved)
_COUNTS = ("read", "counted", "duplicate", "unmatched", "dead_lettered", "late", "ticks", "ticks_refused", "keyless")


def member_pieces(name: bytes, members: Iterable[bytes]) -> Iterator[Entry]:
    """Members of one window (`encode_key`) as additive entries of bounded size, in a deterministic order."""
    joined = b"".join(sorted(members))
    for at in range(0, len(joined), _PIECE):
        yield Entry("members", name, joined[at : at + _PIECE])


def split_members(joined: bytes) -> list[bytes]:
    """The members in a joined piece, 16 bytes each."""
    return [joined[at : at + MEMBER_BYTES] for at in range(0, len(joined), MEMBER_BYTES)]


class Partials(Mapping[WindowKey, OpenPartial]):
    """The live partials of a table, by their windows' keys; each is made when it is asked for."""

    def __init__(self, table: MeteringTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table.keys)

    def __iter__(self) -> Iterator[WindowKey]:
        keys = self._table.keys
        return (decode_key(key) for key in keys.texts(keys.slots()).tolist())

    def __getitem__(self, key: WindowKey) -> OpenPartial:
        slot = self._table.keys.slot(encode_key(key))
        if slot < 0:
            raise KeyError(key)
        return self._table.at(slot)


class MeteringTable:
    """The state of one source partition; a function of that partition's log up to `position` (design §2.1).

    keys: slots of the windows (`encode_key`) that have a partial. shares, and where a partial goes (`target`), by slot.
    """

    stage = "metering"
    additive = frozenset({"ids", "members"})
    packed = frozenset({"partials", "gone"})

    def __init__(self, targets: int, correct_for_ms: int, disk: Disk | None = None) -> None:
        """targets: M. disk: where known ids go that there is no memory for."""
        self.position = 0
        self.block_max = changelog.block_max()
        self.watermark_ms = NEVER
        self.ledger = Ledger()
        self.folds = [0] * targets
        self.gaps: list[Gap] = []
        self.keys = KeyTable()
        self.shares = Shares()
        self.partials = Partials(self)
        self.ids = KnownIds(correct_for_ms, disk)
        self.target = np.zeros(0, np.int64)
        self._seal_ms = np.zeros(0, np.int64)
        self._marks = np.zeros(0, np.uint8)
        self._members: dict[int, _Members] = {}
        self._correct_for_ms = correct_for_ms
        self._seals = Agenda()
        self._leaving: list[tuple[WindowKey, OpenPartial]] = []
        self._gone: list[bytes] = []
        self._new_members: dict[bytes, set[bytes]] = {}
        self._checkpointed: dict[bytes, set[bytes]] = {}
        self._started_at = -1
        self._early_members: dict[bytes, set[bytes]] = {}
        self._gone_since = KeyTable()
        self._waiting: list[tuple[bytes, bytes]] = []

    def raise_watermark(self, time_ms: int) -> None:
        """The partition's clock moves on, never back; partials and ids that this seals or makes too old are forgotten."""
        if time_ms <= self.watermark_ms:
            return
        self.watermark_ms = time_ms
        self.ids.evict(time_ms)
        sealed = self._seals.take(time_ms)
        if len(sealed):
            self._seal(sealed)

    def _seal(self, slots: Integers) -> None:
        """These windows are sealed. What changed since the last emit is still to be sent: what is forgotten leaves first."""
        for slot in slots[self._marks[slots] & _DIRTY != 0].tolist():
            self._leaving.append((decode_key(self.keys.key(slot)), self.at(slot)))
        names = self.keys.texts(slots).tolist()
        self._gone += names
        if self._members:
            for slot, name in zip(slots.tolist(), names, strict=True):
                self._members.pop(slot, None)
                self._new_members.pop(name, None)
        self._marks[slots] = 0
        self.keys.remove(slots)

    def open(self, keys: Texts, ends_ms: Integers, version: int, targets: Integers) -> Integers:
        """The slots of windows' partials, made where there are none; marked as touched and to be emitted.

        Of each window: keys (`encode_key`), ends_ms, and targets, where its partials go.
        """
        slots, new = self.keys.slots_of(keys, True)
        if new.any():
            made = slots[new]
            self._make(made, version)
            self.target[made] = targets[new]
            seals_ms = self._seal_ms[made] = ends_ms[new] + self._correct_for_ms
            self._seals.add(seals_ms, made)
        self._marks[slots] |= _DIRTY | _TOUCHED
        return slots

    def _make(self, slots: Integers, versions: Integers | int) -> None:
        room = self.keys.size
        self.shares.clear(slots, room, versions)
        self.target = grown(self.target, room)
        self._seal_ms = grown(self._seal_ms, room)
        self._marks = grown(self._marks, room)

    def at(self, slot: int) -> OpenPartial:
        """One partial as it is now."""
        held = self._members.get(slot)
        members, fresh = (_NOBODY, _NOBODY) if held is None else (set(held.all), set(held.fresh))
        version = int(self.shares.rows[slot, VERSION])
        return OpenPartial(self.shares.share(slot), int(self._seal_ms[slot]), version, members, fresh)

    def fit_rows(self, slots: Integers) -> Flags:
        """Which partials can travel as rows: those without a place of their amount, without members, in machine words."""
        fits = self.shares.in_words(slots)
        if self._members:
            fits &= ~np.isin(slots, np.fromiter(self._members, np.int64, len(self._members)))
        return fits

    def rows(self, slots: Integers) -> Rows:
        """Partials that can travel so, as rows."""
        return Rows(self.keys.texts(slots), self.shares.rows[slots])

    def add_member(self, slot: int, member: bytes) -> None:
        """One more thing to be told apart in a window of a unique count."""
        held = self._members.get(slot)
        if held is None:
            held = self._members[slot] = _Members(set(), set())
        if member not in held.all:
            held.all.add(member)
            held.fresh.add(member)
            self._new_members.setdefault(self.keys.key(slot), set()).add(member)

    def accept(self, gap: Gap) -> None:
        """The offsets of a gap will never be counted; the state goes on behind it."""
        assert gap.start == self.position < gap.end, "a gap begins where the state ends"
        self.gaps.append(gap)
        self.position = gap.end

    def send_again(self, keys: Iterable[WindowKey]) -> None:
        """Partials that are to leave with the next emit, changed or not, with all their members."""
        for key in keys:
            slot = self.keys.slot(encode_key(key))
            assert slot >= 0, "a live partial"
            self._marks[slot] |= _DIRTY
            held = self._members.get(slot)
            if held is not None:
                held.fresh = set(held.all)

    def restate(self, key: WindowKey, through: int) -> None:
        """A live partial is what it is through that offset, although nothing was folded; it is to leave again."""
        slot = self.keys.slot(encode_key(key))
        assert slot >= 0, "a live partial"
        self.shares.rows[slot, THROUGH] = through
        self._marks[slot] |= _TOUCHED
        self.send_again([key])

    @property
    def dirty(self) -> dict[WindowKey, OpenPartial]:
        """What changed since the last emit."""
        live = {decode_key(self.keys.key(slot)): self.at(slot) for slot in self._marked(_DIRTY).tolist()}
        return dict(self._leaving) | live

    def take_changed(self) -> Changed:
        """Partials changed since the last call, those of windows sealed meanwhile, too."""
        slots, gone = self._marked(_DIRTY), self._leaving
        self._marks[slots] &= ~_DIRTY
        self._leaving = []
        return Changed(slots, gone)

    def _marked(self, mark: np.uint8) -> Integers:
        return np.flatnonzero((self._marks[: self.keys.size] & mark) != 0)

    def accepted(self) -> None:
        """The checkpoint whose entries `touched` gave is accepted: its members need not travel again."""
        for name, members in self._checkpointed.items():
            held = self._members.get(self.keys.slot(name))
            if held is not None:
                held.fresh -= members
        self._checkpointed = {}

    def touched(self) -> list[Entry]:
        """See `tables.durable.Table`. Empty where nothing was folded since the last call."""
        slots = self._marked(_TOUCHED)
        if self.position == self._started_at and not len(slots) and not self._gone:
            return []
        self._started_at = self.position
        self._marks[slots] &= ~_TOUCHED
        gone, self._gone = self._gone, []
        self._checkpointed, self._new_members = self._new_members, {}
        entries = [self._meta(), *gone_entries(gone, self.block_max), *self._packed(slots)]
        entries += self.ids.touched()
        for name in sorted(self._checkpointed):
            entries += member_pieces(name, self._checkpointed[name])
        return entries

    def units(self) -> list[Hashable]:
        """See `tables.durable.Table`: the meta entry, partials by their slots, windows with members, every share of the ids."""
        members = [self.keys.key(slot) for slot in self._members]
        return [None, *portions("partials", self.keys.size), *members, *self.ids.units()]

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        """See `tables.durable.Table`."""
        if unit is None:
            return [self._meta()]
        if isinstance(unit, Portion):
            return self._packed(self.keys.slots(unit.begin, unit.end))
        if isinstance(unit, bytes):
            held = self._members.get(self.keys.slot(unit))
            return member_pieces(unit, held.all if held is not None else ())
        assert isinstance(unit, Unit)
        return list(self.ids.slice(unit))

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "meta":
            self._restore_meta(decoded(_meta_decoder, value))
            return
        self._waiting.append((key, value))
        if len(self._waiting) >= WAITING:
            self._restore_waiting()

    def _restore_waiting(self) -> None:
        """Partials that came one by one since the last block, the newest first."""
        waiting, self._waiting = self._waiting, []
        keys = Texts.of([key for key, _ in waiting])
        check_keys(keys)
        kept = np.flatnonzero(self._gone_since.slots_of(keys, False)[0] < 0)
        slots, new = self.keys.slots_of(keys.only(kept), True)
        found = [_saved_decoder.decode(waiting[row][1]) for row in kept[new].tolist()]
        self._make(slots[new], np.array([saved.version for saved in found], np.int64))
        for saved, slot in zip(found, slots[new].tolist(), strict=True):
            self.shares.put(slot, Share.of(saved.share))
            self._seal_ms[slot] = saved.seal_ms

    def restore_block(self, kind: str, block: bytes) -> tuple[int, int]:
        """See `tables.replay.Restorable`."""
        self._restore_waiting()
        if kind == "gone":
            keys, _ = blocks.unpack(block, 0)
            self._gone_since.slots_of(keys, True)
            return 0, len(keys.starts)
        keys, columns = blocks.unpack(block, 1 + COLUMNS)
        check_columns(columns[1:])
        check_keys(keys)
        every = len(columns[0])
        if len(self._gone_since):
            kept = self._gone_since.slots_of(keys, False)[0] < 0
            keys, columns = keys.only(kept), [column[kept] for column in columns]
        slots, new = self.keys.slots_of(keys, True)
        slots, columns = slots[new], [column[new] for column in columns]
        self._make(slots, columns[1])
        self.shares.rows[slots] = np.stack(columns[1:], axis=1)
        self._seal_ms[slots] = columns[0]
        return len(slots), every

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "ids":
            self.ids.restore(piece)
        else:
            self._early_members.setdefault(key, set()).update(split_members(piece))

    def restored(self, position: int) -> int:
        """See `tables.replay.Restorable`. Members whose window is sealed are dropped, ids that are too late evicted."""
        self.position = self._started_at = position
        self._restore_waiting()
        for name, members in self._early_members.items():
            slot = self.keys.slot(name)
            if slot >= 0:
                self._members[slot] = _Members(members, set())
        self._early_members, self._gone_since = {}, KeyTable()
        self.ids.evict(self.watermark_ms)
        slots = self.keys.slots()
        self.target[slots] = partitions_for(subjects_of(self.keys.texts(slots)), len(self.folds))
        self._seals.add(self._seal_ms[slots], slots)
        return self.ids.live_bytes + sum(len(held.all) for held in self._members.values()) * MEMBER_BYTES

    def _meta(self) -> Entry:
        counts = [getattr(self.ledger, name) for name in _COUNTS]
        meta = _Meta(self.watermark_ms, counts, self.ledger.reasons, self.folds, self.gaps)
        return Entry("meta", _META_KEY, _encoder.encode(meta))

    def _restore_meta(self, meta: _Meta) -> None:
        self.watermark_ms = meta.watermark_ms
        for name, count in zip(_COUNTS, meta.counts, strict=True):
            setattr(self.ledger, name, count)
        self.ledger.reasons = meta.reasons
        self.folds = meta.folds
        self.gaps = meta.gaps

    def _packed(self, slots: Integers) -> Iterator[Entry]:
        """Partials as entries: in blocks, and one by one those that are more than machine words."""
        in_words = self.shares.in_words(slots)
        rows = self.rows(slots[in_words])
        columns = [self._seal_ms[slots[in_words]], *rows.columns()]
        for block in blocks.pack(rows.keys, columns, self.block_max):
            yield Entry("partials", b"", block)
        yield from map(self._entry, slots[~in_words].tolist())

    def _entry(self, slot: int) -> Entry:
        version = int(self.shares.rows[slot, VERSION])
        saved = _Saved(int(self._seal_ms[slot]), version, self.shares.share(slot).contribution())
        return Entry("partial", self.keys.key(slot), _encoder.encode(saved))
