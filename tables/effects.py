"""What a partition asks the world to do, one effect at a time: produce, read, commit.

A procedure that has effects (recovery, emit, checkpoint) is a generator: it yields an effect, waits for its result and goes
on. So its *order* is a pure object that production drives against Kafka (`streams/tasks.py`) and a test against lists.
A failed effect is thrown into the generator as SendFailed, CommitRefused or BrokerError; none catches them: what fails
ends the membership, and recovery is the restart (design §2.4).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from schemas.records import Out

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Produce:
    """Send all records and wait until every one is acknowledged (`acks=all`). Result: list[int], their offsets."""

    records: Sequence[Out]


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the source offset, once, as the member this assignment began with. Result: None."""

    offset: int


@dataclass(frozen=True, slots=True)
class ReadCommitted:
    """The group's committed offset of the source partition. Result: int | None."""


@dataclass(frozen=True, slots=True)
class ReadBounds:
    """First offset held and next offset to be written of a log partition. Result: tuple[int, int]."""

    topic: str


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Records of a log partition from `offset` on, as many as one fetch brings, none at or beyond `end`.

    Result: list[tuple[int, bytes]], offsets and values, in order; empty only where nothing is left below `end`.
    """

    topic: str
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """As ReadLog, whole records. Result: list[Record]. For mending, which folds a source log anew."""

    topic: str
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class At:
    """A read as the owner of another source partition would do it. Result: that of `effect`. For mending."""

    topic: str
    partition: int
    effect: ReadCommitted | ReadBounds | ReadLog | ReadRecords


Effect = Produce | Commit | ReadCommitted | ReadBounds | ReadLog | ReadRecords | At
Procedure = Generator[Effect, Any, T]
"""A generator of effects that returns T."""
