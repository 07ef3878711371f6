"""Sources: how a foreign record becomes a CloudEvent, so that a new billing source needs no code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One source of usage records."""

    name: str
