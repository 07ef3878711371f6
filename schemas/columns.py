"""What plain events mean for the meters, column by column: the same as `schemas/reader.py` says of each, and quicker.

An event that a column cannot take is *odd*: it is read by itself by `Reader.measure`, which finds it wrong and says why, or
reads it after all. Columns hold values of the odd ones, too; nobody looks at those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from schemas.errors import DataError
from schemas.numbers import SUM, quantity
from schemas.plain import PlainEvent
from schemas.pointers import MISSING
from schemas.reader import (
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
from schemas.shapes import Matched, Shape, Value
from schemas.written import SMALL, Integers, Numbers, Scaled

_NOTHING: dict[str, Any] = {}
_ZERO = Decimal(0)
_STAMP = 24
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22]
_MARKS = [4, 7, 10, 13, 16, 19, 23]
_MARKED = np.frombuffer(b"--T::.Z", np.uint8)
_STAMP_PLACES = np.arange(_STAMP)
_DATE = 10 ** np.arange(7, -1, -1)


class Coded(NamedTuple):
    """Of each event a number, and what it stands for. No name is there twice; one may be there for nothing."""

    codes: Integers
    names: Sequence[Any]

    @classmethod
    def of(cls, found: Sequence[Any], name: Callable[[Any], Any] | None = None) -> Coded:
        """found: of each event what is to be told apart. name: what it stands for, if not for itself."""
        numbers = {one: number for number, one in enumerate(dict.fromkeys(found))}
        if len(numbers) == 1:
            return cls(np.zeros(len(found), np.int64), [found[0] if name is None else name(found[0])])
        codes = np.fromiter(map(numbers.__getitem__, found), np.int64, len(found))
        return cls(codes, [*numbers] if name is None else [*map(name, numbers)])


class Columns(NamedTuple):
    """Events of one type, in the log's order. times_ms, subjects, sources, ids (UTF-8): of each.

    slots: by the plan's numbers, of each event a value: `Scaled` or a list of Decimals for quantities, `Coded` groups (None
    where there are none to tell apart), or a list of members; slot 0 is empty.
    """

    plan: Plan
    times_ms: Integers
    subjects: Coded
    sources: Coded
    ids: list[bytes]
    slots: list[Any]
    odd: set[int]


def columns(plan: Plan, events: Sequence[PlainEvent]) -> Columns:
    """The columns of events that are all of the plan's type."""
    odd: set[int] = set()
    times_ms = _times([event.time for event in events], odd)
    subjects = Coded.of([event.subject for event in events])
    _mark_long(subjects, odd)
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
    return Columns(plan, times_ms, subjects, sources, [event.id.encode() for event in events], slots, odd)


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
    times_ms = _shaped_times(found, attributes["time"], odd)
    subjects = Coded.of(found.texts(attributes["subject"]), bytes.decode)
    _mark_long(subjects, odd)
    sources = Coded.of(found.texts(attributes["source"]), bytes.decode)
    slots: list[Any] = [None]
    for kind, place in plan.reads:
        if kind == "group":
            slots.append(_shaped_groups(place, found, data, odd))  # type: ignore[arg-type]
            continue
        value = place.pointer.find(data)  # type: ignore[union-attr]
        assert isinstance(value, Value)
        if kind == "member":
            slots.append([member_of_text(text) for text in found.texts(value)])
            continue
        scaled = found.numbers(value).scaled() if (found.stops[value.at] > found.starts[value.at]).all() else None
        if scaled is not None:
            slots.append(_at_least(place, scaled, odd))  # type: ignore[arg-type]
        else:  # a number in a text may have an exponent, or be none
            texts = found.texts(value)
            slots.append(_decimals(place, texts if value.number else [*map(bytes.decode, texts)], odd))  # type: ignore[arg-type]
    return Columns(plan, times_ms, subjects, sources, found.texts(attributes["id"]), slots, odd)


