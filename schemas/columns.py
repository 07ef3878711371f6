"""What plain events mean for the meters, column by column: the same as `schemas/reader.py` says of each, and quicker.

An event that a column cannot take is *odd*: it is read by itself by `Reader.measure`, which finds it wrong and says why, or
reads it after all. Columns hold values of the odd ones, too; nobody looks at those.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET

from schemas.errors import DataError
from schemas.numbers import SUM, quantity
from schemas.plain import PlainEvent
from schemas.pointers import MISSING
from schemas.reader import (
    LAST_MS,
    SUBJECT_BYTES,
    Dimensions,
    Group,
    Place,
    Plan,
    group_of,
    group_of_found,
    member_of,
    member_of_text,
    time_of,
)
from schemas.shape_kernels import stamps
from schemas.shapes import Matched, Shape, Value, told_apart
from schemas.texts import Texts
from schemas.written import SMALL, Integers, Scaled

_NOTHING: dict[str, Any] = {}
_ZERO = Decimal(0)


class Coded(NamedTuple):
    """Of each event a number, and what it stands for. No name is there twice; one may be there for nothing."""

    codes: Integers
    names: Sequence[Any]

    @classmethod
    def of(cls, found: Sequence[Any]) -> Coded:
        """found: of each event what is to be told apart."""
        numbers = {one: number for number, one in enumerate(dict.fromkeys(found))}
        codes = np.fromiter(map(numbers.__getitem__, found), np.int64, len(found))
        return cls(codes, [*numbers])


class Subjects(NamedTuple):
    """Of each event a number, and the subject that it stands for, UTF-8. None is there twice."""

    codes: Integers
    names: Texts


class Columns(NamedTuple):
    """Events of one type, in the log's order. times_ms, subjects, sources, ids (UTF-8): of each.

    slots: by the plan's numbers, of each event a value: `Scaled` or a list of Decimals for quantities, `Coded` groups (None
    where there are none to tell apart), or a list of members; slot 0 is empty.
    """

    plan: Plan
    times_ms: Integers
    subjects: Subjects
    sources: Coded
    ids: Texts
    slots: list[Any]
    odd: set[int]


def columns(plan: Plan, events: Sequence[PlainEvent]) -> Columns:
    """The columns of events that are all of the plan's type."""
    odd: set[int] = set()
    times_ms = _times(Texts.of([event.time.encode() for event in events]), odd)
    subjects = _subjects(Texts.of([event.subject.encode() for event in events]), odd)
    held: list[Any] = [event.data for event in events]
    if UNSET in held:
        if plan.needs_data:
            odd.update(number for number, data in enumerate(held) if data is UNSET)
        held = [_NOTHING if data is UNSET else data for data in held]
    slots: list[Any] = [None]
    for kind, place in plan.reads:
        if kind == "group":
            slots.append(_groups(place, held, odd))  # type: ignore[arg-type]
        elif kind == "member":
            slots.append(_members(place, held, odd))  # type: ignore[arg-type]
        else:
            slots.append(_quantities(place, held, odd))  # type: ignore[arg-type]
    sources = Coded.of([event.source for event in events])
    return Columns(plan, times_ms, subjects, sources, Texts.of([event.id.encode() for event in events]), slots, odd)


def readable(plan: Plan, shape: Shape) -> bool:
    """Whether `shaped` can read what the plan's meters want of events of this shape."""
    if shape.data is None:
        return not plan.needs_data
    for kind, place in plan.reads:
        if kind == "group":
            found = [one.pointer.find(shape.data) for one in place.places]  # type: ignore[union-attr]
            if not all(one is MISSING or (type(one) is Value and not one.number) for one in found):
                return False
        else:
            value = place.pointer.find(shape.data)  # type: ignore[union-attr]
            if type(value) is not Value or (kind == "member" and value.number):
                return False
    return True


def shaped(plan: Plan, found: Matched) -> Columns:
    """The columns of events of one shape that are all of the plan's type, and of which it is `readable`."""
    odd: set[int] = set()
    attributes, data = found.shape.attributes, found.shape.data or _NOTHING
    times_ms = _times(found.texts(attributes["time"]), odd)
    subjects = _subjects(found.texts(attributes["subject"]), odd)
    codes, names = told_apart(found.texts(attributes["source"]))
    sources = Coded(codes, [name.decode() for name in names.tolist()])
    slots: list[Any] = [None]
    for kind, place in plan.reads:
        if kind == "group":
            slots.append(_shaped_groups(place, found, data, odd))  # type: ignore[arg-type]
            continue
        value = place.pointer.find(data)  # type: ignore[union-attr]
        assert isinstance(value, Value)
        texts = found.texts(value)
        if kind == "member":
            slots.append([member_of_text(text) for text in texts.tolist()])
            continue
        scaled = Scaled.written(texts)
        if scaled is not None:
            slots.append(_at_least(place, scaled, odd))  # type: ignore[arg-type]
        else:  # a number in a text may have an exponent, or be none
            held = texts.tolist()
            slots.append(_decimals(place, held if value.number else [*map(bytes.decode, held)], odd))  # type: ignore[arg-type]
    return Columns(plan, times_ms, subjects, sources, found.texts(attributes["id"]), slots, odd)


