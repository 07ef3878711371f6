"""Time stamps of foreign records: a declared format to int ms UTC, exact, without locale and without guessing a zone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal

from schemas.errors import DataError
from schemas.numbers import quantity
from schemas.times import parse_rfc3339

NAMED = ("rfc3339", "epoch_s", "epoch_ms")
"""Formats that have a name; any other is a pattern."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "m": r"(?P<m>\d{1,2})",
    "b": r"(?P<b>[A-Za-z]{3})",
    "d": r"(?P<d>\d{1,2})",
    "H": r"(?P<H>\d{1,2})",
    "I": r"(?P<I>\d{1,2})",
    "p": r"(?P<p>[AaPp][Mm])",
    "M": r"(?P<M>\d{1,2})",
    "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,18})",
    "z": r"(?P<z>[Zz]|[+-]\d{2}:?\d{2})",
    "%": "%",
}
_ZONE = re.compile(r"([+-])(\d{2}):?(\d{2})\Z", re.ASCII)
_LAST_MS = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time format: `rfc3339`, `epoch_s`, `epoch_ms`, or a pattern of strftime's %Y %m %b %d %H %I %p %M %S %f %z.

    `%f` takes any number of digits; what is finer than a millisecond is cut off. timezone: `UTC` or an offset like
    `+02:00`, which a pattern without %z is in. Zones with daylight saving are refused: an hour a year says two times.
    """

    format: str = "rfc3339"
    timezone: str = "UTC"
    pattern: re.Pattern[str] | None = field(init=False, compare=False, repr=False)
    offset_ms: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError, with what was found and expected, for a format or zone that is not known."""
        object.__setattr__(self, "pattern", None if self.format in NAMED else _compile(self.format))
        object.__setattr__(self, "offset_ms", _offset_ms(self.timezone))

    def parse(self, text: str) -> int:
        """Ms UTC. Raises ValueError with what was found and expected."""
        if self.pattern is not None:
            time_ms = self._by_pattern(self.pattern, text)
        elif self.format == "rfc3339":
            time_ms = parse_rfc3339(text)
        else:
            time_ms = _epoch_ms(text, 1000 if self.format == "epoch_s" else 1)
        if not 0 <= time_ms <= _LAST_MS:
            raise ValueError(f"found {text[:64]!r}, expected a time between the years 1970 and 9999 in UTC")
        return time_ms

    def _by_pattern(self, pattern: re.Pattern[str], text: str) -> int:
        match = pattern.match(text)
        if match is None:
            raise ValueError(f"found {text[:64]!r}, expected a time like {self.format}")
        parts = match.groupdict()
        try:
            moment = datetime(
                int(parts["Y"]),
                _MONTHS.index(parts["b"].lower()) + 1 if parts.get("b") else int(parts["m"]),
                int(parts["d"]),
                _hour(parts),
                int(parts.get("M") or 0),
                int(parts.get("S") or 0),
                tzinfo=UTC,
            )
        except ValueError as error:
            raise ValueError(f"found {text[:64]!r}, which is not a time: {error}") from None
        zone = parts.get("z")
        offset_ms = _offset_ms(zone) if zone else self.offset_ms
        return int(moment.timestamp()) * 1000 + int((parts.get("f") or "").ljust(3, "0")[:3]) - offset_ms


def _compile(format: str) -> re.Pattern[str]:
    expected = f"expected {', '.join(NAMED)} or a pattern like %Y-%m-%d %H:%M:%S.%f"
    pieces = re.split(r"%(.)", format, flags=re.DOTALL)
    directives = pieces[1::2]
    if not directives or pieces[0].endswith("%") or pieces[-1].endswith("%"):
        raise ValueError(f"found {format!r}, {expected}")
    for directive in directives:
        if directive not in _DIRECTIVES:
            raise ValueError(f"found %{directive} in {format!r}, expected only %Y %m %b %d %H %I %p %M %S %f %z")
        if directive != "%" and directives.count(directive) > 1:
            raise ValueError(f"found %{directive} twice in {format!r}, expected it once")
    if not {"Y", "d"} <= set(directives) or not {"m", "b"} & set(directives):
        raise ValueError(f"found {format!r}, expected a pattern with the whole date: %Y, %m (or %b) and %d")
    if ("I" in directives) != ("p" in directives):
        raise ValueError(f"found {format!r}, expected %I and %p together")
    texts = [_DIRECTIVES[piece] if place % 2 else re.escape(piece) for place, piece in enumerate(pieces)]
    return re.compile("".join(texts) + r"\Z", re.ASCII)


def _hour(parts: dict[str, str]) -> int:
    if not parts.get("I"):
        return int(parts.get("H") or 0)
    hour = int(parts["I"])
    if not 1 <= hour <= 12:
        raise ValueError("hour must be in 1..12")
    return hour % 12 + (12 if parts["p"].lower() == "pm" else 0)


def _offset_ms(zone: str) -> int:
    if zone in ("UTC", "Z", "z"):
        return 0
    match = _ZONE.match(zone)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError(
            f"found the time zone {zone!r}, expected UTC or an offset like +02:00; others are not supported yet"
        )
    minutes = int(match[2]) * 60 + int(match[3])
    return (minutes if match[1] == "+" else -minutes) * 60_000


def _epoch_ms(text: str, factor: int) -> int:
    try:
        number = quantity(text)
    except DataError as error:
        raise ValueError(error.detail) from None
    return int((number * Decimal(factor)).to_integral_value(ROUND_FLOOR))
