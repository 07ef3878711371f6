"""Durations: fixed ISO 8601 durations in every file and id, int milliseconds inside."""

from __future__ import annotations

import re

_DAY_MS = 86_400_000
_FIXED = re.compile(
    r"P(?:(?P<weeks>\d{1,9})W|(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9})(?:[.,](?P<fraction>\d{1,9}))?S)?)?)\Z",
    re.ASCII,
)
_CALENDAR = re.compile(r"P(?=\d+[YM])(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+S)?)?\Z", re.ASCII)


def parse_duration(text: str) -> int:
    """The ms of a fixed ISO 8601 duration: `PT0.5S`, `PT30S`, `PT1M`, `PT1H`, `P1D`, `P1DT2H`, `P1W`.

    Days are 24 hours: every window is in UTC. Raises ValueError, with what was found and expected: for anything that is
    no ISO 8601 duration, for more than millisecond precision, and for `P1M` or `P1Y`, whose length depends on the
    calendar and which are not supported yet.
    """
    match = _FIXED.match(text)
    if match is None or text == "P":
        if _CALENDAR.match(text):
            raise ValueError(
                f"{text[:40]!r} is a calendar duration, and months and years have no fixed length; "
                "not supported yet, expected a fixed one like PT1M, PT1H or P1D"
            )
        raise ValueError(f"{text[:40]!r} is not an ISO 8601 duration; expected one like PT30S, PT1M, PT1H or P1D")
    parts = match.groupdict()
    fraction = (parts["fraction"] or "").rstrip("0")
    if len(fraction) > 3:
        raise ValueError(f"{text[:40]!r} is finer than a millisecond; expected at most three decimals, like PT0.5S")
    seconds = (
        int(parts["weeks"] or 0) * 604_800
        + int(parts["days"] or 0) * 86_400
        + int(parts["hours"] or 0) * 3_600
        + int(parts["minutes"] or 0) * 60
        + int(parts["seconds"] or 0)
    )
    return seconds * 1000 + int(fraction.ljust(3, "0"))


def format_duration(ms: int) -> str:
    """The one canonical text of a duration: `P1D`, `P1DT2H`, `PT1H30M`, `PT0.5S`, `PT0S`; never weeks.

    `parse_duration(format_duration(ms)) == ms` for every ms >= 0. Equal durations have equal texts (`PT60M` is `PT1H`),
    which is why a window's size may be part of its id. Raises ValueError below zero.
    """
    if ms < 0:
        raise ValueError(f"a duration cannot be negative, found {ms} ms")
    days, ms = divmod(ms, _DAY_MS)
    hours, ms = divmod(ms, 3_600_000)
    minutes, ms = divmod(ms, 60_000)
    seconds, ms = divmod(ms, 1000)
    date = f"{days}D" if days else ""
    time = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    if ms:
        time += f"{seconds}.{ms:03d}".rstrip("0") + "S"
    elif seconds:
        time += f"{seconds}S"
    if not date and not time:
        return "PT0S"
    return f"P{date}T{time}" if time else f"P{date}"
