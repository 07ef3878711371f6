"""Times: int milliseconds UTC inside, RFC 3339 on every wire."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?(?:([Zz])|([+-])(\d{2}):(\d{2}))\Z", re.ASCII
)


def parse_rfc3339(text: str) -> int:
    """The ms UTC of an RFC 3339 time; digits below the millisecond are cut off, a leap second is the next second's 0.

    Raises ValueError, with what was found and expected, for anything else, a time without zone included: a bill cannot
    guess a zone (RFC 3339 §5.6, CloudEvents 1.0 `time`).
    """
    match = _RFC3339.match(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not an RFC 3339 time with zone, like 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second, fraction, _zulu, sign, zone_h, zone_m = match.groups()
    leap = second == "60"
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), 59 if leap else int(second), tzinfo=UTC
        )
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is not a time: {error}") from None
    ms = int(moment.timestamp()) * 1000 + (1000 if leap else int((fraction or "0").ljust(3, "0")[:3]))
    if sign:
        if int(zone_h) > 23 or int(zone_m) > 59:
            raise ValueError(f"{text[:64]!r} has an impossible zone offset")
        offset_ms = (int(zone_h) * 60 + int(zone_m)) * 60_000
        ms += -offset_ms if sign == "+" else offset_ms
    return ms


LAST_WRITTEN_MS = 253_402_300_799_999
"""The last moment of the year 9999."""


def format_rfc3339(ms: int) -> str:
    """RFC 3339 in UTC; milliseconds only where there are some: `2026-01-31T12:00:00Z`, `2026-01-31T12:00:00.250Z`."""
    seconds, rest = divmod(ms, 1000)
    text = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    return f"{text}.{rest:03d}Z" if rest else f"{text}Z"


def format_basic(ms: int) -> str:
    """ISO 8601 basic format in UTC, `20260131T120000Z`: a window's start inside an id."""
    text = datetime.fromtimestamp(ms // 1000, UTC).replace(tzinfo=None).isoformat()
    return text.replace("-", "").replace(":", "") + "Z"
