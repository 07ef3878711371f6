"""The meters file: `meters.yaml` to Definitions, or one error that lists everything that is wrong with it.

Every problem comes with file, line, key path, what was found and what was expected. What may be left out has the
default of `schemas/definitions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar, cast

from schemas.definitions import AGGREGATIONS, MAX_GROUP_BY, Aggregation, Definitions, Meter, StreamSettings, Window
from schemas.durations import format_duration, parse_duration
from schemas.errors import ConfigurationError, DataError
from schemas.events import RESERVED_PREFIX
from schemas.numbers import quantity
from schemas.pointers import Pointer
from schemas.sources import Source
from schemas.stanzas import read_source
from schemas.yamlfile import Field, YamlFile

MAX_DURATION_MS = 400 * 86_400_000
"""No duration in the file is longer: what is remembered for so long is memory (design §6)."""

_T = TypeVar("_T")
_SLUG = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
_GROUP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}\Z", re.ASCII)
_FILE_KEYS = ("stream", "meters", "sources")
_STREAM_KEYS = ("max_delay", "future_tolerance", "correct_for", "revise_every")
_METER_KEYS = (
    "slug",
    "event_type",
    "aggregation",
    "value",
    "group_by",
    "windows",
    "timezone",
    "grace",
    "minimum",
    "description",
    "unit",
)
_POINTER = "a JSON pointer into data, like /tokens"
_DURATION = "an ISO 8601 duration, like PT30S"


def load(path: Path | str) -> Definitions:
    """The definitions of a meters file. Reads the file, and nothing else.

    Raises ConfigurationError: for a file that cannot be read, saying what to do; else listing all its problems.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(
            "there is no such meters file",
            where=str(path),
            hint="write one (meters.yaml of the distribution is a commented sample), or set METERLINE_METERS to its path",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"byte {error.start} is not UTF-8", where=str(path), hint="save the meters file as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"the meters file cannot be read: {error.strerror or error}",
            where=str(path),
            hint="set METERLINE_METERS to the path of a file that this user may read",
        ) from None
    return parse(text, name=str(path))


def parse(text: str, *, name: str = "meters.yaml") -> Definitions:
    """The definitions that a meters file's text holds. `name`: how messages call the file.

    Raises ConfigurationError listing all problems.
    """
    file = YamlFile(name, text)
    root = file.root()
    if root is None:
        file.problem(1, "", "the file is empty, expected at least `meters:` with one meter")
        file.refuse()
    entries = root.keys(_FILE_KEYS, "a mapping with meters, and maybe stream and sources")
    stream = _stream(entries.get("stream"))
    meters: list[Meter] = []
    listed = entries.get("meters")
    if listed is None and root.kind == "mapping":
        root.problem("meters is missing, expected a list with at least one meter")
    elif listed is not None:
        fields = listed.items("a list of meters")
        if not fields and listed.kind == "list":
            listed.problem("the list is empty, expected at least one meter")
        meters = _meters(fields, stream)
    sources = _sources(entries.get("sources"))
    file.check()
    return Definitions(stream=stream, meters=tuple(meters), sources=sources)


def _stream(field: Field | None) -> StreamSettings:
    default = StreamSettings()
    if field is None:
        return default
    entries = field.keys(_STREAM_KEYS, "a mapping of stream settings")

    def duration_ms(key: str, otherwise: int) -> int:
        return _optional(entries.get(key), otherwise, _duration)

    delay = entries.get("max_delay")
    return StreamSettings(
        max_delay_ms=default.max_delay_ms if delay is None else _max_delay(delay),
        future_tolerance_ms=duration_ms("future_tolerance", default.future_tolerance_ms),
        correct_for_ms=duration_ms("correct_for", default.correct_for_ms),
        revise_every_ms=duration_ms("revise_every", default.revise_every_ms),
    )


def _meters(fields: list[Field], stream: StreamSettings) -> list[Meter]:
    meters = []
    lines: dict[str, int] = {}
    for field in fields:
        meter = _meter(field, stream, lines)
        if meter is not None:
            meters.append(meter)
    return meters


