"""A column of texts: where each stands in one array of bytes, without an object per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Letters = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Texts(NamedTuple):
    """Texts as bytes. starts, stops: of each, where it stands in `letters`; they may lie anywhere in it."""

    letters: Letters
    starts: Places
    stops: Places

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """Of texts that are objects."""
        stops = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.append(0, stops[:-1])[: len(texts)], stops)

    def only(self, rows: Places | Flags | slice) -> Texts:
        """Some of them."""
        return Texts(self.letters, self.starts[rows], self.stops[rows])

    def text(self, row: int) -> bytes:
        """One of them as an object."""
        return self.letters[self.starts[row] : self.stops[row]].tobytes()

    def tolist(self) -> list[bytes]:
        """As objects."""
        if not len(self.starts):
            return []
        begin = int(self.starts.min())  # they may be a few among the many of a fetch
        raw = self.letters[begin : int(self.stops.max())].tobytes()
        starts, stops = (self.starts - begin).tolist(), (self.stops - begin).tolist()
        return [raw[start:stop] for start, stop in zip(starts, stops, strict=True)]
