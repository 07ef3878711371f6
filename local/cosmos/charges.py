"""Request units: what an operation costs, and a budget per second that runs out.

Figures: learn.microsoft.com/azure/cosmos-db/understand-request-unit-consumption (2026-04): a 1 KB write 4.95 RU, 2 KB
6.29, 4 KB 6.67, +0.2 per indexed term, replace about 2x create, patch about 11.6, point read of 1 KB 1.0. Sizes in
between are interpolated, and beyond 4 KB extrapolated by the per-KB price of large writes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

_WRITE_STEPS = ((1, 4.95), (2, 6.29), (4, 6.67))
_WRITE_PER_KB_ABOVE = 0.7
_PER_TERM = 0.2


def read(size_bytes: int) -> float:
    """A point read: 1 RU per KB begun, in steps that grow slower above 1 KB."""
    return round(max(1.0, 1.0 + 0.05 * (math.ceil(size_bytes / 1024) - 1)), 2)


def create(size_bytes: int, terms: int) -> float:
    """An insert of a new item with `terms` indexed values."""
    return round(_write(size_bytes) + _PER_TERM * terms, 2)


def replace(size_bytes: int, terms: int) -> float:
    """An overwrite (replace, upsert of an existing item, delete): about twice an insert."""
    return round(2 * _write(size_bytes) + 0.9 + 2 * _PER_TERM * terms, 2)


def patch(size_bytes: int, terms: int, operations: int) -> float:
    """A partial update: an overwrite and something per operation."""
    return round(2 * _write(size_bytes) + 0.9 + 2 * _PER_TERM * terms + 0.4 * operations, 2)


def query(read_bytes: int, returned: int) -> float:
    """A query: 2.3 RU to begin with, then by what it loaded and returned."""
    return round(2.3 + read_bytes / 1024 * 0.05 + returned * 0.03, 2)


CONTROL = 1.0
"""What reading an account, database, container or query plan is said to cost."""


def indexed_terms(document: Mapping[str, Any], policy: Mapping[str, Any]) -> int:
    """How many values of a document its container indexes.

    The most specific path decides, as in Azure: `/subject/?` included beats `/*` excluded.
    """
    if policy.get("indexingMode") == "none":
        return 0
    included = [entry.get("path", "") for entry in policy.get("includedPaths", [])]
    excluded = [entry.get("path", "") for entry in policy.get("excludedPaths", [])]

    def is_indexed(path: str) -> bool:
        best_in = max((len(p) for p in included if _covers(p, path)), default=-1)
        best_out = max((len(p) for p in excluded if _covers(p, path)), default=-1)
        return best_in > best_out

    return sum(is_indexed(path) for path in _leaves(document, ""))


def _leaves(value: Any, path: str) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for name, part in value.items() if name[:1] != "_" for leaf in _leaves(part, f"{path}/{name}")]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part, f"{path}/[]")]
    return [path]


def _covers(pattern: str, path: str) -> bool:
    pattern = pattern.replace('"', "")
    if pattern.endswith("/*"):
        return (path + "/").startswith(pattern[:-1])
    return path == pattern.removesuffix("/?")


def _write(size_bytes: int) -> float:
    kb = max(1.0, size_bytes / 1024)
    for (low, low_ru), (high, high_ru) in itertools.pairwise(_WRITE_STEPS):
        if kb <= high:
            return low_ru + (high_ru - low_ru) * (kb - low) / (high - low)
    last_kb, last_ru = _WRITE_STEPS[-1]
    return last_ru + (kb - last_kb) * _WRITE_PER_KB_ABOVE


class Budget:
    """Request units per second for one container in one region. A second may end in debt, which the next one pays."""

    def __init__(self, rus_per_second: int) -> None:
        assert rus_per_second > 0, "a budget without units serves nobody"
        self._limit = rus_per_second
        self._second = 0
        self._spent = 0.0

    def wait_ms(self, now_ms: int) -> int:
        """0 when a request may run now, else the milliseconds until the units are back (x-ms-retry-after-ms)."""
        self._roll(now_ms)
        if self._spent < self._limit:
            return 0
        seconds = int(self._spent // self._limit)
        return (self._second + seconds) * 1000 - now_ms

    def spend(self, units: float, now_ms: int) -> None:
        """Take what a request has cost."""
        self._roll(now_ms)
        self._spent += units

    def _roll(self, now_ms: int) -> None:
        second = now_ms // 1000
        if second > self._second:
            self._spent = max(0.0, self._spent - self._limit * (second - self._second))
            self._second = second
