"""What a checked run has in common, whatever is run: it ends with a signal, and tells what did not fit."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

from local.checking import Mismatch
from local.foreground import stop_signals, unless

SHOWN_MISMATCHES = 20
T = TypeVar("T")


async def until_signal(running: Awaitable[T]) -> T | None:
    """Its result; None if a signal ended it, cleanly."""
    found: list[T] = []

    async def work() -> None:
        found.append(await running)

    with stop_signals() as stop:
        return found[0] if await unless(stop, work()) else None


def told(mismatches: Sequence[Mismatch], directory: Path) -> None:
    """The first of them on stderr, and where to look."""
    for where, what, expected, found in mismatches[:SHOWN_MISMATCHES]:
        print(f"mismatch: {where}: {what}: expected {expected}, found {found}", file=sys.stderr)
    if len(mismatches) > SHOWN_MISMATCHES:
        print(f"… and {len(mismatches) - SHOWN_MISMATCHES} more", file=sys.stderr)
    print(f"logs, messages and documents are kept in {directory}", file=sys.stderr)
