"""What METERING remembers of one source partition: watermark, ledger, known ids, partials, folds per target."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import msgspec

from schemas.changelog import Entry
from schemas.partials import MEMBER_BYTES, NEVER, Contribution
from schemas.windows import WindowKey, decode_key, encode_key
from tables.aggregates import Share
from tables.dedupe import ITEM_BYTES, KnownIds
from tables.dedupe import Share as IdShare
from tables.gaps import Gap
from tables.ledger import Ledger
from tables.timetable import Timetable

_PIECE = 32_000 // MEMBER_BYTES * MEMBER_BYTES
_META_KEY = b""


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
    """One partial: its share, when its window is sealed (watermark ms), the meter's version, and the members, if any.

    fresh_members: those not yet part of an accepted checkpoint; they travel again with every emit until they are.
    """

    share: Share
    seal_ms: int
    version: int
    members: set[bytes] = _NOBODY
    fresh_members: set[bytes] = _NOBODY


_encoder = msgspec.msgpack.Encoder()
_meta_decoder = msgspec.msgpack.Decoder(_Meta)
_saved_decoder = msgspec.msgpack.Decoder(_Saved)
_COUNTS = ("read", "counted", "duplicate", "unmatched", "dead_lettered", "late", "ticks", "ticks_refused", "keyless")


def member_pieces(key: WindowKey, members: Iterable[bytes]) -> Iterator[Entry]:
    """Members of one window as additive entries of bounded size, in a deterministic order."""
    joined = b"".join(sorted(members))
    name = encode_key(key)
    for at in range(0, len(joined), _PIECE):
        yield Entry("members", name, joined[at : at + _PIECE])


def split_members(joined: bytes) -> list[bytes]:
    """The members in a joined piece, 16 bytes each."""
    return [joined[at : at + MEMBER_BYTES] for at in range(0, len(joined), MEMBER_BYTES)]


class MeteringTable:
    """The state of one source partition; a function of that partition's log up to `position` (design §2.1).

    dirty: partials changed since the last emit, kept even where the window was sealed meanwhile: what is to be forgotten
    leaves first (design §2.2).
    """

    stage = "metering"
    additive = frozenset({"ids", "members"})

    def __init__(self, targets: int, correct_for_ms: int) -> None:
        self.position = 0
        self.watermark_ms = NEVER
        self.ledger = Ledger()
        self.folds = [0] * targets
        self.gaps: list[Gap] = []
        self.partials: dict[WindowKey, OpenPartial] = {}
        self.dirty: dict[WindowKey, OpenPartial] = {}
        self.ids = KnownIds(correct_for_ms)
        self._correct_for_ms = correct_for_ms
        self._seals = Timetable()
        self._touched: set[WindowKey] = set()
        self._new_members: dict[WindowKey, set[bytes]] = {}
        self._checkpointed: dict[WindowKey, set[bytes]] = {}
        self._started_at = -1
        self._early_members: dict[WindowKey, set[bytes]] = {}

    def raise_watermark(self, time_ms: int) -> None:
        """The partition's clock moves on, never back; partials and ids that this seals or makes too old are forgotten."""
        if time_ms <= self.watermark_ms:
            return
        self.watermark_ms = time_ms
        self.ids.evict(time_ms)
        for _, key in self._seals.take(time_ms):
            if self.partials.pop(key, None) is not None:
                self._touched.add(key)
                self._new_members.pop(key, None)

    def partial(self, key: WindowKey, end_ms: int, version: int, offset: int) -> OpenPartial:
        """The partial of a window, made where there is none; marked as touched and to be emitted."""
        partial = self.partials.get(key)
        if partial is None:
            partial = OpenPartial(Share(offset), end_ms + self._correct_for_ms, version)
            self.partials[key] = partial
            self._seals.add(partial.seal_ms, key)
        elif offset < partial.share.first:  # of one batch, they do not come in the order of the log
            partial.share.first = offset
        self._touched.add(key)
        self.dirty[key] = partial
        return partial

    def add_member(self, key: WindowKey, partial: OpenPartial, member: bytes) -> None:
        """One more thing to be told apart in a window of a unique count."""
        if member not in partial.members:
            partial.members = partial.members or set()
            partial.fresh_members = partial.fresh_members or set()
            partial.members.add(member)
            partial.fresh_members.add(member)
            self._new_members.setdefault(key, set()).add(member)

    def accept(self, gap: Gap) -> None:
        """The offsets of a gap will never be counted; the state goes on behind it."""
        assert gap.start == self.position < gap.end, "a gap begins where the state ends"
        self.gaps.append(gap)
        self.position = gap.end

    def send_again(self, keys: Iterable[WindowKey]) -> None:
        """Partials that are to leave with the next emit, changed or not, with all their members."""
        for key in keys:
            partial = self.dirty[key] = self.partials[key]
            if partial.members:
                partial.fresh_members = set(partial.members)

    def restate(self, key: WindowKey, through: int) -> None:
        """A live partial is what it is through that offset, although nothing was folded; it is to leave again."""
        self.partials[key].share.through = through
        self._touched.add(key)
        self.send_again([key])

    def take_dirty(self) -> list[tuple[WindowKey, OpenPartial]]:
        """Partials changed since the last call, in the order of their keys."""
        dirty, self.dirty = self.dirty, {}
        return sorted(dirty.items(), key=lambda item: item[0])

    def accepted(self) -> None:
        """The checkpoint whose entries `touched` gave is accepted: its members need not travel again."""
        for key, members in self._checkpointed.items():
            partial = self.partials.get(key)
            if partial is not None:
                partial.fresh_members -= members
        self._checkpointed = {}

    def touched(self) -> list[Entry]:
        """See `tables.durable.Table`. Empty where nothing was folded since the last call."""
        if self.position == self._started_at and not self._touched:
            return []
        self._started_at = self.position
        keys, self._touched = sorted(self._touched), set()
        self._checkpointed, self._new_members = self._new_members, {}
        entries = [self._meta()]
        entries += [self._entry(key) for key in keys]
        entries += self.ids.touched()
        for key in sorted(self._checkpointed):
            entries += member_pieces(key, self._checkpointed[key])
        return entries

    def units(self) -> list[Hashable]:
        """See `tables.durable.Table`: the meta entry, every partial, every share of the ids."""
        return [None, *self.partials, *self.ids.units()]

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        """See `tables.durable.Table`."""
        if unit is None:
            return [self._meta()]
        if isinstance(unit, WindowKey):
            partial = self.partials.get(unit)
            return [] if partial is None else [self._entry(unit), *member_pieces(unit, partial.members)]
        assert isinstance(unit, IdShare)
        return list(self.ids.slice(unit))

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "meta":
            self._restore_meta(_meta_decoder.decode(value))
            return
        saved, name = _saved_decoder.decode(value), decode_key(key)
        members = self._early_members.pop(name, _NOBODY)
        self.partials[name] = OpenPartial(Share.of(saved.share), saved.seal_ms, saved.version, members)
        self._seals.add(saved.seal_ms, name)

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        """See `tables.replay.Restorable`."""
        if kind == "ids":
            self.ids.restore(piece)
            return
        name = decode_key(key)
        partial = self.partials.get(name)
        if partial is None:
            self._early_members.setdefault(name, set()).update(split_members(piece))
        else:
            partial.members = partial.members or set()
            partial.members.update(split_members(piece))

    def restored(self, position: int) -> int:
        """See `tables.replay.Restorable`. Members whose window is sealed are dropped, ids that are too late evicted."""
        self.position = self._started_at = position
        self._early_members = {}
        self.ids.evict(self.watermark_ms)
        return (
            len(self.ids) * ITEM_BYTES + sum(len(partial.members) for partial in self.partials.values()) * MEMBER_BYTES
        )

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

    def _entry(self, key: WindowKey) -> Entry:
        partial = self.partials.get(key)
        value = None
        if partial is not None:
            value = _encoder.encode(_Saved(partial.seal_ms, partial.version, partial.share.contribution()))
        return Entry("partial", encode_key(key), value)
