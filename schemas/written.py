"""Numbers as JSON writes them, many at once: what they come to as whole numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.shape_kernels import quantities
from schemas.texts import Texts

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SMALL = 1 << 40
"""Whole numbers below it are summed as machine words: a million of them stay far below 2^63."""


class Scaled(NamedTuple):
    """Quantities as whole numbers of 10^-places, each below `SMALL`."""

    units: Integers
    places: int

    @classmethod
    def written(cls, texts: Texts) -> Scaled | None:
        """Of numbers as JSON writes them, without an exponent; None where one of them is none, too long, or not small."""
        units, places = np.empty((2, len(texts.starts)), np.int64)
        most = int(quantities(*texts, SMALL, units, places))
        return None if most < 0 else cls(units, most)
