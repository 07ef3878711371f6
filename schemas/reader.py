"""Reading what an event means for the meters: time, subject, groups, quantities (design §4, *unmatched* and *invalid*).

Compiled once from the definitions; an event's data is parsed once, however many meters match.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import msgspec

from schemas.definitions import Definitions, Meter
from schemas.errors import DataError
from schemas.events import RawEvent
from schemas.numbers import canonical_number, describe, quantity
from schemas.pointers import MISSING, Pointer
from schemas.times import parse_rfc3339

SUBJECT_BYTES = 512
GROUP_VALUE_BYTES = 512

Group = tuple[tuple[str, str], ...]


class Measurement(NamedTuple):
    """What one event means for one meter.

    group: (name, value), sorted by name. quantity: for sum, min, max, avg, latest. member: 16 bytes, for unique_count.
    Both None for count.
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


UNMATCHED = Measured(0, "", ())
"""No meter has this event's type; nothing else of it was looked at."""


class _Plan(NamedTuple):
    """The meters of one event type, with what they share read once: numbers, members and groups by slot."""

    meters: tuple[tuple[Meter, int, int, int], ...]
    quantities: tuple[tuple[str, Pointer, Decimal | None], ...]
    members: tuple[tuple[str, Pointer], ...]
    groups: tuple[tuple[tuple[str, Pointer], ...], ...]


class Reader:
    """Reads events for one set of definitions."""

    def __init__(self, definitions: Definitions) -> None:
        self._plans = {kind: _compile(meters) for kind, meters in definitions.by_event_type.items()}
        self._decode = msgspec.json.Decoder(float_hook=Decimal).decode

    def matches(self, event_type: str) -> bool:
        """Whether any meter reads events of this type."""
        return event_type in self._plans

    def measure(self, event: RawEvent) -> Measured:
        """What the event means for every meter of its type; UNMATCHED if there is none.

        Raises DataError("invalid", …) with what was found and expected, if it cannot be counted in all of them.
        """
        plan = self._plans.get(event.type)
        if plan is None:
            return UNMATCHED
        time_ms = _time(event.time)
        subject = _subject(event.subject)
        data = self._data(event)
        quantities = [_quantity(slug, pointer, minimum, data) for slug, pointer, minimum in plan.quantities]
        members = [_member(slug, pointer, data) for slug, pointer in plan.members]
        groups = [
            tuple([(name, _group_value(name, pointer, data)) for name, pointer in group]) for group in plan.groups
        ]
        return Measured(
            time_ms,
            subject,
            tuple(
                [
                    Measurement(
                        meter,
                        groups[group],
                        quantities[number] if number >= 0 else None,
                        members[member] if member >= 0 else None,
                    )
                    for meter, number, member, group in plan.meters
                ]
            ),
        )

    def _data(self, event: RawEvent) -> dict[str, object]:
        text = bytes(event.data)
        if event.data_base64 is not None:
            if text:
                raise DataError("invalid", "found both data and data_base64, expected one of them")
            try:
                text = base64.b64decode(event.data_base64, validate=True)
            except (binascii.Error, ValueError):
                raise DataError("invalid", "data_base64 is not base64, expected a JSON object in base64") from None
        if not text:
            raise DataError("invalid", "data is missing, expected a JSON object")
        try:
            data = self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as error:
            raise DataError("invalid", f"data is not JSON ({error}), expected a JSON object") from None
        if type(data) is not dict:
            raise DataError("invalid", f"data is {describe(data)}, expected a JSON object")
        return data


def _compile(meters: tuple[Meter, ...]) -> _Plan:
    quantities: dict[tuple[Pointer, Decimal | None], int] = {}
    members: dict[Pointer, int] = {}
    groups: dict[tuple[tuple[str, Pointer], ...], int] = {}
    slugs: dict[object, str] = {}
    rows = []
    for meter in meters:
        number = member = -1
        if meter.aggregation == "unique_count":
            assert meter.value is not None
            member = members.setdefault(meter.value, len(members))
            slugs.setdefault(("member", meter.value), meter.slug)
        elif meter.aggregation != "count":
            assert meter.value is not None
            key = (meter.value, meter.minimum)
            number = quantities.setdefault(key, len(quantities))
            slugs.setdefault(key, meter.slug)
        rows.append((meter, number, member, groups.setdefault(meter.group_by, len(groups))))
    return _Plan(
        meters=tuple(rows),
        quantities=tuple((slugs[key], key[0], key[1]) for key in quantities),
        members=tuple((slugs["member", pointer], pointer) for pointer in members),
        groups=tuple(groups),
    )


def _time(text: str | None) -> int:
    if text is None:
        raise DataError("invalid", "time is missing, expected an RFC 3339 time with zone")
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise DataError("invalid", f"time: {error}") from None


def _subject(subject: str | None) -> str:
    if not subject:
        raise DataError("invalid", f"subject is {'missing' if subject is None else 'empty'}, expected who pays")
    if len(subject) * 4 > SUBJECT_BYTES:
        size = len(subject.encode())
        if size > SUBJECT_BYTES:
            raise DataError("invalid", f"subject has {size} bytes, expected at most {SUBJECT_BYTES}")
    return subject


def _quantity(slug: str, pointer: Pointer, minimum: Decimal | None, data: object) -> Decimal:
    found = pointer.find(data)
    if found is MISSING:
        raise DataError("invalid", f"meter {slug}: data has no {pointer.text}, expected a decimal number")
    try:
        number = quantity(found)
    except DataError as error:
        raise DataError("invalid", f"meter {slug}: {pointer.text}: {error.detail}") from None
    if minimum is not None and number < minimum:
        raise DataError("invalid", f"meter {slug}: {pointer.text}: found {number}, expected at least {minimum}")
    return number


def _member(slug: str, pointer: Pointer, data: object) -> bytes:
    found = pointer.find(data)
    if type(found) is str:
        text = "s" + found
    elif type(found) is bool:
        text = "b" + ("true" if found else "false")
    elif type(found) is int or type(found) is Decimal:
        text = "n" + canonical_number(found)
    elif found is MISSING:
        raise DataError("invalid", f"meter {slug}: data has no {pointer.text}, expected a text or a number")
    else:
        raise DataError(
            "invalid", f"meter {slug}: {pointer.text}: found {describe(found)}, expected a text or a number"
        )
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _group_value(name: str, pointer: Pointer, data: object) -> str:
    found = pointer.find(data)
    if type(found) is str:
        text = found
    elif found is MISSING or found is None:
        return ""
    elif type(found) is bool:
        return "true" if found else "false"
    elif type(found) is int or type(found) is Decimal:
        text = canonical_number(found)
    else:
        raise DataError(
            "invalid", f"group {name}: {pointer.text}: found {describe(found)}, expected a text or a number"
        )
    if len(text) * 4 > GROUP_VALUE_BYTES:
        size = len(text.encode())
        if size > GROUP_VALUE_BYTES:
            raise DataError(
                "invalid", f"group {name}: {pointer.text} has {size} bytes, expected at most {GROUP_VALUE_BYTES}"
            )
    return text
