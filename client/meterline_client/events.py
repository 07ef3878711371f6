"""One event as JSON: a CloudEvent 1.0 with its attributes in a fixed order, compact, the constant parts encoded once.

    {"specversion":"1.0","id":…,"source":…,"type":…,"subject":…,"time":…,"data":…}

Extension attributes (CloudEvents 1.0, `spec.md`) stand before the data, in the caller's order. `time` is RFC 3339 in UTC with
milliseconds, exactly 24 characters. A Decimal in `data` becomes a text, which meterline reads as the exact quantity (design §5).
"""

from __future__ import annotations

import dataclasses
import math
import re
import time as system_time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum

import orjson

from meterline_client.errors import ConfigurationError, EventRefused

SUBJECT_BYTES = 512
"""The longest subject that meterline counts, in UTF-8 (design §6)."""
RESERVED_PREFIX = "meterline."
"""Event types that belong to the stream itself (design §3)."""
HEAD = b'{"specversion":"1.0","id":'
DATA = b'","data":'
Extension = str | bool | int
_EXTENSION = re.compile(r"[a-z0-9]{1,20}")
_OWN = frozenset(("specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype", "dataschema"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGERS = range(-(2**31), 2**31)
_NAMED = "name this service, like //usage.example.com/api"
_LATEST_S = 253_402_300_800
"""The year 10000."""


def source_text(source: str) -> bytes:
    """The source as JSON. Raises ConfigurationError where it is empty, or no valid text."""
    if not source:
        raise ConfigurationError("the source is empty", hint=_NAMED)
    try:
        return orjson.dumps(source)
    except orjson.JSONEncodeError as error:
        raise ConfigurationError(f"the source {source!r} is no valid text: {error}", hint=_NAMED) from None


def middle(source: bytes, type: str, subject: str) -> bytes:
    """What stands between an event's id and its time; the same for all events of one type and subject.

    Raises EventRefused for a type or a subject that meterline would refuse.
    """
    try:
        key = subject.encode()
        named = orjson.dumps(type)
    except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
        raise EventRefused(f"type {type!r} or subject {subject!r} is no valid text: {error}") from None
    if not key or len(key) > SUBJECT_BYTES:
        raise EventRefused(f"a subject has 1 to {SUBJECT_BYTES} bytes, found {len(key)}: {subject[:80]!r}")
    if not type or type.startswith(RESERVED_PREFIX):
        raise EventRefused(f"{type!r} cannot be the type of an event", hint=f"types {RESERVED_PREFIX}* are reserved")
    return b',"source":%b,"type":%b,"subject":%b,"time":"' % (source, named, orjson.dumps(subject))


def data_text(data: object) -> bytes:
    """The data as JSON. Raises EventRefused for what JSON cannot say."""
    try:
        text = orjson.dumps(data, default=_decimal)
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise EventRefused(f"the data of an event is no JSON: {error}") from None
    if b"null" in text and _strange(data):  # which is what orjson makes of them
        raise EventRefused("the data of an event is no JSON: it has no NaN and no infinity")
    return text


def _strange(data: object) -> bool:
    """Whether a float in there is no number."""
    if isinstance(data, float):
        return not math.isfinite(data)
    if isinstance(data, Enum):
        return _strange(data.value)
    if isinstance(data, Mapping):
        return any(map(_strange, data.values()))
    if dataclasses.is_dataclass(data):
        return any(_strange(getattr(data, field.name)) for field in dataclasses.fields(data))
    return isinstance(data, list | tuple) and any(map(_strange, data))


def id_text(id: str) -> bytes:
    """A caller's own id as JSON. Raises EventRefused where it is empty or no valid text."""
    try:
        text = orjson.dumps(id)
    except orjson.JSONEncodeError as error:
        raise EventRefused(f"the id of an event is no valid text: {error}") from None
    if not id:
        raise EventRefused("the id of an event is empty", hint="leave it out, and the producer gives one")
    return text


def extended(extensions: Mapping[str, Extension]) -> bytes:
    """What stands between an event's time and its data where it has extension attributes.

    Raises EventRefused for a name or a value that CloudEvents does not have: names are 1 to 20 lower-case letters and digits
    and none of CloudEvents' own; values are texts without control characters, booleans, or integers of 32 bits.
    """
    return (
        b'"' + b"".join(b',"%b":%b' % (_name(name), _value(name, held)) for name, held in extensions.items()) + DATA[1:]
    )


def id_of(event: bytes) -> str:
    """The id of an event that was encoded here."""
    return str(orjson.loads(event)["id"])


def _name(name: object) -> bytes:
    if not isinstance(name, str) or not _EXTENSION.fullmatch(name):
        raise EventRefused(
            f"{name!r} cannot be the name of an extension attribute", hint="1 to 20 lower-case letters and digits"
        )
    if name in _OWN:
        raise EventRefused(f"{name!r} is an attribute of CloudEvents itself", hint="an extension needs another name")
    return name.encode()


def _value(name: str, value: object) -> bytes:
    if isinstance(value, bool) or (isinstance(value, int) and value in _INTEGERS):
        return orjson.dumps(value)
    if isinstance(value, str) and not _CONTROL.search(value):
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError:  # half of a surrogate pair
            pass
    raise EventRefused(
        f"the extension attribute {name!r} cannot be {str(value)[:80]!r}",
        hint="a text without control characters, a boolean, or an integer of 32 bits; anything else belongs into the data",
    )


def _decimal(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")


class Stamps:
    """Times as texts of 24 characters. Remembers the last second and the last millisecond, since most events are now."""

    def __init__(self) -> None:
        self._ms = -1
        self._text = b""
        self._second = -1
        self._prefix = b""

    def text(self, ms: int) -> bytes:
        """`2026-01-31T12:00:00.123Z` for milliseconds since the epoch. Raises EventRefused outside of 1970 to 9999."""
        if ms == self._ms:
            return self._text
        second = ms // 1000
        if second != self._second:
            if not 0 <= second < _LATEST_S:
                raise EventRefused(f"the time of an event lies between 1970 and 9999, found {ms} ms")
            self._prefix = b"%04d-%02d-%02dT%02d:%02d:%02d" % system_time.gmtime(second)[:6]
            self._second = second
        self._text = b"%b.%03dZ" % (self._prefix, ms % 1000)
        self._ms = ms
        return self._text


def milliseconds(time: datetime | int) -> int:
    """Milliseconds since the epoch; below a millisecond is cut. Raises EventRefused for a datetime without a time zone."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise EventRefused(
                f"{time} has no time zone", hint="use datetime.now(UTC), or milliseconds since the epoch"
            )
        return (time - _EPOCH) // _MILLISECOND
    return time


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = datetime(1970, 1, 1, microsecond=1000) - datetime(1970, 1, 1)
