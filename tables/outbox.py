"""The outbox: revisions that are decided and not yet everywhere, and who has them (design §2.6, §6).

A revision enters with its step, becomes visible to DELIVERY when the checkpoint that carries it is accepted, and leaves
when every sink has it. A refusal for good parks it for that sink: it stays, is shown, and holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Literal

import msgspec

from schemas.changelog import Entry
from schemas.windows import Revision


class _Saved(msgspec.Struct, array_like=True):
    window_id: str
    revision: int
    subject: str
    body: bytes
    order: int


class _Mark(msgspec.Struct, array_like=True):
    kind: Literal["delivered", "parked"]
    reason: str = ""


@dataclass(slots=True)
class Item:
    """One revision on its way. order: its place in the partition's line. marks: sink -> delivered, or parked and why."""

    revision: Revision
    order: int
    marks: dict[str, _Mark] = field(default_factory=dict)


_encoder = msgspec.msgpack.Encoder()
_saved_decoder = msgspec.msgpack.Decoder(_Saved)
_mark_decoder = msgspec.msgpack.Decoder(_Mark)


class Outbox:
    """Revisions by message id, in the order they were decided. sinks: names of those that must get each."""

    def __init__(self, sinks: tuple[str, ...]) -> None:
        self.items: dict[str, Item] = {}
        self._pending: dict[str, dict[str, Item]] = {sink: {} for sink in sinks}
        self._newest: dict[str, Item] = {}
        self._windows: dict[str, set[str]] = {}
        self._order = 0
        self._accepted = 0
        self._asked = 0
        self._touched: set[str] = set()
        self._touched_marks: set[tuple[str, str]] = set()

    def put(self, revision: Revision, order: int) -> None:
        """A revision was decided. Not yet visible to DELIVERY.

        order: how manyth revision of this partition it is, ever. It comes from the log, so that all owners agree on it: a
        zombie's chunk, written later, does not turn the line around.
        """
        assert order > self._order, "the line only grows at its end"
        self._order = order
        item = self.items[revision.message_id] = Item(revision, order)
        for pending in self._pending.values():
            pending[revision.message_id] = item
        self._note(item)
        self._touched.add(revision.message_id)

    @property
    def waiting_for_acceptance(self) -> bool:
        """Whether a decided revision waits for its checkpoint."""
        return self._order > self._accepted

    def accepted(self) -> None:
        """The checkpoint begun with the last `touched` is accepted: its revisions may be acted on."""
        self._accepted = max(self._accepted, self._asked)

    def waiting(self, sink: str, most: int) -> list[Revision]:
        """The next revisions for a sink, in order, at most `most`: accepted, neither delivered to it nor parked for it."""
        accepted = takewhile(lambda item: item.order <= self._accepted, self._pending[sink].values())
        return [item.revision for item in islice(accepted, most)]

    def count_waiting(self, sink: str) -> int:
        """How many revisions the sink has yet to get, those that wait for acceptance included."""
        return len(self._pending[sink])

    def newest(self, window_id: str) -> Revision | None:
        """A window's highest revision on its way; None once that has left, whatever of the earlier ones still stays."""
        item = self._newest.get(window_id)
        return None if item is None else item.revision

    def newest_of(self, subject: str | None = None) -> Iterator[Revision]:
        """The same of each window of one subject, or of all, in no order."""
        names = self._newest if subject is None else self._windows.get(subject, ())
        return (self._newest[name].revision for name in names)

    def parked(self) -> list[tuple[str, Revision, str]]:
        """What a sink refused for good: (sink, revision, reason)."""
        return [
            (sink, item.revision, mark.reason)
            for item in self.items.values()
            for sink, mark in item.marks.items()
            if mark.kind == "parked"
        ]

    def mark_delivered(self, message_id: str, sink: str) -> bool:
        """A sink has it. True if that is news; saying it twice changes nothing."""
        return self._mark(message_id, sink, _Mark("delivered"))

    def park(self, message_id: str, sink: str, reason: str) -> bool:
        """A sink refuses it for good. True if that is news."""
        return self._mark(message_id, sink, _Mark("parked", reason[:500]))

    def unpark(self, sink: str | None = None) -> list[str]:
        """What a sink (every sink, if None) had refused for good is to be handed over again; the message ids.

        For mending: it takes its place in the line with the next `restored`.
        """
        unparked = []
        for message_id, item in self.items.items():
            for name in [n for n, mark in item.marks.items() if mark.kind == "parked" and sink in (None, n)]:
                del item.marks[name]
                self._touched_marks.add((message_id, name))
                unparked.append(message_id)
        return unparked

    def touched(self) -> list[Entry]:
        """Entries changed since the last call, removals too."""
        self._asked = self._order
        ids, self._touched = sorted(self._touched), set()
        marks, self._touched_marks = sorted(self._touched_marks), set()
        return [self._entry(message_id) for message_id in ids] + [self._mark_entry(*name) for name in marks]

    def units(self) -> list[str]:
        """The message ids, for a snapshot."""
        return list(self.items)

    def slice(self, message_id: str) -> Iterable[Entry]:
        """The entries of one revision; none where it has left."""
        item = self.items.get(message_id)
        if item is None:
            return []
        return [self._entry(message_id), *(self._mark_entry(message_id, sink) for sink in item.marks)]

    def restore(self, kind: str, raw: bytes, value: bytes) -> None:
        """One surviving entry, in any order; `restored` must follow."""
        if kind == "out":
            saved = _saved_decoder.decode(value)
            revision = Revision(saved.window_id, saved.revision, saved.subject, saved.body)
            marks = self.items.pop(revision.message_id, Item(revision, 0)).marks
            self.items[revision.message_id] = Item(revision, saved.order, marks)
        else:
            message_id, sink = raw.decode().rsplit("|", 1)
            placeholder = Item(Revision("", 0, "", b""), 0)
            self.items.setdefault(message_id, placeholder).marks[sink] = _mark_decoder.decode(value)

    def restored(self) -> None:
        """Puts the line in order; everything restored was accepted. Marks whose revision has left are dropped."""
        self.items = {
            name: item
            for name, item in sorted(self.items.items(), key=lambda pair: pair[1].order)
            if item.revision.window_id
        }
        self._order = max((item.order for item in self.items.values()), default=0)
        self._accepted = self._asked = self._order
        for sink, pending in self._pending.items():
            pending.update((name, item) for name, item in self.items.items() if sink not in item.marks)
        for item in self.items.values():
            self._note(item)
        for name in list(self.items):
            self._leave_if_done(name)

    def _mark(self, message_id: str, sink: str, mark: _Mark) -> bool:
        item = self.items.get(message_id)
        if item is None or sink in item.marks:
            return False
        item.marks[sink] = mark
        self._pending[sink].pop(message_id, None)
        self._touched_marks.add((message_id, sink))
        self._leave_if_done(message_id)
        return True

    def _leave_if_done(self, message_id: str) -> None:
        item = self.items[message_id]
        if all((mark := item.marks.get(sink)) is not None and mark.kind == "delivered" for sink in self._pending):
            del self.items[message_id]
            self._forget(item)
            self._touched.add(message_id)
            self._touched_marks.update((message_id, sink) for sink in item.marks)

    def _note(self, item: Item) -> None:
        # A window's revisions come in the order of the line, so the last one noted is its highest.
        self._newest[item.revision.window_id] = item
        self._windows.setdefault(item.revision.subject, set()).add(item.revision.window_id)

    def _forget(self, item: Item) -> None:
        name, subject = item.revision.window_id, item.revision.subject
        if self._newest.get(name) is item:
            del self._newest[name]
            self._windows[subject].remove(name)
            if not self._windows[subject]:
                del self._windows[subject]

    def _entry(self, message_id: str) -> Entry:
        item = self.items.get(message_id)
        value = None
        if item is not None:
            r = item.revision
            value = _encoder.encode(_Saved(r.window_id, r.revision, r.subject, r.body, item.order))
        return Entry("out", message_id.encode(), value)

    def _mark_entry(self, message_id: str, sink: str) -> Entry:
        item = self.items.get(message_id)
        mark = item.marks.get(sink) if item is not None else None
        return Entry("mark", f"{message_id}|{sink}".encode(), None if mark is None else _encoder.encode(mark))
