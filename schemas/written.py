"""Numbers as JSON writes them, many at once: whether they are some, and what they come to as whole numbers.

Digit by digit, all together: each counts ten to the power of its distance from the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Letters = npt.NDArray[np.uint8]

SMALL = 1 << 40
"""Whole numbers below it are summed as machine words: a million of them stay far below 2^63."""

_MOST_DIGITS = 18
"""Of a number, a sign counted as one: their places are words below 2^63, and no quantity is too long (`schemas/numbers.py`)."""
_MINUS, _POINT, _NULL, _NINE = b"-.09"
_POWERS = 10 ** np.arange(_MOST_DIGITS + 1)


class Scaled(NamedTuple):
    """Quantities as whole numbers of 10^-places, each below `SMALL`."""

    units: Integers
    places: int


class Numbers(NamedTuple):
    """Texts that may be numbers, one behind the other. starts, ends: of each; points: where its point is, or its end.

    sound: whether it is a number as JSON writes it, without an exponent.
    """

    letters: Letters
    starts: Integers
    points: Integers
    ends: Integers
    sound: Flags

    @classmethod
    def written(cls, texts: Sequence[bytes]) -> Numbers:
        """Of texts that are not empty."""
        return cls._of(np.frombuffer(b"".join(texts), np.uint8), np.fromiter(map(len, texts), np.int64, len(texts)))

    @classmethod
    def at(cls, letters: Letters, starts: Integers, stops: Integers) -> Numbers:
        """Of the texts at these places, of at least one byte each."""
        sizes = stops - starts
        ends = np.cumsum(sizes)
        return cls._of(letters[np.repeat(starts - ends + sizes, sizes) + np.arange(int(ends[-1]))], sizes)

    @classmethod
    def _of(cls, letters: Letters, sizes: Integers) -> Numbers:
        ends = np.cumsum(sizes)
        starts = ends - sizes
        point = letters == _POINT
        where = np.flatnonzero(point)
        owners = np.searchsorted(ends, where, side="right")
        points = ends.copy()
        points[owners] = where
        negative = letters[starts] == _MINUS
        first = starts + negative
        others = (letters < _NULL) | (letters > _NINE)
        strange = np.add.reduceat(others, starts, dtype=np.int64) - negative - (points < ends)  # a second point, too
        whole = points - first
        sound = (strange == 0) & (whole > 0) & (points != ends - 1)
        sound &= (whole == 1) | (letters[np.minimum(first, len(letters) - 1)] != _NULL)
        return cls(letters, starts, points, ends, sound)

    def scaled(self) -> Scaled | None:
        """What they come to; None where one of them is not sound, too long, or not small."""
        places = max(0, int((self.ends - self.points).max()) - 1)
        if not self.sound.all() or places + int((self.points - self.starts).max()) > _MOST_DIGITS:
            return None
        power = np.repeat(self.points, self.ends - self.starts) - np.arange(len(self.letters))
        power -= power > 0
        digits = np.where(self.letters >= _NULL, self.letters - _NULL, 0)
        units = np.add.reduceat(digits * _POWERS[power + places], self.starts)
        np.negative(units, out=units, where=self.letters[self.starts] == _MINUS)
        return Scaled(units, places) if int(np.abs(units).max()) < SMALL else None
