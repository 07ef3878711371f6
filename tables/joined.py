"""What each source partition has contributed to each window, in columns: joined, asked and packed by kernels.

A window takes 64 bytes here and a share 88, beside the window's key (`tables/keys.py`). What an amount does not say in a
machine word (`Rows`) stands aside, as an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import msgspec
import numpy as np

from schemas import blocks
from schemas.changelog import Entry
from schemas.partials import COLUMNS, Contribution, amount_of, check_columns, decode_share, encode_share, row_of, scaled
from schemas.texts import Flags, Places, Texts
from tables.closing_kernels import (
    ASIDE,
    CHANGED,
    EVENTS,
    FIRST,
    HEAD,
    HIGH,
    LOW,
    MARKS,
    MOVED,
    NEXT,
    NONE,
    NOTED_CHANGED,
    NOTED_MOVED,
    NOTED_TOUCHED,
    PLACES,
    REVISED_AT,
    REVISION,
    SAID_EVENTS,
    SAID_HIGH,
    SAID_LOW,
    SHARE_WORDS,
    SHARES,
    SOURCE,
    THROUGH,
    UNITS,
    VERSION,
    WINDOW,
    WINDOW_WORDS,
    noted_touched,
    noted_windows,
    shares_joined,
    shares_parted,
    windows_pending,
    windows_removed,
)
from tables.keys import KeyTable, grown, lengthened
from tables.portions import WAITING

PACKED = 9
"""Columns of a block of shares: the source, and those of `Rows`."""
_LEAST = 16
_WORD = (1 << 64) - 1


class Taken(NamedTuple):
    """What a join changed. events: how many more there are now. through: the highest that was taken, or -1.

    shares: of each row the share it became, -1 where it was not taken.
    """

    events: int
    through: int
    shares: Places


class Joined:
    """Windows, each with a share per source. Slots are those of `keys`; `windows` has the words of `closing_kernels`."""

    def __init__(self) -> None:
        self.keys = KeyTable()
        self.windows = np.full((_LEAST, WINDOW_WORDS), NONE, np.int64)
        self._shares = np.full((_LEAST, SHARE_WORDS), NONE, np.int64)
        self._aside: dict[int, tuple[Decimal | None, tuple[int, int, int] | None]] = {}
        self._waiting: list[tuple[bytes, bytes]] = []
        self._free = np.zeros(_LEAST, np.int64)
        self._counts = np.zeros(5, np.int64)
        self._touched = np.zeros(_LEAST, np.int64)
        self._changed = np.zeros(_LEAST, np.int64)
        self._moved = np.zeros(_LEAST, np.int64)

    @property
    def size(self) -> int:
        """How many places for shares there are: `packed` is asked for ranges of them."""
        return int(self._counts[SHARES])

    def open(self, keys: Texts, versions: Places) -> tuple[Places, Flags]:
        """The windows of these keys, made where they are not there; and which were."""
        slots, new = self.keys.slots_of(keys, True)
        self.windows = lengthened(self.windows, self.keys.size, NONE)
        fresh = slots[new]
        self.windows[fresh] = (NONE, 0, 0, NONE, 0, 0, 0, 0)
        self.windows[fresh, VERSION] = versions[new]
        return slots, new

    def join(self, sources: Places, slots: Places, values: Places, *, newest_first: bool = False) -> Taken:
        """Per source and window the highest `through` holds, of equal ones the one of fewer events (design §2.5).

        slots: -1 for what is not to be joined. values: of shape (rows, 8), the words of `Rows`. newest_first: of each
        source and window the first holds, and nothing is noted.
        """
        rows = len(slots)
        self._shares = lengthened(self._shares, self.size + rows, NONE)
        self._free = grown(self._free, len(self._shares))
        self._touched = grown(self._touched, int(self._counts[NOTED_TOUCHED]) + rows)
        self._changed = grown(self._changed, int(self._counts[NOTED_CHANGED]) + rows)
        self._moved = grown(self._moved, int(self._counts[NOTED_MOVED]) + rows)
        took = np.empty(rows, np.int64)
        events, through = shares_joined(
            newest_first, sources, slots, values, self.windows, self._shares, self._free, self._counts, self._touched,
            self._changed, self._moved, took,
        )  # fmt: skip
        return Taken(int(events), int(through), took)

    def put_aside(self, share: int, amount: Decimal | None, at: tuple[int, int, int] | None) -> None:
        """What the amount of a share that was joined with `ASIDE` is."""
        self._aside[share] = amount, at

    def of(self, slot: int) -> dict[int, Contribution]:
        """The shares of a window by their sources, in order of those."""
        found: dict[int, Contribution] = {}
        share = int(self.windows[slot, HEAD])
        while share != NONE:
            words = self._shares[share].tolist()
            found[words[SOURCE]] = self._contribution(share, words)
            share = words[NEXT]
        return dict(sorted(found.items()))

    def pending(self, slots: Places) -> Flags:
        """Of which windows the shares come to other events, by number or by digest, than were said."""
        pending = np.zeros(len(slots), np.bool_)
        windows_pending(slots, self.windows, self._shares, pending)
        return pending

    def said(self, slot: int, revision: int, revised_at_ms: int, events: int, digest: bytes) -> None:
        """What was said last of a window."""
        words = self.windows[slot]
        words[REVISION], words[REVISED_AT], words[SAID_EVENTS] = revision, revised_at_ms, events
        words[SAID_HIGH], words[SAID_LOW] = np.frombuffer(digest, ">i8") if digest else (0, 0)

    def remove(self, slots: Places) -> None:
        """These windows are gone, with all their shares."""
        for slot in slots.tolist() if self._aside else ():
            share = int(self.windows[slot, HEAD])
            while share != NONE:
                self._aside.pop(share, None)
                share = int(self._shares[share, NEXT])
        windows_removed(slots, self.windows, self._shares, self._free, self._counts)
        self.keys.remove(slots)

    def note_moved(self, slot: int) -> None:
        """Something else was said of a window."""
        if not self.windows[slot, MARKS] & MOVED:
            self._moved = grown(self._moved, int(self._counts[NOTED_MOVED]) + 1)
            self._moved[self._counts[NOTED_MOVED]] = slot
            self._counts[NOTED_MOVED] += 1
            self.windows[slot, MARKS] |= MOVED

    def note_changed(self, slots: Places) -> None:
        """Windows that have a revision, of which there may be something to say."""
        slots = slots[self.windows[slots, MARKS] & CHANGED == 0]
        count = int(self._counts[NOTED_CHANGED])
        self._changed = grown(self._changed, count + len(slots))
        self._changed[count : count + len(slots)] = slots
        self._counts[NOTED_CHANGED] += len(slots)
        self.windows[slots, MARKS] |= CHANGED

    def keep_changed(self, slots: Places) -> None:
        """What `take_changed` gave stays marked, to be asked for with `still_changed`: it is not noted again meanwhile."""
        self.windows[slots, MARKS] |= CHANGED

    def still_changed(self, slots: Places) -> Places:
        """Those of the windows that are still marked, each once; they are no more."""
        found = np.empty(len(slots), np.int64)
        return found[: noted_windows(slots, len(slots), CHANGED, self.windows, found)]

    def moved(self) -> Places:
        """Windows that moved since `take_moved`; one may be there twice."""
        noted: Places = self._moved[: int(self._counts[NOTED_MOVED])]
        found: Places = noted[self.windows[noted, MARKS] & MOVED != 0]
        return found

    def take_moved(self) -> Places:
        """Windows that moved since the last call, each once."""
        return self._taken(self._moved, NOTED_MOVED, MOVED)

    def take_changed(self) -> Places:
        """Windows with a revision that took a share since the last call, each once."""
        return self._taken(self._changed, NOTED_CHANGED, CHANGED)

    def take_touched(self) -> Places:
        """Shares that were taken since the last call, each once, but for those that are gone."""
        found = np.empty(int(self._counts[NOTED_TOUCHED]), np.int64)
        size = noted_touched(self._touched, len(found), self._shares, found)
        self._counts[NOTED_TOUCHED] = 0
        return found[:size]

    def live(self, begin: int, end: int) -> Places:
        """The shares that there are in a range of places."""
        found: Places = np.flatnonzero(self._shares[begin : min(end, self.size), SOURCE] >= 0) + begin
        return found

    def packed(self, shares: Places, limit: int) -> Iterator[Entry]:
        """Shares as entries: blocks of at most `limit` bytes, and those that stand aside one by one."""
        columns = np.empty((PACKED, len(shares)), np.int64)
        slots, aside = np.empty(len(shares), np.int64), np.empty(len(shares), np.int64)
        size = shares_parted(shares, self._shares, self.windows, columns, slots, aside)
        for share in aside[: len(shares) - size].tolist():
            words = self._shares[share].tolist()
            version = int(self.windows[words[WINDOW], VERSION])
            name = b"%d|%b" % (words[SOURCE], self.keys.key(words[WINDOW]))
            yield Entry("share", name, encode_share(version, self._contribution(share, words)))
        for block in blocks.pack(self.keys.texts(slots[:size]), columns[:, :size], limit):
            yield Entry("shares", b"", block)

    def restore_block(self, block: bytes, gone: KeyTable) -> tuple[int, int]:
        """A block of an entry, the newest first. gone: keys of windows that were removed since. How many held, of how many."""
        keys, columns = blocks.unpack(block, PACKED)
        check_columns(columns[1:])
        if int(columns[0].min()) < 0:
            raise msgspec.DecodeError("its rows come from nowhere")
        values = np.stack(columns, axis=1)
        every = len(values)
        if len(gone):
            kept = gone.slots_of(keys, False)[0] < 0
            keys, values = keys.only(kept), values[kept]
        slots, _ = self.open(keys, values[:, 1])
        sources, values = values[:, 0].copy(), values[:, 1:].copy()
        taken = self.join(sources, slots, values, newest_first=True)
        return int(np.count_nonzero(taken.shares >= 0)), every

    def restore_share(self, name: bytes, value: bytes, gone: KeyTable) -> None:
        """An entry of one share; it may wait for `restore_waiting`, which must come before the next block."""
        self._waiting.append((name, value))
        if len(self._waiting) >= WAITING:
            self.restore_waiting(gone)

    def restore_waiting(self, gone: KeyTable) -> None:
        """Entries of single shares since the last call, as `restore_block`."""
        waiting, self._waiting = self._waiting, []
        names = [name.partition(b"|") for name, _ in waiting]
        keys = Texts.of([key for _, _, key in names])
        kept = gone.slots_of(keys, False)[0] < 0
        found = [decode_share(value) for _, value in waiting]
        values = np.array([words_of(*one) for one in found], np.int64).reshape(-1, COLUMNS)
        slots = np.full(len(waiting), NONE)
        slots[kept] = self.open(keys.only(kept), values[kept, 0])[0]
        sources = np.array([int(source) for source, _, _ in names], np.int64)
        taken = self.join(sources, slots, values, newest_first=True).shares
        aside = np.flatnonzero((taken != NONE) & (values[:, -1] == ASIDE)).tolist()
        for row in aside:
            self.put_aside(int(taken[row]), found[row][1].amount, found[row][1].at)

    def _contribution(self, share: int, words: list[int]) -> Contribution:
        amount, at = self._aside[share] if words[PLACES] == ASIDE else (amount_of(words[UNITS], words[PLACES]), None)
        digest = ((words[HIGH] & _WORD) << 64 | words[LOW] & _WORD).to_bytes(16, "big")
        return Contribution(words[EVENTS], digest, words[FIRST], words[THROUGH], amount, at)

    def _taken(self, noted: Places, count: int, mark: int) -> Places:
        found = np.empty(int(self._counts[count]), np.int64)
        size = noted_windows(noted, len(found), mark, self.windows, found)
        self._counts[count] = 0
        return found[:size]


def words_of(version: int, share: Contribution) -> tuple[int, ...]:
    """A row of `Shares.join`."""
    amount = scaled(share.amount) if share.at is None else None
    return row_of(version, share, amount or (0, ASIDE))
