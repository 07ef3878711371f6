"""Kernels of schemas/ (see `schemas/compiled.py`): texts put together, amounts written in one way."""

from __future__ import annotations

from typing import Any

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""


@kernel
def joined(letters: Array, starts: Array, stops: Array, out: Array) -> None:
    """Texts, one behind the other."""
    at = 0
    for row in range(len(starts)):
        start = starts[row]
        for number in range(stops[row] - start):
            out[at + number] = letters[start + number]
        at += stops[row] - start


@kernel
def without_zeros(units: Array, places: Array) -> None:
    """Amounts of units x 10^-places lose the zeros at their end, in place: equal ones are written equally. -1 places: none."""
    for row in range(len(units)):
        amount, left = units[row], places[row]
        while left > 0 and amount % 10 == 0:
            amount //= 10
            left -= 1
        units[row], places[row] = amount if left >= 0 else 0, left
