"""How the ledger reads: a meters file, a record, a time, a number. A second reading, sharing nothing with `schemas/`.

Plain `json` with every number a Decimal; the rules are design.md §3–§6 and CloudEvents 1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any, NamedTuple

_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?\Z", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))\Z", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?\Z", re.ASCII)
_MISSING = object()


class Record(NamedTuple):
    """One record of the usage topic as the log has it; `timestamp_ms` is the broker's append time."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class MeterRule:
    """What the ledger needs to know of one meter. `windows`: (ISO-8601 text, ms)."""

    slug: str
    event_type: str
    aggregation: str
    value: str | None
    group_by: tuple[tuple[str, str], ...]
    windows: tuple[tuple[str, int], ...]
    grace_ms: int
    minimum: Decimal | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The stream's and the meters' rules, read from the plain document of a meters file (design §3, §5)."""

    meters: tuple[MeterRule, ...]
    future_tolerance_ms: int
    correct_for_ms: int
    revise_every_ms: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Rules:
        """The rules of a meters.yaml that was read as plain YAML; what it leaves out has the documented default."""
        stream = document.get("stream") or {}
        return cls(
            meters=tuple(_meter(meter) for meter in document.get("meters") or ()),
            future_tolerance_ms=duration_ms(stream.get("future_tolerance", "PT5M")),
            correct_for_ms=duration_ms(stream.get("correct_for", "P1D")),
            revise_every_ms=duration_ms(stream.get("revise_every", "PT1M")),
        )

    @property
    def settle_ms(self) -> int:
        """How long after its end, in watermark, a window has closed and shown its last change so far."""
        return max((meter.grace_ms for meter in self.meters), default=0) + self.revise_every_ms


class Invalid(Exception):
    """The event cannot be counted in every meter of its type."""


def duration_ms(text: str) -> int:
    """Milliseconds of a fixed ISO-8601 duration (weeks to whole seconds). Raises ValueError for anything else."""
    match = _DURATION.match(str(text))
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is no fixed ISO-8601 duration")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000


def parse_time(text: str | None) -> int:
    """Milliseconds UTC of an RFC 3339 time, what is finer cut off. Raises `Invalid`."""
    match = _TIME.match(text or "")
    if match is None:
        raise Invalid
    day, minute, second, fraction, sign, zone_h, zone_m = match.groups()
    leap_ms, second = (1000, "59") if second == "60" else (0, second)
    try:
        moment = datetime.fromisoformat(f"{day}T{minute}:{second}").replace(tzinfo=UTC)
    except ValueError:
        raise Invalid from None
    zone_ms = (int(zone_h) * 60 + int(zone_m)) * 60_000 * (-1 if sign == "+" else 1) if sign else 0
    return int(moment.timestamp()) * 1000 + leap_ms + int((fraction or "").ljust(3, "0")[:3]) + zone_ms


def _size(ms: int) -> str:
    """The one way a window's size is written: whole minutes up to a day."""
    hours, minutes = divmod(ms // 60_000, 60)
    return "P1D" if hours == 24 else "PT" + (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")


def _meter(meter: Mapping[str, Any]) -> MeterRule:
    minimum = meter.get("minimum")
    return MeterRule(
        slug=meter["slug"],
        event_type=meter["event_type"],
        aggregation=meter["aggregation"],
        value=meter.get("value"),
        group_by=tuple(sorted((meter.get("group_by") or {}).items())),
        windows=tuple((_size(duration_ms(size)), duration_ms(size)) for size in meter.get("windows", ["PT1H"])),
        grace_ms=duration_ms(meter.get("grace", "PT5S")),
        minimum=None if minimum is None else Decimal(str(minimum)),
    )


def events(record: Record) -> list[Any]:
    """The events of a record; one `None` for what is no JSON and for an empty envelope (one event read, design §4)."""
    headers = {name.lower(): value for name, value in record.headers}
    attributes = {name[3:]: value.decode("utf-8") for name, value in headers.items() if name.startswith("ce_")}
    try:
        body = json.loads(
            (record.value or b"").decode("utf-8"), parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse
        )
    except (ValueError, ArithmeticError, RecursionError):
        return [{**attributes, "data": "no JSON" if record.value else None} if attributes else None]
    if attributes:  # binary mode: the attributes are headers, the value is the data
        return [{**attributes, "data": body}]
    return (body or [None]) if isinstance(body, list) else [body]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def well_formed(event: Any) -> bool:
    """Whether it is a CloudEvent 1.0: the required attributes, and texts where texts belong."""
    return (
        isinstance(event, dict)
        and event.get("specversion") == "1.0"
        and all(isinstance(event.get(name), str) and event[name] for name in ("id", "source", "type"))
        and all(event.get(name) is None or isinstance(event[name], str) for name in ("subject", "time"))
    )


def reading(meter: MeterRule, event: Mapping[str, Any]) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """(value, group) of an event for a meter. Raises `Invalid` where it cannot be counted (design §4, §5, §6)."""
    subject, data = event.get("subject"), event.get("data")
    if data is None and meter.aggregation == "count":
        data = {}
    if not subject or len(subject.encode()) > 512 or not isinstance(data, dict):
        raise Invalid
    group = tuple((name, _group_value(_at(data, pointer))) for name, pointer in meter.group_by)
    if meter.aggregation == "count":
        return Decimal(1), group
    found = _at(data, meter.value or "")
    if meter.aggregation == "unique_count":
        if not isinstance(found, str | bool | Decimal):
            raise Invalid
        return (type(found), found), group
    if isinstance(found, str) and _NUMBER.match(found):
        found = Decimal(found)
    if not isinstance(found, Decimal) or not _representable(found):
        raise Invalid
    if meter.minimum is not None and found < meter.minimum:
        raise Invalid
    return found, group


def _group_value(found: Any) -> str:
    """A group's value is text: numbers are written out, nothing is the empty text."""
    if found is _MISSING or found is None:
        return ""
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, Decimal):
        text = f"{found:f}"
        return "0" if found == 0 else text.rstrip("0").rstrip(".") if "." in text else text
    if not isinstance(found, str) or len(found.encode()) > 512:
        raise Invalid
    return found


def _at(data: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to, or `_MISSING`."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(data, dict) and name in data:
            data = data[name]
        elif isinstance(data, list) and name.isdecimal() and int(name) < len(data):
            data = data[int(name)]
        else:
            return _MISSING
    return data


def _representable(number: Decimal) -> bool:
    """At most 20 digits before the point and 18 after it, by value (design §5)."""
    if number == 0:
        return True
    if not -19 < number.adjusted() < 20:
        return False
    digits = number.normalize(Context(prec=10_000)).as_tuple()
    return isinstance(digits.exponent, int) and digits.exponent >= -18
