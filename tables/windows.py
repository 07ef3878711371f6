"""A window of CLOSING as it is now, and all of them by their keys: for who asks about some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from schemas.partials import NEVER, Contribution
from schemas.windows import WindowKey, encode_key

if TYPE_CHECKING:
    from tables.closing import ClosingTable


class WindowState(msgspec.Struct, frozen=True):
    """One window as it is now: a share per source partition, and what was last said about it.

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


class Windows(Mapping[WindowKey, WindowState]):
    """The windows of a table, each as it is when it is looked at: for who asks about some, not for who goes through all."""

    def __init__(self, table: ClosingTable) -> None:
        self._table = table

    def __getitem__(self, key: WindowKey) -> WindowState:
        slot = self.slot(key)
        if slot < 0:
            raise KeyError(key)
        return self._table.window(slot)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, WindowKey) and self.slot(key) >= 0

    def __iter__(self) -> Iterator[WindowKey]:
        return (key for key, _ in self._table.select())

    def __len__(self) -> int:
        return len(self._table.joined.keys)

    def slot(self, key: WindowKey) -> int:
        """The slot of a window, -1 where it is not there."""
        return self._table.joined.keys.slot(encode_key(key))