def _mark_long(subjects: Coded, odd: set[int]) -> None:
    """Subjects that may be too long are looked at one by one: a letter is four bytes at most."""
    long = [code for code, subject in enumerate(subjects.names) if len(subject) * 4 > SUBJECT_BYTES]
    if long:
        odd.update(np.flatnonzero(np.isin(subjects.codes, long)).tolist())


def _shaped_times(found: Matched, time: Value, odd: set[int]) -> Integers:
    starts = found.starts[time.at]
    if (found.stops[time.at] - starts == _STAMP).all():
        letters = found.batch.letters[starts[:, None] + _STAMP_PLACES]
        times_ms = _of_stamps(letters)
        if times_ms is not None:
            return times_ms
    return _times([text.decode() for text in found.texts(time)], odd)


def _shaped_groups(dimensions: Dimensions, found: Matched, data: dict[str, Any], odd: set[int]) -> Coded | None:
    if not dimensions.places:
        return None
    many = len(found.records)
    columns: list[list[bytes]] = []
    for place in dimensions.places:
        value = place.pointer.find(data)
        columns.append(found.texts(value) if isinstance(value, Value) else [b""] * many)  # one that is missing is ""
    coded = Coded.of(list(zip(*columns, strict=True)))
    groups: list[Group] = []
    wrong = []
    for code, texts in enumerate(coded.names):
        try:
            groups.append(group_of_found(dimensions, tuple([text.decode() for text in texts])))
        except DataError:
            groups.append(())
            wrong.append(code)
    if wrong:
        odd.update(np.flatnonzero(np.isin(coded.codes, wrong)).tolist())
    return Coded(coded.codes, groups)


def _times(texts: list[str], odd: set[int]) -> Integers:
    """Ms UTC. Times of the form 2026-01-31T12:00:00.000Z are read digit by digit, all at once."""
    joined = "".join(texts)
    if len(joined) == _STAMP * len(texts) and joined.isascii():
        found = _of_stamps(np.frombuffer(joined.encode(), np.uint8).reshape(-1, _STAMP))
        if found is not None:
            return found
    times_ms = np.zeros(len(texts), np.int64)
    for number, text in enumerate(texts):
        try:
            times_ms[number] = time_of(text)
        except DataError:
            odd.add(number)
    return times_ms


def _of_stamps(letters: npt.NDArray[np.uint8]) -> Integers | None:
    """Ms UTC of times written in 24 letters each; None where one is of another form, or out of range.

    That is: a day or an hour that is none, a leap second, a year that no event may have.
    """
    if not (letters[:, _MARKS] == _MARKED).all():
        return None
    digits = letters[:, _DIGITS] - np.uint8(48)
    if int(digits.max()) > 9:
        return None
    numbers = digits.astype(np.int64)
    hours, minutes, seconds = (numbers[:, at] * 10 + numbers[:, at + 1] for at in (8, 10, 12))
    if hours.max() > 23 or minutes.max() > 59 or seconds.max() > 59:
        return None
    dates = numbers[:, :8] @ _DATE
    first = int(dates[0])
    days: dict[int, int] = {}
    try:
        for date in [first] if (dates == first).all() else np.unique(dates).tolist():
            text = f"{date // 10_000:04}-{date // 100 % 100:02}-{date % 100:02}"
            days[date] = time_of(f"{text}T00:00:00Z")
            time_of(f"{text}T23:59:59.999Z")
    except DataError:
        return None
    if len(days) == 1:
        midnights: Integers | int = days[first]
    else:
        midnights = np.fromiter(map(days.__getitem__, dates.tolist()), np.int64, len(dates))
    millis = numbers[:, 14] * 100 + numbers[:, 15] * 10 + numbers[:, 16]
    result: Integers = midnights + ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis
    return result


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
    return Numbers.written([value if type(value) is bytes else b"%d" % value for value in found]).scaled()


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
