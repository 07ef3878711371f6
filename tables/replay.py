"""Recovery's reading and building: which chunks of a changelog count, whether they link, and the state they are (design §2.3).

Reading keeps the bytes of the chunks that count, and looks no further than their labels. Building decodes them from the
newest back, so that of every key the first value met is the one that holds, and goes into the table at once: a state is
never held twice. It gives the others their turn after every chunk, so that a million keys hold nobody up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from schemas import changelog
from schemas.changelog import Label
from tables.effects import Procedure, Turn

READING = 0.1
"""Reading's share of a recovery, roughly, as `bench/recovery.py` measures it: for the progress that is told."""

_FAILURES = (msgspec.MsgspecError, ValueError, LookupError, OverflowError)
"""What reading may come to of a key, a number or a text that a stage never wrote."""


class Restorable(Protocol):
    """A table that is being restored: first its entries, in any order, then `restored`.

    Each raises msgspec.DecodeError for what its stage never wrote.
    """

    additive: frozenset[str]
    packed: frozenset[str]

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        """A value that survived; of each key at most one comes."""

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        """A piece of an additive kind; one may come twice."""

    def restore_block(self, kind: str, block: bytes) -> tuple[int, int]:
        """A block of a packed kind. Blocks come the newest first, among the other entries: of a key that was met before, in
        whichever way, nothing holds any more. How many rows hold, of how many."""

    def restored(self, position: int) -> int:
        """That was all: the state at `position`. How many bytes of pieces it holds."""


@dataclass(slots=True)
class Replay:
    """The chunks between a snapshot, which begins at the source offset `floor`, and the source offset `through`.

    size: bytes of the chunks that count. newest: label of the last of them. keys: values that were restored. live: bytes of
    those and of the pieces that are held, about what a snapshot would have.
    """

    floor: int
    through: int
    size: int = 0
    newest: Label | None = None
    keys: int = 0
    live: int = 0
    _kept: list[tuple[int, int, msgspec.Raw]] = field(default_factory=list)
    _seen: dict[tuple[str, int, int, int, int], set[int]] = field(default_factory=dict)

    def read(self, offset: int, label: Label, size: int) -> None:
        """One chunk, in the log's order. It is ignored where it reaches beyond `through` or ends before `floor`."""
        if label.end > self.through or label.end < self.floor:
            return
        self.size += size
        self._seen.setdefault((label.writer, label.number, label.start, label.end, label.of), set()).add(label.index)
        if self.newest is None or label.end >= self.newest.end:
            self.newest = label
        self._kept.append((label.end, offset, label.entries))

    def reached(self) -> set[int]:
        """The offsets to which whole checkpoints lead from the snapshot."""
        whole = sorted((end, start) for (_, _, start, end, of), got in self._seen.items() if len(got) == of)
        reached: set[int] = set()  # the snapshot's own first checkpoint has to be whole too
        for end, start in whole:
            if start in reached or end == self.floor:
                reached.add(end)
        return reached

    def build(self, table: Restorable, tell: Callable[[float], None]) -> Procedure[None]:
        """Restores the table at `through`. tell: the share that is done, of 1. Raises msgspec.DecodeError as `Unreadable`."""
        kept = self._kept
        kept.sort(key=lambda chunk: chunk[:2])  # the highest end wins; of equal ones, the later in the log
        met: dict[str, set[bytes]] = {}
        whole = len(kept)
        offset = -1
        while kept:
            _, offset, raw = kept.pop()
            try:
                self._restore(table, changelog.decode_entries(raw), met)
            except _FAILURES as error:
                raise Unreadable(offset, str(error)) from error
            tell(1 - len(kept) / whole)
            yield Turn()
        try:
            self.live += table.restored(self.through)
        except _FAILURES as error:  # of one that waited, of this record or of a newer one
            raise Unreadable(offset, str(error)) from error

    def _restore(
        self, table: Restorable, entries: list[tuple[str, bytes, bytes | None]], met: dict[str, set[bytes]]
    ) -> None:
        """One chunk. met: the keys of newer ones, by kind."""
        for kind, key, value in reversed(entries):
            if kind in table.additive:
                if value is not None:
                    table.unite(kind, key, value)
                continue
            if kind in table.packed:
                if value is not None:
                    held, rows = table.restore_block(kind, value)
                    self.keys += held
                    self.live += len(value) * held // rows
                continue
            known = met.setdefault(kind, set())
            if key in known:
                continue
            known.add(key)
            if value is not None:
                table.restore(kind, key, value)
                self.keys += 1
                self.live += len(key) + len(value)


class Unreadable(Exception):
    """The record at `offset` of the changelog is no chunk."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset
