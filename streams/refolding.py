"""Folding a source log anew, and what the logs of a deployment tell about each other; for mending. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from schemas import changelog
from schemas import partials as wire
from schemas.errors import PartitionStopped
from schemas.partials import Watermark
from schemas.records import Batch, Record
from schemas.windows import WindowKey
from streams.closing import Closing
from streams.deployment import Deployment, StageName
from streams.metering import Metering
from tables.durable import Durable
from tables.effects import Effect, Procedure, ReadBounds, ReadLog, ReadRecords, elsewhere, rehearsed, relayed

T = TypeVar("T")
SAME_LOG = 50
"""Records before an offset by which a log is recognised."""
TAIL = 500
"""Offsets of a partials log that are looked at first for a source's newest watermark."""


class Stuck(Exception):
    """The record at `offset` cannot be folded: `error` says why. The state before it ends at `position`."""

    def __init__(self, position: int, offset: int, error: PartitionStopped) -> None:
        super().__init__(error.what)
        self.position = position
        self.offset = offset
        self.error = error


def fold(
    stage: Metering | Closing, goal: int, after: Callable[[Metering | Closing], Procedure[None]]
) -> Procedure[None]:
    """Folds the source log up to `goal`, one record at a time; `after` each fetch. Raises Stuck; its state is then spoilt."""
    durable, table = stage.durable, stage.durable.table
    while table.position < goal:
        records: list[Record] = yield ReadRecords(durable.source_topic, table.position, goal)
        for record in records:
            position = table.position
            try:
                stage.step(Batch(position, record.offset + 1, [record]))
            except PartitionStopped as error:
                raise Stuck(position, record.offset, error) from error
            except Exception as error:
                raise Stuck(position, record.offset, durable.cannot_fold(error)) from error
        if not records:
            table.position = goal  # only control records are left
        yield from after(stage)


def forget(stage: Metering | Closing) -> Procedure[None]:
    """For `fold`: what the stage would send or show was sent and shown before, or never will be."""
    if isinstance(stage, Metering):
        stage.table.take_changed()
        stage.dead_letters.clear()
    else:
        stage.take_changed()
        stage.revised.clear()
    yield from ()


def keep(stage: Metering | Closing) -> Procedure[None]:
    """For `fold`: what the stage would send is kept for its next emit."""
    yield from ()


def behind(empty: Metering | Closing, offset: int) -> Procedure[int]:
    """The offset behind the record at `offset` and behind those next to it that cannot be folded either.

    empty: a stage without state, to try each by itself; it is spoilt then.
    """
    topic = empty.durable.source_topic
    at = offset + 1
    _, end = yield ReadBounds(topic)
    while at < end and (records := (yield ReadRecords(topic, at, end))):
        for record in records:
            empty.table.position = record.offset
            try:
                empty.step(Batch(record.offset, record.offset + 1, [record]))
            except Exception:  # whatever it is: the worker would stop at it, too
                at = record.offset + 1
            else:
                return at
    return at


def recognised(stage: Metering | Closing) -> Procedure[bool]:
    """Whether the source log is the one that was folded: its last records, folded again, are all known. Spoils the state.

    Where they say nothing (ticks, removed ones) it is taken for the same.
    """
    durable, table = stage.durable, stage.durable.table
    end = table.position
    begin, _ = yield ReadBounds(durable.source_topic)
    at = first = max([begin, end - SAME_LOG, *(gap.end for gap in stage.table.gaps)])
    records: list[Record] = []
    while at < end and (more := (yield ReadRecords(durable.source_topic, at, end))):
        records += more
        at = more[-1].offset + 1
    if not records:
        return True
    table.position = first
    if isinstance(stage, Metering):
        ledger = stage.table.ledger
        counted, known = ledger.counted, ledger.duplicate
        stage.step(Batch(first, end, records))
        # Of the same log a retry that was stamped anew may count again, its first id being too old by now: one in a while.
        return ledger.counted - counted <= ledger.duplicate - known
    before = _joined(stage)
    try:
        stage.step(Batch(first, end, records))
    except PartitionStopped:
        return False
    return _joined(stage) == before


def _joined(stage: Closing) -> object:
    table = stage.table
    return table.counters.windows_opened, [(s.joined, s.through, s.watermark_ms) for s in table.sources]