def _subjects(texts: Texts, odd: set[int]) -> Subjects:
    """Subjects told apart; those that are too long are odd."""
    subjects = Subjects(*told_apart(texts))
    long = texts.stops - texts.starts > SUBJECT_BYTES
    if long.any():
        odd.update(np.flatnonzero(long).tolist())
    return subjects


def _shaped_groups(dimensions: Dimensions, found: Matched, data: dict[str, Any], odd: set[int]) -> Coded | None:
    if not dimensions.places:
        return None
    codes = np.zeros(len(found.records), np.int64)
    named: list[tuple[str, ...]] = [()]
    for place in dimensions.places:
        value = place.pointer.find(data)
        if not isinstance(value, Value):  # one that is missing is ""
            named = [(*held, "") for held in named]
            continue
        told, texts = told_apart(found.texts(value))
        names = [text.decode() for text in texts.tolist()]
        if len(named) == 1:
            codes, named = told, [(*named[0], name) for name in names]
            continue
        pairs, codes = np.unique(codes * len(names) + told, return_inverse=True)
        named = [(*named[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()]
    groups: list[Group] = []
    wrong = []
    for code, held in enumerate(named):
        try:
            groups.append(group_of_found(dimensions, held))
        except DataError:
            groups.append(())
            wrong.append(code)
    if wrong:
        odd.update(np.flatnonzero(np.isin(codes, wrong)).tolist())
    return Coded(codes, groups)


def _times(texts: Texts, odd: set[int]) -> Integers:
    """Ms UTC. Times in UTC are read digit by digit, the others one by one."""
    times_ms, strange = np.empty(len(texts.starts), np.int64), np.empty(len(texts.starts), bool)
    if stamps(*texts, LAST_MS, times_ms, strange):
        for number in np.flatnonzero(strange).tolist():
            try:
                times_ms[number] = time_of(texts.text(number).decode())
            except DataError:
                odd.add(number)
    return times_ms


def _found(place: Place, held: list[Any]) -> list[Any]:
    if place.key is not None:
        key = place.key
        return [data.get(key, MISSING) for data in held]
    find = place.pointer.find
    return [find(data) for data in held]


def _quantities(place: Place, held: list[Any], odd: set[int]) -> Scaled | list[Decimal]:
    found = _found(place, held)
    scaled = _scaled(found)
    return _decimals(place, found, odd) if scaled is None else _at_least(place, scaled, odd)


def _at_least(place: Place, scaled: Scaled, odd: set[int]) -> Scaled:
    if place.minimum is not None:
        least = int(place.minimum.scaleb(scaled.places, SUM).to_integral_value(ROUND_CEILING))
        odd.update(np.flatnonzero(scaled.units < max(-SMALL, min(SMALL, least))).tolist())
    return scaled


def _decimals(place: Place, found: Sequence[Any], odd: set[int]) -> list[Decimal]:
    """Quantities one by one: numbers as they were written are bytes."""
    minimum = place.minimum
    exact = []
    for number, value in enumerate(found):
        try:
            amount = quantity(Decimal(value.decode()) if type(value) is bytes else value)
        except (DataError, InvalidOperation):
            odd.add(number)
            amount = _ZERO
        if minimum is not None and amount < minimum:
            odd.add(number)
        exact.append(amount)
    return exact


def _scaled(found: list[Any]) -> Scaled | None:
    """Ints, and numbers as they were written, without an exponent; None where there is anything else."""
    kinds = set(map(type, found))
    if kinds == {int}:
        return Scaled(np.array(found, np.int64), 0) if min(found) > -SMALL and max(found) < SMALL else None
    if not kinds <= {int, bytes}:
        return None
    return Scaled.written(Texts.of([value if type(value) is bytes else b"%d" % value for value in found]))


def _groups(dimensions: Dimensions, held: list[Any], odd: set[int]) -> Coded | None:
    if not dimensions.places:
        return None
    found = [_found(place, held) for place in dimensions.places]
    groups: list[Group | None]
    if all(set(map(type, values)) == {str} for values in found):
        groups = list(map(dimensions.seen.get, zip(*found, strict=True)))
    else:
        groups = [None] * len(held)
    for number, group in enumerate(groups):
        if group is None:
            try:
                groups[number] = group_of(dimensions, held[number])
            except DataError:  # a number that is no int, too: it is bytes here, and read again by itself
                odd.add(number)
                groups[number] = ()
    return Coded.of(groups)


def _members(place: Place, held: list[Any], odd: set[int]) -> list[bytes]:
    members = []
    for number, data in enumerate(held):
        try:
            members.append(member_of(place, data))
        except DataError:
            odd.add(number)
            members.append(b"")
    return members
