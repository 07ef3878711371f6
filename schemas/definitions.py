"""What is metered: the stream's settings, the meters, the sources. Frozen; schemas/meters.py builds valid ones.

The digest of a set is what a worker must have to go on after a change of definitions (design §3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import orjson

from schemas.durations import format_duration, parse_duration
from schemas.numbers import format_quantity
from schemas.pointers import Pointer

if TYPE_CHECKING:
    from schemas.sources import Source

Aggregation = Literal["sum", "count", "min", "max", "avg", "latest", "unique_count"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)
MAX_GROUP_BY = 16

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What belongs to the stream as a whole (design §3). All in ms.

    max_delay_ms: how old an event may be expected to be; the clock's ticks say `now - max_delay`. None: no automatic
    ticks, the clock is the data's. future_tolerance_ms: how far ahead of its record's timestamp an event may be.
    correct_for_ms: how long after its end a window can be corrected. revise_every_ms: spacing of a window's revisions.
    """

    max_delay_ms: int | None = 30_000
    future_tolerance_ms: int = 300_000
    correct_for_ms: int = 86_400_000
    revise_every_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Window:
    """A fixed window size, aligned to the epoch in UTC. `size`: canonical ISO 8601 text, `size_ms`: its length."""

    size: str
    size_ms: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """From ISO 8601: whole minutes from PT1M to P1D that divide a day evenly, so that days begin with a window.

        Raises ValueError with what was found and what is allowed.
        """
        size_ms = parse_duration(text)
        if size_ms < _MINUTE_MS or size_ms > _DAY_MS or size_ms % _MINUTE_MS or _DAY_MS % size_ms:
            raise ValueError(
                f"{text!r} is no window size; expected whole minutes from PT1M to P1D that divide a day evenly, "
                "like PT1M, PT5M, PT15M, PT1H, PT6H or P1D"
            )
        return cls(format_duration(size_ms), size_ms)

    def start_of(self, time_ms: int) -> int:
        """The start (ms UTC) of the window that contains `time_ms`: start <= time < start + size_ms."""
        return time_ms - time_ms % self.size_ms


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter: which events it reads, what of them, and how that adds up. Slugs are unique within a set.

    value: where in `data` the quantity is (what to tell apart, for unique_count); None only for count.
    group_by: (name, pointer), sorted by name. windows: sorted by size. minimum: quantities below it are invalid.
    """

    slug: str
    event_type: str
    aggregation: Aggregation
    value: Pointer | None = None
    group_by: tuple[tuple[str, Pointer], ...] = ()
    windows: tuple[Window, ...] = (Window("PT1H", 3_600_000),)
    timezone: str = "UTC"
    grace_ms: int = 5_000
    minimum: Decimal | None = None
    version: int = 1
    description: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Definitions:
    """One set of definitions: settings, meters in the file's order, sources by name."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    meters: tuple[Meter, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    digest: str = field(init=False, compare=False)
    """SHA-256 in hex over the canonical JSON of stream settings and meters.

    Not of the sources, which only produce events; not of `description` and `unit`, which change no number; and not of
    the meters' order in the file.
    """
    by_event_type: Mapping[str, tuple[Meter, ...]] = field(init=False, compare=False, repr=False)
    """The meters of each event type, sorted by slug."""

    def __post_init__(self) -> None:
        meters = sorted(self.meters, key=lambda meter: meter.slug)
        by_event_type: dict[str, tuple[Meter, ...]] = {}
        for meter in meters:
            by_event_type[meter.event_type] = (*by_event_type.get(meter.event_type, ()), meter)
        canonical = {"stream": _stream(self.stream), "meters": [_meter(meter) for meter in meters]}
        body = orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))
        object.__setattr__(self, "digest", hashlib.sha256(body).hexdigest())
        object.__setattr__(self, "by_event_type", MappingProxyType(by_event_type))


def _stream(stream: StreamSettings) -> dict[str, object]:
    return {
        "max_delay_ms": stream.max_delay_ms,
        "future_tolerance_ms": stream.future_tolerance_ms,
        "correct_for_ms": stream.correct_for_ms,
        "revise_every_ms": stream.revise_every_ms,
    }


def _meter(meter: Meter) -> dict[str, object]:
    return {
        "slug": meter.slug,
        "event_type": meter.event_type,
        "aggregation": meter.aggregation,
        "value": meter.value.text if meter.value else None,
        "group_by": [[name, pointer.text] for name, pointer in meter.group_by],
        "windows": [window.size for window in meter.windows],
        "timezone": meter.timezone,
        "grace_ms": meter.grace_ms,
        "minimum": None if meter.minimum is None else format_quantity(meter.minimum),
        "version": meter.version,
    }