def _meter(field: Field, stream: StreamSettings, lines: dict[str, int]) -> Meter | None:
    entries = field.keys(_METER_KEYS, "a meter: a mapping with slug, event_type and aggregation")
    if field.kind != "mapping":
        return None
    missing = [key for key in ("slug", "event_type", "aggregation") if key not in entries]
    for key in missing:
        field.problem(f"{key} is missing, every meter needs one")
    slug = _optional(entries.get("slug"), "", lambda entry: entry.parsed(_slug, "a name"))
    if slug and slug in lines:
        entries["slug"].problem(f"found {slug!r} again, expected a name of its own; the first is in line {lines[slug]}")
    elif slug:
        lines[slug] = entries["slug"].line
    event_type = _optional(entries.get("event_type"), "", lambda entry: entry.parsed(_event_type, "an event type"))
    aggregation = _optional(entries.get("aggregation"), "", lambda entry: entry.choice(AGGREGATIONS))
    value = _optional(entries.get("value"), None, lambda entry: entry.parsed(Pointer, _POINTER))
    if aggregation == "count" and "value" in entries:
        entries["value"].problem("count counts events and reads no value, expected none")
    if aggregation not in ("", "count") and "value" not in entries:
        field.problem(f"value is missing, {aggregation} needs {_POINTER}")
    if aggregation in ("count", "unique_count") and "minimum" in entries:
        entries["minimum"].problem(f"{aggregation} has no quantity to compare, expected none")
    default = Meter("", "", "count")
    meter = Meter(
        slug=slug,
        event_type=event_type,
        aggregation=cast(Aggregation, aggregation or "count"),
        value=value,
        group_by=_optional(entries.get("group_by"), (), _group_by),
        windows=_optional(entries.get("windows"), default.windows, _windows),
        timezone=_optional(entries.get("timezone"), default.timezone, _timezone),
        grace_ms=_optional(entries.get("grace"), default.grace_ms, _duration),
        minimum=_optional(entries.get("minimum"), None, lambda entry: entry.number(_decimal, "a decimal number")),
        description=_optional(entries.get("description"), "", lambda entry: entry.text("a text")),
        unit=_optional(entries.get("unit"), "", lambda entry: entry.text("a text")),
    )
    if meter.grace_ms > stream.correct_for_ms:
        written = format_duration(meter.grace_ms)
        most = format_duration(stream.correct_for_ms)
        entries.get("grace", field).problem(f"grace is {written}, expected at most the stream's correct_for, {most}")
    return meter


def _group_by(field: Field) -> tuple[tuple[str, Pointer], ...]:
    entries = field.entries("a mapping of names to JSON pointers, like {model: /model}")
    if len(entries) > MAX_GROUP_BY:
        field.problem(f"found {len(entries)} dimensions, expected at most {MAX_GROUP_BY}")
    group = []
    for name, entry in entries.items():
        if not _GROUP_NAME.match(name):
            entry.problem(
                f"found the dimension {name!r}, expected letters, digits, _ . or -, at most 63, not a digit first"
            )
        pointer = entry.parsed(Pointer, _POINTER)
        if pointer is not None:
            group.append((name, pointer))
    return tuple(sorted(group, key=lambda pair: pair[0]))


def _windows(field: Field) -> tuple[Window, ...]:
    fields = field.items("a list of window sizes, like [PT1M, PT1H]")
    if not fields and field.kind == "list":
        field.problem("the list is empty, expected at least one window size, like PT1H")
    windows: dict[int, Window] = {}
    for entry in fields:
        window = entry.parsed(Window.parse, "a window size, like PT1H")
        if window is None:
            continue
        if window.size_ms in windows:
            entry.problem(f"found {window.size} again, expected each size once")
        windows[window.size_ms] = window
    return tuple(windows[size_ms] for size_ms in sorted(windows))


def _timezone(field: Field) -> str | None:
    zone = field.text("UTC")
    if zone is not None and zone != "UTC":
        field.problem(f"found {zone!r}, expected UTC: other time zones are not supported yet")
        return None
    return zone


def _max_delay(field: Field) -> int | None:
    if field.node.value == "none":
        return None
    return field.parsed(_bounded, f"{_DURATION}, or none")


def _duration(field: Field) -> int | None:
    return field.parsed(_bounded, _DURATION)


def _bounded(text: str) -> int:
    ms = parse_duration(text)
    if ms > MAX_DURATION_MS:
        raise ValueError(f"found {text!r}, expected at most {format_duration(MAX_DURATION_MS)}")
    return ms


def _sources(field: Field | None) -> dict[str, Source]:
    if field is None:
        return {}
    sources = {}
    for name, entry in field.entries("a mapping of names to sources").items():
        source = read_source(name, entry)
        if source is not None:
            sources[name] = source
    return sources


def _optional(field: Field | None, default: _T, read: Callable[[Field], _T | None]) -> _T:
    """What `read` makes of the value; the default where it is left out, or wrong, which ends in an error anyway."""
    found = None if field is None else read(field)
    return default if found is None else found


def _slug(text: str) -> str:
    if not _SLUG.match(text):
        raise ValueError(f"found {text[:80]!r}, expected at most 63 small letters, digits and _, a letter first")
    return text


def _event_type(text: str) -> str:
    if not text or len(text) > 255:
        raise ValueError(f"found {len(text)} characters, expected an event type of 1 to 255")
    if text.startswith(RESERVED_PREFIX):
        raise ValueError(f"found {text!r}, but types {RESERVED_PREFIX}* are the stream's own; expected another one")
    return text


def _decimal(text: str) -> Decimal:
    try:
        return quantity(text)
    except DataError as error:
        raise ValueError(error.detail) from None
