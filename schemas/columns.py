"""What plain events mean for the meters, column by column: the same as `schemas/reader.py` says of each, and quicker.

An event that a column cannot take is *odd*: it is read by itself by `Reader.measure`, which finds it wrong and says why, or
reads it after all. Columns hold values of the odd ones, too; nobody looks at those.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    member_of,
    time_of,
)

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
SMALL = 1 << 40
"""Whole numbers below it are summed as machine words: a million of them stay far below 2^63."""

_NOTHING: dict[str, Any] = {}
_ZERO = Decimal(0)
_STAMP = 24
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22]
_MOST_DIGITS = 18
"""Of a number, a sign counted as one: their places are words below 2^63, and no quantity is too long (`schemas/numbers.py`)."""
_END, _MINUS, _POINT, _NULL, _NINE = b"\n-.09"
_POWERS = 10 ** np.arange(_MOST_DIGITS + 1)
_MARKS = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":", 19: ".", 23: "Z"}


class Scaled(NamedTuple):
    """Quantities as whole numbers of 10^-places, each below `SMALL`."""

    units: Integers
    places: int


class Columns(NamedTuple):
    """Events of one type. times_ms and subjects: of each; slots: by the plan's numbers, of each event a value.

    A slot is `Scaled` or a list of Decimals for quantities, a list of groups (None where there are none to tell apart), or
    of members; slot 0 is empty.
    """

    plan: Plan
    times_ms: Integers
    subjects: list[str]
    slots: list[Any]
    odd: set[int]


def columns(plan: Plan, events: Sequence[PlainEvent]) -> Columns:
    """The columns of events that are all of the plan's type."""
    odd: set[int] = set()
    times_ms = _times([event.time for event in events], odd)
    subjects = [event.subject for event in events]
    if max(map(len, subjects)) * 4 > SUBJECT_BYTES:
        odd.update(number for number, subject in enumerate(subjects) if len(subject) * 4 > SUBJECT_BYTES)
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
    return Columns(plan, times_ms, subjects, slots, odd)


def _times(texts: list[str], odd: set[int]) -> Integers:
    """Ms UTC. Times of the form 2026-01-31T12:00:00.000Z are read digit by digit, all at once."""
    joined = "".join(texts)
    if len(joined) == _STAMP * len(texts) and joined.isascii():
        letters = np.frombuffer(joined.encode(), np.uint8).reshape(-1, _STAMP)
        digits = letters[:, _DIGITS] - np.uint8(48)
        if (digits <= 9).all() and all((letters[:, at] == ord(mark)).all() for at, mark in _MARKS.items()):
            found = _of_digits(digits.astype(np.int64), [text[:10] for text in texts])
            if found is not None:
                return found
    times_ms = np.zeros(len(texts), np.int64)
    for number, text in enumerate(texts):
        try:
            times_ms[number] = time_of(text)
        except DataError:
            odd.add(number)
    return times_ms


def _of_digits(digits: Integers, dates: list[str]) -> Integers | None:
    """None where a time is out of range: a day or an hour that is none, a leap second, a year that no event may have."""
    hours, minutes, seconds = (digits[:, at] * 10 + digits[:, at + 1] for at in (8, 10, 12))
    if hours.max() > 23 or minutes.max() > 59 or seconds.max() > 59:
        return None
    days: dict[str, int] = {}
    try:
        for date in set(dates):
            days[date] = time_of(f"{date}T00:00:00Z")
            time_of(f"{date}T23:59:59.999Z")
    except DataError:
        return None
    if len(days) == 1:
        midnights: Integers | int = days[dates[0]]
    else:
        midnights = np.fromiter(map(days.__getitem__, dates), np.int64, len(dates))
    millis = digits[:, 14] * 100 + digits[:, 15] * 10 + digits[:, 16]
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
    minimum = place.minimum
    scaled = _scaled(found)
    if scaled is not None:
        if minimum is not None:
            least = int(minimum.scaleb(scaled.places, SUM).to_integral_value(ROUND_CEILING))
            below = np.flatnonzero(scaled.units < max(-SMALL, min(SMALL, least)))
            odd.update(below.tolist())
        return scaled
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
    """Ints, and numbers as they were written, with a point and without an exponent; None where there is anything else."""
    kinds = set(map(type, found))
    if kinds == {int}:
        return Scaled(np.array(found, np.int64), 0) if min(found) > -SMALL and max(found) < SMALL else None
    if kinds == {int, bytes}:
        found = [value if type(value) is bytes else b"%d." % value for value in found]
    elif kinds != {bytes}:
        return None
    # Digit by digit, all at once: each counts ten to the power of its distance from the point.
    letters = np.frombuffer(b"\n".join(found) + b"\n", np.uint8)
    ends, points = np.flatnonzero(letters == _END), np.flatnonzero(letters == _POINT)
    if len(points) != len(found) or (letters > _NINE).any():
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = int((ends - points).max()) - 1
    if places + int((points - starts).max()) > _MOST_DIGITS:
        return None
    power = np.repeat(points, ends - starts + 1) - np.arange(len(letters))
    power -= power > 0
    units = np.add.reduceat(np.where(letters >= _NULL, (letters - _NULL) * _POWERS[power + places], 0), starts)
    np.negative(units, out=units, where=letters[starts] == _MINUS)
    return Scaled(units, places) if int(np.abs(units).max()) < SMALL else None


def _groups(dimensions: Dimensions, held: list[Any], odd: set[int]) -> list[Group] | None:
    if not dimensions.places:
        return None
    found = [_found(place, held) for place in dimensions.places]
    groups: list[Group | None]
    if all(set(map(type, values)) == {str} for values in found):
        groups = list(map(dimensions.seen.get, zip(*found, strict=True)))
        if None not in groups:
            return groups  # type: ignore[return-value]
    else:
        groups = [None] * len(held)
    for number, group in enumerate(groups):
        if group is None:
            try:
                groups[number] = group_of(dimensions, held[number])
            except DataError:  # a number that is no int, too: it is bytes here, and read again by itself
                odd.add(number)
                groups[number] = ()
    return groups  # type: ignore[return-value]


def _members(place: Place, held: list[Any], odd: set[int]) -> list[bytes]:
    members = []
    for number, data in enumerate(held):
        try:
            members.append(member_of(place, data))
        except DataError:
            odd.add(number)
            members.append(b"")
    return members
