"""What an event means for the meters: its time, subject, groups and quantities (design §4, *unmatched* and *invalid*).

Compiled once from the definitions. An event's data is parsed once, and what meters share is read once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.definitions import Definitions, Meter
from schemas.errors import DataError
from schemas.events import RawEvent
from schemas.numbers import canonical_number, describe, format_quantity, quantity
from schemas.pointers import MISSING, Pointer
from schemas.refusals import MAX_DEPTH, repeated_key, too_deep
from schemas.times import parse_rfc3339

SUBJECT_BYTES = 512
"""UTF-8 bytes of a subject, at most (design §6)."""
GROUP_VALUE_BYTES = 512
"""UTF-8 bytes of one group value, at most."""

Group = tuple[tuple[str, str], ...]


class Measurement(NamedTuple):
    """What one event means for one meter.

    group: (name, value), sorted by name. quantity: for sum, min, max, avg and latest. member: 16 bytes that stand for a
    value, for unique_count. Both are None for count.
    """

    meter: Meter
    group: Group
    quantity: Decimal | None
    member: bytes | None


class Measured(NamedTuple):
    """What one event means: its time (ms UTC), its subject, and a measurement per matching meter, sorted by slug."""

    time_ms: int
    subject: str
    measurements: tuple[Measurement, ...]


Kind = Literal["quantity", "member", "group"]
"""What is read of the data."""

UNMATCHED = Measured(0, "", ())
"""No meter reads this event's type; nothing else of it was looked at."""


class Place(NamedTuple):
    """Where to look in `data`, and for whom. key: the pointer's only step, if it has only one: most have."""

    whose: str
    key: str | None
    pointer: Pointer
    minimum: Decimal | None = None


class Dimensions(NamedTuple):
    """A group's places, sorted by name, and the groups seen of late, by the texts found there."""

    places: tuple[Place, ...]
    seen: dict[tuple[object, ...], Group]


class Plan(NamedTuple):
    """The meters of one event type.

    reads: what to read of the data, each once, into a slot; slot 0 is empty. meters: each with the slots of its group,
    its quantity and its member. needs_data: whether any meter reads a value; a count of events needs none.
    """

    reads: tuple[tuple[Kind, Place | Dimensions], ...]
    meters: tuple[tuple[Meter, int, int, int], ...]
    needs_data: bool


class Reader:
    """Reads events for one set of definitions. What it keeps besides only saves it from reading the same again."""

    def __init__(self, definitions: Definitions) -> None:
        self._plans = {event_type: _compile(meters) for event_type, meters in definitions.by_event_type.items()}

    def plan(self, event_type: str) -> Plan | None:
        """What the meters of a type read; None where there is none."""
        return self._plans.get(event_type)

    def matches(self, event_type: str) -> bool:
        """Whether any meter reads events of this type."""
        return event_type in self._plans

    def measure(self, event: RawEvent) -> Measured:
        """What the event means for every meter of its type; UNMATCHED if there is none.

        Raises DataError("invalid", …), with what was found and expected, if it cannot be counted in all of them: a time
        that is missing, no RFC 3339 time with zone, or before 1970; a subject that is missing, empty or over 512 bytes;
        data that is missing, or null, where a value is read, is no JSON object, or has a key twice; a value that is missing, no
        quantity, or below the meter's minimum; a group value that is no scalar or over 512 bytes. A dimension that is
        missing is "", as is null.
        """
        plan = self._plans.get(event.type)
        if plan is None:
            return UNMATCHED
        time_ms = time_of(event.time)
        subject = event.subject
        if not subject or len(subject) * 4 > SUBJECT_BYTES:
            subject = _subject(subject)
        data = _data(event) if plan.needs_data or _has_data(event) else {}
        slots: list[Any] = [None]
        for kind, place in plan.reads:
            slots.append(_READ[kind](place, data))
        new = tuple.__new__  # what a NamedTuple's own constructor does, at half its price
        measurements = [
            new(Measurement, (meter, slots[group], slots[number], slots[member]))
            for meter, group, number, member in plan.meters
        ]
        return new(Measured, (time_ms, subject, tuple(measurements)))


