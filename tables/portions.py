"""Parts of what a table writes that are not one key each: ranges of places for a snapshot, keys that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas import blocks
from schemas.changelog import Entry
from schemas.texts import Texts

_PLACES = 4096
WAITING = 500
"""Entries of single keys that are restored at once: much cheaper, and still nothing that holds others up."""


class Portion(NamedTuple):
    """A unit of a snapshot: what stands in the places from `begin` to `end`, exclusive, when its turn comes."""

    kind: str
    begin: int
    end: int


def portions(kind: str, places: int) -> list[Portion]:
    """The units of so many places. What is put anywhere later is touched, so it is in a checkpoint anyway."""
    return [Portion(kind, begin, min(begin + _PLACES, places)) for begin in range(0, places, _PLACES)]


def gone_entries(names: Sequence[bytes], limit: int) -> list[Entry]:
    """Keys that were removed, as entries of the packed kind `gone`: blocks of at most `limit` bytes."""
    return [Entry("gone", b"", block) for block in blocks.pack(Texts.of(names), [], limit)]
