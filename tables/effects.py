"""What a partition asks the world to do, one effect at a time: produce, read, commit.

A procedure that has effects (recovery, emit, checkpoint) is a generator: it yields an effect, waits for its result and goes
on. So its *order* is a pure object that production drives against Kafka (`streams/tasks.py`) and a test against lists.
A failed effect is thrown into the generator as SendFailed, CommitRefused or BrokerError; none catches them: what fails
ends the membership, and recovery is the restart (design §2.4).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
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


@dataclass(frozen=True, slots=True)
class Turn:
    """Nothing; but long work may be left here for a moment, so that others have their turn. Result: None.

    It never reaches a performer (`streams/driver.py`).
    """


Effect = Produce | Commit | ReadCommitted | ReadBounds | ReadLog | ReadRecords | At | Turn
Procedure = Generator[Effect, Any, T]
"""A generator of effects that returns T."""


class WouldWrite(Exception):
    """A rehearsed procedure came to an effect that changes something."""


def relayed(procedure: Procedure[T], perform: Callable[[Effect], Procedure[Any]]) -> Procedure[T]:
    """The procedure, each of its effects performed by another one; what that raises is thrown into the first."""
    result: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = procedure.throw(failure) if failure is not None else procedure.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        failure = result = None
        try:
            result = yield from perform(effect)
        except Exception as error:
            failure = error


def rehearsed(procedure: Procedure[Any]) -> Procedure[bool]:
    """The procedure without its writes: False where it came to one, and ended there; True where it ended by itself."""

    def read_only(effect: Effect) -> Procedure[Any]:
        if isinstance(effect, Produce | Commit):
            raise WouldWrite
        return (yield effect)

    try:
        yield from relayed(procedure, read_only)
    except WouldWrite:
        return False
    return True


def elsewhere(topic: str, partition: int, procedure: Procedure[T]) -> Procedure[T]:
    """The procedure, which only reads, as the owner of another source partition would do it."""

    def there(effect: Effect) -> Procedure[Any]:
        if isinstance(effect, Turn):
            return (yield effect)
        assert not isinstance(effect, Produce | Commit | At), "another partition is only read"
        return (yield effect if isinstance(effect, Turn) else At(topic, partition, effect))

    return relayed(procedure, there)
