"""Kernels of streams/ (see `schemas/compiled.py`): which numbers wait."""

from __future__ import annotations

from typing import Any

from schemas.compiled import kernel

Array = Any
"""A numpy array; each kernel's docstring says of what."""


@kernel
def noted(numbers: Array, bits: Array, new: Array) -> int:
    """Sets the bits of numbers; those of which it was not set are new. Gives how many."""
    size = 0
    for row in range(len(numbers)):
        number = numbers[row]
        mask = 1 << (number & 7)
        if bits[number >> 3] & mask == 0:
            bits[number >> 3] |= mask
            new[size] = number
            size += 1
    return size


@kernel
def let_go(numbers: Array, bits: Array) -> None:
    """Clears the bits of numbers."""
    for row in range(len(numbers)):
        number = numbers[row]
        bits[number >> 3] &= ~(1 << (number & 7))