def _compile(meters: tuple[Meter, ...]) -> Plan:
    reads: list[tuple[Kind, Place | Dimensions]] = []
    slots: dict[object, int] = {}

    def slot(read: Kind, key: object, place: Place | Dimensions) -> int:
        if (read, key) not in slots:
            reads.append((read, place))
            slots[read, key] = len(reads)
        return slots[read, key]

    rows = []
    for meter in meters:
        number = member = 0
        value = meter.value
        if meter.aggregation != "count":
            assert value is not None, "every meter but count has a value"
            place = _place(f"meter {meter.slug}", value, meter.minimum)
            if meter.aggregation == "unique_count":
                member = slot("member", value, place)
            else:
                number = slot("quantity", (value, meter.minimum), place)
        dimensions = Dimensions(tuple(_place(name, pointer) for name, pointer in meter.group_by), {})
        rows.append((meter, slot("group", meter.group_by, dimensions), number, member))
    return Plan(tuple(reads), tuple(rows), any(meter.value is not None for meter in meters))


def _place(whose: str, pointer: Pointer, minimum: Decimal | None = None) -> Place:
    return Place(whose, pointer.tokens[0] if len(pointer.tokens) == 1 else None, pointer, minimum)


_KEPT = 4096
_MOMENTS: dict[str, int] = {}
_MILLIS = {f".{ms:03d}Z": ms for ms in range(1000)} | {"Z": 0, "+00:00": 0}
LAST_MS = 253_402_214_399_999
"""Of an event: a day before the last, for the end of its window must be a time that can be written, too."""


def time_of(text: str | None) -> int:
    """Ms UTC, as `parse_rfc3339` has it. Events come second by second, so a second in UTC is parsed once."""
    if text is None:
        raise DataError("invalid", "time is missing, expected an RFC 3339 time with zone, like 2026-01-31T12:00:00Z")
    moment_ms = _MOMENTS.get(text[:19])
    if moment_ms is not None:
        rest = text[19:]
        ms = _MILLIS.get(rest)
        if ms is not None:
            return moment_ms + ms
        fraction = rest[1:-1] if rest[-1:] == "Z" else rest[1:-6] if rest[-6:] == "+00:00" else ""
        ms = _MILLIS.get(f".{fraction[:3]}Z")
        if ms is not None and rest[0] == "." and fraction.isascii() and fraction.isdigit():
            return moment_ms + ms
    try:
        time_ms = parse_rfc3339(text)
    except ValueError as error:
        raise DataError("invalid", f"time: {error}") from None
    if not 0 <= time_ms <= LAST_MS:  # `0001-01-01T00:00:00Z` is what an unset .NET DateTime looks like
        raise DataError("invalid", f"time: found {text[:64]!r}, expected one between the years 1970 and 9999 in UTC")
    if text[17:19] != "60":
        second_ms = parse_rfc3339(f"{text[:19]}Z")
        # All of it has to be valid in UTC: with another zone it may have been, and is not here.
        if 0 <= second_ms <= LAST_MS - 999:
            if len(_MOMENTS) >= _KEPT:
                _MOMENTS.clear()
            _MOMENTS[text[:19]] = second_ms
    return time_ms


def _subject(subject: str | None) -> str:
    if not subject:
        raise DataError("invalid", f"subject is {'missing' if subject is None else 'empty'}, expected whom to bill")
    size = len(subject.encode())
    if size > SUBJECT_BYTES:
        raise DataError("invalid", f"subject has {size} UTF-8 bytes, expected at most {SUBJECT_BYTES}")
    return subject


