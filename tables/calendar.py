"""When windows end, by their keys, column by column."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from schemas.blocks import still
from schemas.definitions import Definitions
from schemas.texts import Places, Texts
from schemas.window_kernels import key_parted
from tables.keys import KeyTable


class Unknown(Exception):
    """The key in this row is of no meter or size that there is, or it is no key at all."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class Ends(NamedTuple):
    """Of windows: when they end, and when they close, ms."""

    ends_ms: Places
    closes_ms: Places


class Calendar:
    """The windows that a set of definitions has."""

    def __init__(self, definitions: Definitions) -> None:
        self._meters, self._sizes = KeyTable(), KeyTable()
        names = [meter.slug for meter in definitions.meters]
        sizes = list(dict.fromkeys(window.size for meter in definitions.meters for window in meter.windows))
        self._meters.slots_of(Texts.of([name.encode() for name in names]), True)
        self._sizes.slots_of(Texts.of([size.encode() for size in sizes]), True)
        self._graces_ms = np.array([meter.grace_ms for meter in definitions.meters], np.int64)
        self._sizes_ms = np.full((len(names), len(sizes)), -1, np.int64)
        for number, meter in enumerate(definitions.meters):
            for window in meter.windows:
                self._sizes_ms[number, sizes.index(window.size)] = window.size_ms

    def ends(self, keys: Texts) -> Ends:
        """When the windows of these keys end and close. Raises Unknown."""
        rows = len(keys.starts)
        letters, starts, stops = (
            still(keys.letters, np.uint8),
            still(keys.starts, np.int64),
            still(keys.stops, np.int64),
        )
        meters, sizes = np.zeros((2, rows), np.int64), np.zeros((2, rows), np.int64)
        starts_ms = np.zeros(rows, np.int64)
        row = key_parted(letters, starts, stops, meters, sizes, starts_ms)
        if row < rows:
            raise Unknown(row)
        meter = self._meters.slots_of(Texts(letters, *meters), False)[0]
        size = self._sizes.slots_of(Texts(letters, *sizes), False)[0]
        sizes_ms = np.where((meter < 0) | (size < 0), -1, self._sizes_ms[meter, size])
        if rows and int(sizes_ms.min()) < 0:
            raise Unknown(int(sizes_ms.argmin()))
        ends_ms = starts_ms + sizes_ms
        return Ends(ends_ms, ends_ms + self._graces_ms[meter])