def passing_over(durable: Durable, procedure: Procedure[T]) -> Procedure[T]:
    """The procedure, reading the changelog as if the records in it that are no chunks were not there."""

    def reading(effect: Effect) -> Procedure[Any]:
        result = yield effect
        if not isinstance(effect, ReadLog) or effect.topic != durable.changelog_topic:
            return result
        while result:
            chunks = [record for record in result if _is_chunk(record[1])]
            if chunks:
                return chunks
            result = yield ReadLog(effect.topic, result[-1][0] + 1, effect.end)
        return []

    return relayed(procedure, reading)


def _is_chunk(value: bytes) -> bool:
    try:
        changelog.decode(value)
    except msgspec.DecodeError:
        return False
    return True


def proven(durable: Durable) -> Procedure[int | None]:
    """The newest offset that the changelog proves; None where it proves nothing."""
    try:
        return (yield from passing_over(durable, durable.newest_proven()))
    except PartitionStopped:
        return None


def first_offset(durable: Durable) -> Procedure[int | None]:
    """Where this partition began, if its source log still holds everything since; else None."""
    begin, _ = yield ReadBounds(durable.source_topic)
    if begin == 0:
        return 0
    try:
        first = yield from passing_over(durable, durable.first_act())
    except PartitionStopped:
        return None
    return first if first is not None and begin <= first else None


def told_definitions(deployment: Deployment) -> Procedure[str | None]:
    """The digest of the definitions that any changelog of the deployment names; None where none is left."""
    stages: tuple[StageName, StageName] = ("metering", "closing")
    for stage in stages:
        for partition in deployment.partitions(stage):
            durable = deployment.stage(stage, partition).durable
            looking = passing_over(durable, durable.newest_definitions())
            try:
                digest = yield from elsewhere(durable.source_topic, partition, looking)
            except PartitionStopped:
                continue
            if digest is not None:
                return digest
    return None


def told_watermarks(deployment: Deployment, source: int, goal: int | None) -> Procedure[list[tuple[int, Watermark]]]:
    """The newest watermarks of a source, each with its target: back to one of an offset before `goal`, if there is one."""
    topic = deployment.topics.partials
    found: list[tuple[int, Watermark]] = []
    for target in range(deployment.targets):
        begin, end = yield from elsewhere(topic, target, _bounds(topic))
        back = TAIL
        while True:
            at = max(begin, end - back)
            marks = yield from elsewhere(topic, target, _watermarks(topic, at, end, source))
            if at == begin or any(goal is None or mark.through < goal for mark in marks):
                break
            back *= 4
        found += [(target, mark) for mark in marks]
    return found


def told_shares(
    deployment: Deployment, target: int, source: int, start: int
) -> Procedure[tuple[int, dict[WindowKey, tuple[int, int]]]]:
    """What CLOSING of a target knows of a source, at the end of its log: the watermark that was promised, ms; and of each
    window with a share `through` offset `start` or more: the meter's version, and `through`.

    Raises PartitionStopped or Stuck where it is stopped itself.
    """
    stage = deployment.closing(target)
    topic = deployment.topics.partials
    yield from elsewhere(topic, target, rehearsed(stage.recover()))
    _, end = yield from elsewhere(topic, target, _bounds(topic))
    yield from elsewhere(topic, target, fold(stage, end, forget))
    shares = {
        key: (window.version, window.shares[source].through)
        for key, window in stage.table.windows.items()
        if source in window.shares and window.shares[source].through >= start
    }
    return stage.table.sources[source].watermark_ms, shares


def _bounds(topic: str) -> Procedure[tuple[int, int]]:
    bounds: tuple[int, int] = yield ReadBounds(topic)
    return bounds


def _watermarks(topic: str, at: int, end: int, source: int) -> Procedure[list[Watermark]]:
    marks = []
    while at < end and (records := (yield ReadLog(topic, at, end))):
        for _, value in records:
            try:
                message = wire.decode(value)
            except msgspec.DecodeError:
                continue  # of somebody else: CLOSING stops at it, METERING's word is not in it
            if isinstance(message, Watermark) and message.source == source:
                marks.append(message)
        at = records[-1][0] + 1
    return marks
