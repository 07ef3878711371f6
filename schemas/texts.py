"""A column of texts: where each stands in one array of bytes, without an object per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Letters = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


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

    def only(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Texts:
        """Some of them."""
        return Texts(self.letters, self.starts[rows], self.stops[rows])

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override]
        return self.letters[self.starts[row] : self.stops[row]].tobytes()

    def tolist(self) -> list[bytes]:
        """As objects."""
        raw = self.letters.tobytes()
        return [raw[start:stop] for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]
