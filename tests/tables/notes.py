"""A table that is small enough to see through: notes by name, and things that are only ever added.

Its log says `name=text`, `name=` (gone again), or `+thing`. It runs on `tables/durable.py` as the stages do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import msgspec

from schemas import changelog
from schemas.changelog import Chunk, Entry
from tests.usage import definitions, meter
from tests.world import Process, World

LOG, STATE = "log", "state"


class Notes:
    """Implements `tables.durable.Table`."""

    stage = "metering"
    additive = frozenset({"thing"})
    packed = frozenset({"block"})

    def __init__(self) -> None:
        self.block_max = 0
        self.position = 0
        self.notes: dict[str, str] = {}
        self.things: set[bytes] = set()
        self._touched: set[str] = set()
        self._new: set[bytes] = set()

    def fold(self, line: bytes) -> None:
        name, _, text = line.decode().partition("=")
        if name.startswith("+"):
            self.things.add(line[1:])
            self._new.add(line[1:])
        else:
            self._touched.add(name)
            if text:
                self.notes[name] = text
            else:
                self.notes.pop(name, None)
        self.position += 1

    def touched(self) -> list[Entry]:
        names, self._touched = sorted(self._touched), set()
        new, self._new = sorted(self._new), set()
        return [self._entry(name) for name in names] + [Entry("thing", b"", thing) for thing in new]

    def units(self) -> list[Hashable]:
        return [*self.notes, *self.things]

    def slice(self, unit: Hashable) -> Iterable[Entry]:
        if isinstance(unit, bytes):
            return [Entry("thing", b"", unit)]
        return [self._entry(str(unit))] if unit in self.notes else []

    def restore(self, kind: str, key: bytes, value: bytes) -> None:
        self.notes[key.decode()] = value.decode()

    def restore_block(self, kind: str, block: bytes) -> tuple[int, int]:
        raise msgspec.DecodeError("no block of notes is one")

    def unite(self, kind: str, key: bytes, piece: bytes) -> None:
        self.things.add(piece)

    def restored(self, position: int) -> int:
        self.position = position
        return sum(map(len, self.things))

    def _entry(self, name: str) -> Entry:
        text = self.notes.get(name)
        return Entry("note", name.encode(), None if text is None else text.encode())


class Keeper(Process):
    """The owner of the notes' one partition."""

    def __init__(self, world: World, partitions: int = 1) -> None:
        self.table = Notes()
        super().__init__(world, self.table, LOG, STATE, 0, partitions)
        self.join(self.durable.recover())

    def read(self, most: int = 1 << 30) -> None:
        for record in self.ahead(most).records:
            self.table.fold(record.value or b"")

    def checkpoint(self, *, snapshot_due: bool = False) -> bool:
        return self.run(self.durable.checkpoint(snapshot_due=snapshot_due))


def world(*lines: str, **durable: int) -> World:
    """A world whose log has these lines."""
    made = World(definitions({"meters": [meter("m")]}), **durable)
    write(made, *lines)
    return made


def write(made: World, *lines: str) -> None:
    """More lines."""
    for line in lines:
        made.logs[LOG, 0].append(line.encode())


def state(made: World) -> tuple[dict[str, str], set[bytes]]:
    """What a new owner restores."""
    table = Keeper(made).table
    return table.notes, table.things


def chunks(made: World) -> list[Chunk]:
    """The changelog, decoded."""
    return [changelog.decode(record.value or b"") for record in made.logs[STATE, 0].records]
