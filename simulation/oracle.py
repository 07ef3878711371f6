"""What the usage log says, worked out a second time from design.md §3–§5, without a line of the product.

Written to be checked by reading. `position` is the offset of the next record (all below it count), `through` that of the
last one. Where design.md is silent: inside an envelope an event is judged by the watermark that the events before it left;
parts of a millisecond are cut off; a decimal's digits are counted as written. Durations are written canonically (PT1M).
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import reduce
from hashlib import blake2b
from typing import Any, NamedTuple

REASONS = ("malformed", "invalid", "future", "too_late")
COUNTERS = ("read", "counted", "duplicate", "unmatched", "dead_lettered", *(f"dead_lettered_{why}" for why in REASONS))
COUNTERS += ("late", "ticks", "ticks_refused", "keyless")
EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])
AVERAGE = Context(prec=34, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, Overflow])
RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)
NEVER = -(1 << 62)  # the watermark before the first time seen

Window = tuple[str, str, tuple[tuple[str, str], ...], int, str]  # subject, meter slug, group, start_ms, size


class Share(NamedTuple):  # what one source partition gave to a window
    events: int
    digest: int
    first: int  # offset of the first record that gave something
    through: int  # and of the last


class Expected(NamedTuple):  # what a window is worth when every record of every source is in it
    value: Decimal
    events: int
    digest: int


class _Contribution(NamedTuple):  # one event in one window
    offset: int
    moment: tuple[int, int, int, int]  # event time, source, offset, index: the order of `latest`
    amount: Any
    digest: int  # sum over its source's events in this window, this one included


@dataclass(slots=True)
class _State:  # one source partition after a record
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    watermark_ms: int = NEVER  # the highest time seen
    known: dict[bytes, int] = field(default_factory=dict)  # ids not forgotten: digest -> bucket of time last counted in
    live: dict[Window, int] = field(default_factory=dict)  # windows it gave to and has not sealed itself -> their end
    refused: frozenset[tuple[int, int, str]] = frozenset()  # offset, index, reason of every dead letter
    folds: int = 0  # contributions made: event × meter × window


class Oracle:
    """The judge of all source partitions of one usage log, under one document of meters."""

    def __init__(self, document: dict[str, Any], sources: int) -> None:
        self._tolerance_ms = _duration_ms(document["stream"]["future_tolerance"])
        self._correct_for_ms = _duration_ms(document["stream"]["correct_for"])
        self.bucket_ms = max(1000, self._correct_for_ms // 96)
        self._meters: dict[str, dict[str, Any]] = {meter["slug"]: meter for meter in document["meters"]}
        self._ms = {text: _duration_ms(text) for m in document["meters"] for text in (m["grace"], *m["windows"])}
        self._offsets: list[list[int]] = [[] for _ in range(sources)]
        self._states = [[_State()] for _ in range(sources)]  # [source][n]: after its first n records
        self._given: dict[Window, dict[int, list[_Contribution]]] = {}
        self.fates: dict[tuple[int, int, int], str] = {}  # (source, offset, index), ticks left out

    def read(self, source: int, offset: int, append_ms: int, key: bytes | None, value: bytes | None) -> list[str]:
        """Judges one record of a source's log, in offset order: the fate of each event, tick or tick_refused for ticks."""
        assert not self._offsets[source] or offset > self._offsets[source][-1], "records are read in offset order"
        before = self._states[source][-1]
        state = replace(before, counters=dict(before.counters), known=dict(before.known), live=dict(before.live))
        fates = []
        for index, event in enumerate(_events(value)):
            fate = self._judge(state, source, offset, index, append_ms, event)
            fates.append(fate)
            if fate.startswith("tick"):
                state.counters[fate.replace("tick", "ticks")] += 1
                continue
            self.fates[source, offset, index] = fate
            state.counters["read"] += 1
            state.counters["keyless"] += key is None
            state.counters[f"dead_lettered_{fate}" if fate in REASONS else fate] += 1
            if fate in REASONS:
                state.counters["dead_lettered"] += 1
                state.refused |= {(offset, index, fate)}
        oldest_ms = state.watermark_ms - self._correct_for_ms
        state.known = {id: at for id, at in state.known.items() if at >= oldest_ms // self.bucket_ms}
        state.live = {window: end_ms for window, end_ms in state.live.items() if end_ms > oldest_ms}
        self._offsets[source].append(offset)
        self._states[source].append(state)
        return fates

    def _judge(self, state: _State, source: int, offset: int, index: int, append_ms: int, event: Any) -> str:
        """The fates in the order of §4, by the watermark before the event (§3)."""
        if not _is_event(event):
            return "malformed"
        time_ms, before_ms = _time_ms(event.get("time")), state.watermark_ms
        if event["type"] == "meterline.tick":
            if time_ms is None or time_ms > append_ms + self._tolerance_ms:
                return "tick_refused"
            state.watermark_ms = max(before_ms, time_ms)
            return "tick"
        meters = [meter for meter in self._meters.values() if meter["event_type"] == event["type"]]
        if not meters:
            return "unmatched"
        subject, data = event.get("subject"), event.get("data")
        amounts = [_amount(meter, data) for meter in meters]
        if time_ms is None or time_ms < 0 or not subject or len(subject.encode()) > 512 or None in amounts:
            return "invalid"
        if time_ms > append_ms + self._tolerance_ms:
            return "future"
        if time_ms < before_ms - self._correct_for_ms:
            return "too_late"
        state.watermark_ms = max(before_ms, min(time_ms, append_ms))  # a fast clock closes nothing early
        name, late = event["source"].encode(), False
        digest = blake2b(b"%d:%b%b" % (len(name), name, event["id"].encode()), digest_size=16).digest()
        if state.known.get(digest, 2 * NEVER) >= (before_ms - self._correct_for_ms) // self.bucket_ms:
            return "duplicate"
        state.known[digest] = time_ms // self.bucket_ms  # it is known until that is too late
        for meter, amount in zip(meters, amounts, strict=True):
            group = tuple((name, _at(data, at) or "") for name, at in sorted(meter.get("group_by", {}).items()))
            for size in meter["windows"]:
                start_ms = time_ms - time_ms % self._ms[size]
                end_ms = start_ms + self._ms[size]
                late = late or end_ms + self._ms[meter["grace"]] <= before_ms
                window = (subject, meter["slug"], group, start_ms, size)
                given = self._given.setdefault(window, {}).setdefault(source, [])
                total = (given[-1].digest if given else 0) + int.from_bytes(digest, "big")
                given.append(_Contribution(offset, (time_ms, source, offset, index), amount, total % (1 << 128)))
                state.live[window] = end_ms
                state.folds += 1
        state.counters["late"] += late
        return "counted"

    def _state(self, source: int, position: int) -> _State:
        """After all records of the source below `position`; the six answers that follow are read from it."""
        return self._states[source][bisect_left(self._offsets[source], position)]

    def counters(self, source: int, position: int) -> dict[str, int]:
        return self._state(source, position).counters

    def dead_letters(self, source: int, position: int) -> frozenset[tuple[int, int, str]]:
        return self._state(source, position).refused

    def watermark_ms(self, source: int, position: int) -> int | None:
        return None if (reached_ms := self._state(source, position).watermark_ms) == NEVER else reached_ms

    def known(self, source: int, position: int) -> dict[bytes, int]:
        return self._state(source, position).known

    def folds(self, source: int, position: int) -> int:
        return self._state(source, position).folds

    def live(self, source: int, position: int) -> set[Window]:
        return set(self._state(source, position).live)

    def _through(self, window: Window, source: int, through: int) -> list[_Contribution]:
        given = self._given.get(window, {}).get(source, [])
        return given[: bisect_right(given, through, key=lambda contribution: contribution.offset)]

    def share(self, window: Window, source: int, through: int) -> Share | None:
        """Everything the source gave to the window in records up to `through`, that one included; None if nothing."""
        given = self._through(window, source, through)
        return Share(len(given), given[-1].digest, given[0].offset, given[-1].offset) if given else None

    def value(self, window: Window, throughs: Mapping[int, int]) -> Decimal:
        """The window's value of the sources named, each through the offset given; min, max, avg, latest need an event."""
        given = [each for source, through in throughs.items() for each in self._through(window, source, through)]
        return _value(self._meters[window[1]]["aggregation"], given)

    def windows(self) -> dict[Window, Expected]:
        """Every window as it is when all that was read is counted."""
        expected = {}
        for window, sources in self._given.items():
            value = self.value(window, {source: given[-1].offset for source, given in sources.items()})
            digest = sum(given[-1].digest for given in sources.values()) % (1 << 128)
            expected[window] = Expected(value, sum(map(len, sources.values())), digest)
        return expected


def _events(value: bytes | None) -> list[Any]:
    """The elements of a record; what cannot be decoded, or holds nothing, is one that is no event."""
    try:  # `int` refuses NaN and Infinity, which are no JSON
        document = json.loads((value or b"").decode(), parse_int=Decimal, parse_float=Decimal, parse_constant=int)
    except ValueError:
        return [None]
    return (document or [None]) if isinstance(document, list) else [document]


def _is_event(event: Any) -> bool:
    has = event if isinstance(event, dict) else {}
    required = all(isinstance(has.get(name), str) and has[name] for name in ("id", "source", "type"))
    optional = all(isinstance(has.get(name), str | None) for name in ("subject", "time"))
    return has.get("specversion") == "1.0" and required and optional


def _time_ms(text: str | None) -> int | None:
    """RFC 3339 with a zone, in ms since 1970; None if it is not that."""
    if not (parts := RFC3339.fullmatch(text or "")):
        return None
    try:
        moment = datetime.fromisoformat(f"{parts[1]}T{parts[2]}{parts[4].upper()}")
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000 + int((parts[3] or "")[:3].ljust(3, "0"))


def _amount(meter: dict[str, Any], data: Any) -> Any:
    """What the event adds to the meter, a member or a quantity; None makes it invalid."""
    found = True if meter["aggregation"] == "count" else _at(data, meter["value"])
    if meter["aggregation"] in ("count", "unique_count"):
        return (type(found), found) if isinstance(found, str | Decimal | bool) else None
    if isinstance(found, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", found, re.ASCII):
        found = Decimal(found)
    if not isinstance(found, Decimal) or (found and found.adjusted() >= 20) or int(found.as_tuple().exponent) < -18:
        return None
    return None if meter.get("minimum") is not None and found < Decimal(str(meter["minimum"])) else found


def _at(data: Any, pointer: str) -> Any:
    """What the JSON pointer finds in nested objects, None if nothing."""
    for part in pointer.split("/")[1:]:
        data = data.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(data, dict) else None
    return data


def _value(aggregation: str, given: list[_Contribution]) -> Decimal:
    amounts = [contribution.amount for contribution in given]
    if aggregation in ("count", "unique_count"):
        return Decimal(len(amounts if aggregation == "count" else set(amounts)))
    if aggregation == "latest":
        return Decimal(max(given, key=lambda contribution: contribution.moment).amount)
    if aggregation in ("min", "max"):
        return Decimal(min(amounts) if aggregation == "min" else max(amounts))
    total = reduce(EXACT.add, amounts, Decimal(0))
    return AVERAGE.divide(total, Decimal(len(given))) if aggregation == "avg" else total


def _duration_ms(text: str) -> int:
    parts = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", text)
    assert parts, f"{text!r} is no ISO 8601 duration of fixed length"
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000