class _Absurd:
    """A JSON number whose exponent even a Decimal cannot hold. Nothing accepts it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _number(text: str) -> Decimal | _Absurd:
    try:
        return Decimal(text)
    except InvalidOperation:
        return _Absurd(text)


_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_decode_absurd = msgspec.json.Decoder(float_hook=_number).decode


def _has_data(event: RawEvent) -> bool:
    """Whether there is any: null, as some serializers write what is not there, is none."""
    return event.data_base64 is not None or bytes(event.data) not in (b"", b"null")


def _data(event: RawEvent) -> dict[str, object]:
    text = bytes(event.data)
    if event.data_base64 is not None:
        text = _from_base64(event.data_base64, text)
    if not text:
        raise DataError("invalid", "data is missing, expected a JSON object")
    if len(text) >= 2 * MAX_DEPTH and too_deep(text, MAX_DEPTH):
        raise DataError("invalid", f"data has more than {MAX_DEPTH} levels of objects and arrays")
    try:
        try:
            data = _decode(text)
        except InvalidOperation:
            data = _decode_absurd(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError("invalid", f"data is not JSON ({error}), expected a JSON object") from None
    if type(data) is not dict:
        raise DataError("invalid", f"data is {describe(data)}, expected a JSON object")
    # A decoder takes the last of two equal keys in silence. As many colons as keys (and in texts): no key is there twice.
    colons = text.count(b":")
    if colons != len(data) and (b"\\" in text or colons != _colons(data)):
        key = repeated_key(text)
        if key is not None:
            raise DataError("invalid", f"data has the key {describe(key)[9:]} more than once in one object")
    return data


def _from_base64(encoded: str, data: bytes) -> bytes:
    if data:
        raise DataError("invalid", "found both data and data_base64, expected one of them")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("invalid", "data_base64 is not base64, expected a JSON object in base64") from None


def _colons(value: object) -> int:
    """How many colons the JSON of this value has at least, if no text in it is escaped: more of them, and a key was lost."""
    if isinstance(value, str):
        return value.count(":")
    if isinstance(value, dict):
        inside: int = sum([key.count(":") + _colons(item) for key, item in value.items()])
        return len(value) + inside
    return sum([_colons(item) for item in value]) if isinstance(value, list) else 0


def _quantity(place: Place, data: dict[str, object]) -> Decimal:
    whose, key, pointer, minimum = place
    found = pointer.find(data) if key is None else data.get(key, MISSING)
    if found is MISSING:
        raise DataError("invalid", f"{whose}: data has no {pointer.text}, expected a decimal number there")
    try:
        number = quantity(found)
    except DataError as error:
        raise DataError("invalid", f"{whose}: {pointer.text}: {error.detail}") from None
    if minimum is not None and number < minimum:
        least = format_quantity(minimum)
        raise DataError(
            "invalid", f"{whose}: {pointer.text}: found {format_quantity(number)}, expected at least {least}"
        )
    return number


def member_of(place: Place, data: dict[str, object]) -> bytes:
    """16 bytes that stand for what is found, by its kind and value. Raises DataError."""
    whose, key, pointer, _ = place
    found = pointer.find(data) if key is None else data.get(key, MISSING)
    if type(found) is str:
        text = "s" + found
    elif type(found) is bool:
        text = "b1" if found else "b0"
    elif type(found) is int or type(found) is Decimal:
        text = "n" + canonical_number(found)
    elif found is MISSING:
        raise DataError("invalid", f"{whose}: data has no {pointer.text}, expected a text or a number there")
    else:
        raise DataError("invalid", f"{whose}: {pointer.text}: found {describe(found)}, expected a text or a number")
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def member_of_text(text: bytes) -> bytes:
    """The same for a text that was found, given as UTF-8."""
    return hashlib.blake2b(b"s" + text, digest_size=16).digest()


def group_of(dimensions: Dimensions, data: dict[str, object]) -> Group:
    """The group that the data belongs to. Raises DataError."""
    return group_of_found(
        dimensions,
        tuple(
            [data.get(key, "") if key is not None else pointer.find(data) for _, key, pointer, _ in dimensions.places]
        ),
    )


def group_of_found(dimensions: Dimensions, found: tuple[object, ...]) -> Group:
    """The group of what was found at its places. Raises DataError."""
    places, seen = dimensions
    for value in found:
        if type(value) is not str:
            return _new_group(places, found)
    group = seen.get(found)  # only texts: 1, 1.0 and true are equal keys, and different groups
    if group is None:
        group = _new_group(places, found)
        if len(seen) >= _KEPT:
            seen.clear()
        seen[found] = group
    return group


def _new_group(places: tuple[Place, ...], found: tuple[object, ...]) -> Group:
    return tuple([(place.whose, _group_value(place, value)) for place, value in zip(places, found, strict=True)])


def _group_value(place: Place, found: object) -> str:
    name, _, pointer, _ = place
    if type(found) is str:
        text = found
    elif found is MISSING or found is None:
        return ""
    elif type(found) is bool:
        return "true" if found else "false"
    elif type(found) is int or type(found) is Decimal:
        text = canonical_number(found)
    else:
        raise DataError("invalid", f"group {name}: {pointer.text}: found {describe(found)}, expected a scalar")
    if len(text) * 4 > GROUP_VALUE_BYTES:
        size = len(text.encode())
        if size > GROUP_VALUE_BYTES:
            found_text = f"found {size} UTF-8 bytes, expected at most {GROUP_VALUE_BYTES}"
            raise DataError("invalid", f"group {name}: {pointer.text}: {found_text}")
    return text


_READ: dict[Kind, Callable[[Any, dict[str, object]], object]] = {
    "quantity": _quantity,
    "member": member_of,
    "group": group_of,
}
