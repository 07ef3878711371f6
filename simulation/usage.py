"""Usage as it comes in the world: a document of meters, and what producers send to each partition, drawn from a seed.

`document` draws what is metered, on a scale at which a story of minutes sees windows open, close, be revised and be
sealed. `usage` draws the records: mostly plain events of a few hot subjects and many cold ones, and among them every
trouble in TROUBLES. Which troubles a seed has, and how many, is drawn first, so that many seeds have none of a kind.

Every choice comes from the generator handed in, and nothing iterates a set: a seed gives the same bytes in any process.
The generator decides by partition: what it repeats to be a duplicate, it repeats in the partition it was sent to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson

Event = dict[str, Any]

SECOND_MS, MINUTE_MS = 1_000, 60_000
AGGREGATIONS = ("sum", "count", "min", "max", "avg", "latest", "unique_count")
EVENT_TYPES = ("api.request", "storage.snapshot")
SIZES_MS = {"PT1M": 60_000, "PT2M": 120_000, "PT3M": 180_000}
WANTED = (["PT1M"], ["PT2M"], ["PT1M", "PT2M"], ["PT1M", "PT3M"], list(SIZES_MS))
"""Sizes of one meter, so far as `correct_for` allows; the first is the likeliest, for a story lasts until its windows close."""
CORRECT_FOR_MS = {"PT2M": 120_000, "PT3M": 180_000, "PT4M": 240_000, "PT5M": 300_000}
TOLERANCE_MS = {"PT30S": 30_000, "PT45S": 45_000, "PT1M": 60_000}
POINTERS = ("/amount", "/usage/total")
MODELS = ("gpt-4o", "gpt-4o-mini", "modèle β", "a/b~c")
REGIONS = ("westeurope", "northeurope")

TROUBLES = {
    "out_of_order": 0.3,  # some seconds behind its neighbours
    "late": 0.15,  # for a window that has closed, still to be corrected
    "edge": 0.1,  # on a window's first or last millisecond, or exactly as old or as far ahead as may be
    "too_late": 0.1,
    "near_duplicate": 0.12,  # of the same envelope, or of the record before it in its partition
    "far_duplicate": 0.12,  # of minutes ago, perhaps of an id forgotten since
    "elsewhere": 0.08,  # an event of another partition again: counted there too, for dedupe is within a partition
    "restamped": 0.08,  # a retry: the same id, a new time
    "ahead": 0.1,  # of its record, within the tolerance
    "future": 0.08,  # beyond it
    "malformed": 0.08,  # one element that is no event
    "invalid": 0.12,
    "unmatched": 0.1,
    "foreign_tick": 0.1,
}
"""Per kind of trouble, the share of events it may befall at most."""

RECORD_TROUBLES = {
    "undecodable": 0.06,
    "keyless": 0.5,
    "resent": 0.2,  # an envelope of a counting producer again: a retry, at once or much later
    "restarted": 0.03,  # a counting producer begins anew, with another text before its counters
}
"""The same for whole records."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A record: when it is appended (virtual wall clock), to which source partition, and what it says."""

    at_ms: int
    source: int
    key: bytes | None
    value: bytes | None


# --- what is metered --------------------------------------------------------------------------------------------------


def document(rng: random.Random) -> dict[str, Any]:
    """A document as meters.yaml holds it: 1 to 4 meters over 1 or 2 event types, with every key that matters written out."""
    types = EVENT_TYPES[: rng.choice([1, 1, 2])]
    aggregations = rng.sample(AGGREGATIONS, rng.randint(len(types), 4))
    correct_for = rng.choice(list(CORRECT_FOR_MS))
    sizes = [size for size, size_ms in SIZES_MS.items() if size_ms <= CORRECT_FOR_MS[correct_for]]
    return {
        "stream": {
            "max_delay": rng.choice(["PT20S", "PT30S", "PT40S"]),
            "future_tolerance": rng.choice(list(TOLERANCE_MS)),
            "correct_for": correct_for,
            "revise_every": rng.choice(["PT5S", "PT10S", "PT15S", "PT30S"]),
        },
        "meters": [_meter(rng, number, aggregation, types, sizes) for number, aggregation in enumerate(aggregations)],
    }


def _meter(
    rng: random.Random, number: int, aggregation: str, types: tuple[str, ...], sizes: list[str]
) -> dict[str, Any]:
    wanted = rng.choices(WANTED, [50, 15, 20, 8, 7])[0]
    meter: dict[str, Any] = {
        "slug": f"{aggregation}_{number}",
        "event_type": types[number] if number < len(types) else rng.choice(types),
        "aggregation": aggregation,
        "windows": [size for size in sizes if size in wanted] or sizes[:1],
        "grace": rng.choice(["PT0S", "PT0S", "PT5S", "PT10S", "PT20S"]),
    }
    if aggregation == "unique_count":
        meter["value"] = "/user"
    elif aggregation != "count":
        meter["value"] = rng.choice(POINTERS)
        if rng.random() < 0.6:
            meter["minimum"] = rng.choice([0, 0, 1, -5])
    if rng.random() < 0.4:
        meter["group_by"] = rng.choice([{"model": "/model"}, {"region": "/at/region", "model": "/model"}])
    return meter


# --- what is sent -----------------------------------------------------------------------------------------------------


def usage(
    rng: random.Random,
    document: dict[str, Any],
    sources: int,
    start_ms: int,
    span_ms: int,
    records: int,
    wildness: float = 1.0,
) -> list[Sent]:
    """`records` records of `sources` partitions, appended from start_ms for span_ms, in the order of their time.

    wildness: 0 sends plain usage alone, 1 is the wild as it is; a number between scales every trouble down.
    """
    return _Usage(rng, document, sources, start_ms, span_ms, wildness).draw(records)


@dataclass(slots=True)
class _Producer:
    """One CloudEvents `source`. Its clock goes wrong by offset_ms, or stands still at stuck_at_ms from then on.

    counting: its ids are `run-partition-counter`, in order, with gaps; else they are plain numbers. next: by partition.
    """

    name: str
    offset_ms: int = 0
    stuck_at_ms: int | None = None
    sent: int = 0
    counting: bool = False
    run: int = 0
    next: dict[int, int] = field(default_factory=dict)

    def clock_ms(self, now_ms: int) -> int:
        stuck_ms = now_ms if self.stuck_at_ms is None else min(now_ms, self.stuck_at_ms)
        return stuck_ms + self.offset_ms


@dataclass(slots=True)
class _Partition:
    """What the generator remembers of one source partition. sent: when, and the event, in order.

    silent: from when to when nothing is sent there. packed: the envelopes of counting producers, and when they were sent.
    """

    number: int
    silent: tuple[int, int]
    packed: list[Sent] = field(default_factory=list)
    sent: list[tuple[int, Event]] = field(default_factory=list)
    highest_ms: int = 0  # what its watermark is about, but for the ticks of its owner


class _Usage:
    def __init__(
        self, rng: random.Random, document: dict[str, Any], sources: int, start_ms: int, span_ms: int, wildness: float
    ) -> None:
        self._rng = rng
        self._meters: list[dict[str, Any]] = document["meters"]
        self._types = list(dict.fromkeys(meter["event_type"] for meter in self._meters))
        self._read_values = [meter["event_type"] for meter in self._meters if "value" in meter]
        self._tolerance_ms = TOLERANCE_MS[document["stream"]["future_tolerance"]]
        self._correct_for_ms = CORRECT_FOR_MS[document["stream"]["correct_for"]]
        self._start_ms, self._span_ms = start_ms, span_ms
        self._rates = {
            kind: most * wildness * rng.random() if rng.random() < 0.55 else 0.0
            for kind, most in (TROUBLES | RECORD_TROUBLES).items()
        }
        self._partitions = [_Partition(number, self._silence(wildness)) for number in range(sources)]
        self._producers = [self._producer(number, wildness) for number in range(rng.randint(1, 4))]
        self._subjects = [f"tenant-{number}" for number in range(rng.choice([2, 5, 20]))] + ["grün & söhne"]
        self._spread = rng.choice([0.0, 0.0, 0.2, 1.0])  # of subjects over partitions that are not theirs
        self._envelopes = rng.choice([0.0, 0.3, 0.6, 1.0])
        self._packed = rng.choice([0.0, 0.2, 0.6]) if any(producer.counting for producer in self._producers) else 0.0
        self._special: dict[str, Callable[[_Partition, int], Event | Any | None]] = {
            "near_duplicate": self._near_duplicate,
            "far_duplicate": self._far_duplicate,
            "elsewhere": self._elsewhere,
            "restamped": self._restamped,
            "malformed": self._malformed,
            "invalid": self._invalid,
            "unmatched": self._unmatched,
            "foreign_tick": self._foreign_tick,
        }

    def draw(self, records: int) -> list[Sent]:
        """The records, in the order of their time; each is drawn knowing those before it."""
        rng = self._rng
        bursts = [rng.uniform(0, self._span_ms) for _ in range(rng.randint(1, 4))]
        bursty = rng.choice([0.0, 0.3, 0.7])
        moments = [
            min(self._span_ms - 1, int(rng.choice(bursts) + rng.uniform(0, 2_000)))
            if rng.random() < bursty
            else rng.randrange(self._span_ms)
            for _ in range(records)
        ]
        return sorted(
            (self._record(self._start_ms + moment_ms) for moment_ms in sorted(moments)), key=lambda sent: sent.at_ms
        )

    def _record(self, at_ms: int) -> Sent:
        subject = self._subject()
        number = self._route(subject, at_ms)
        partition = self._partitions[number]
        key = None if self._befalls("keyless") else subject.encode()
        if self._befalls("undecodable"):
            return Sent(at_ms, number, key, self._rng.choice([None, b"", b"[]", b"{", b"\xff\xfe", b"42", b'"event"']))
        if self._rng.random() < self._packed:
            return self._counted(partition, at_ms, subject, key)
        count = self._rng.randint(2, 6) if self._rng.random() < self._envelopes else 1
        events = []
        for _ in range(count):
            event = self._event(partition, at_ms, subject)
            events.append(event)
            if isinstance(event, dict):
                partition.sent.append((at_ms, event))
        enveloped = count > 1 or self._rng.random() < 0.05
        return Sent(at_ms, number, key, orjson.dumps(events if enveloped else events[0]))

    def _counted(self, partition: _Partition, at_ms: int, subject: str, key: bytes | None) -> Sent:
        """An envelope of a counting producer, or one of those before it again."""
        rng = self._rng
        if partition.packed and self._befalls("resent"):
            again = rng.choice([partition.packed[-1], rng.choice(partition.packed)])
            return Sent(at_ms, partition.number, key, again.value)
        producer = rng.choice([producer for producer in self._producers if producer.counting])
        if self._befalls("restarted"):
            producer.run += 1
            producer.next.clear()
        events = []
        for _ in range(rng.randint(8, 14)):
            event = self._event(partition, at_ms, subject, producer)
            events.append(event)
            if isinstance(event, dict):
                partition.sent.append((at_ms, event))
        sent = Sent(at_ms, partition.number, key, orjson.dumps(events))
        partition.packed.append(sent)
        return sent

    def _route(self, subject: str, at_ms: int) -> int:
        """A partition that is not silent now; the subject's own, unless it is spread or its own is silent.

        When all are silent, the first: a silence is nothing one may wait for.
        """
        own = self._subjects.index(subject) % len(self._partitions)
        if self._rng.random() < self._spread:
            own = self._rng.randrange(len(self._partitions))
        for step in range(len(self._partitions)):
            number = (own + step) % len(self._partitions)
            begin_ms, end_ms = self._partitions[number].silent
            if not begin_ms <= at_ms < end_ms:
                return number
        return 0

    def _event(self, partition: _Partition, at_ms: int, subject: str, producer: _Producer | None = None) -> Event | Any:
        """One event: of some trouble, or plain, of that producer or of any."""
        for kind, special in self._special.items():
            if self._befalls(kind):
                event = special(partition, at_ms)
                if event is not None:
                    return event
        return self._plain(partition, at_ms, subject, producer=producer)

    def _plain(
        self,
        partition: _Partition,
        at_ms: int,
        subject: str | None = None,
        type: str | None = None,
        producer: _Producer | None = None,
    ) -> Event:
        """A new event of a producer, stamped by its clock or by a trouble of time."""
        rng = self._rng
        producer = producer or rng.choice(self._producers)
        time_ms = self._stamp(partition, producer.clock_ms(at_ms) - int(rng.expovariate(1 / 400)), at_ms)
        partition.highest_ms = max(partition.highest_ms, min(time_ms, at_ms))
        return {
            "specversion": "1.0",
            "id": self._id(producer, partition),
            "source": producer.name,
            "type": type or rng.choice(self._types),
            "subject": subject or self._subject(),
            "time": self._rfc3339(time_ms),
            "data": {
                "amount": self._quantity(),
                "usage": {"total": self._quantity()},
                "user": rng.choice(["ada", "bob", "bob", "1", "true", 1, 1.0, 2, True, False]),
                "at": {"region": rng.choice(REGIONS)} if rng.random() < 0.8 else {},
                **({"model": rng.choice([*MODELS, None])} if rng.random() < 0.8 else {}),
            },
        }

    def _id(self, producer: _Producer, partition: _Partition) -> str:
        """The next id of a producer; one that counts leaves some out, as one does whose events went elsewhere."""
        producer.sent += 1
        if not producer.counting:
            return str(producer.sent)
        counter = producer.next.get(partition.number, 0)
        producer.next[partition.number] = counter + (1 if self._rng.random() < 0.9 else self._rng.randint(2, 5))
        return f"run{producer.run}-{partition.number}-{counter}"

    # --- time -----------------------------------------------------------------------------------------------------------

    def _stamp(self, partition: _Partition, time_ms: int, at_ms: int) -> int:
        """The time of a new event that its producer's clock would give time_ms."""
        rng = self._rng
        if self._befalls("out_of_order"):
            return time_ms - rng.randrange(25_000)
        if self._befalls("late"):
            return at_ms - rng.randrange(30_000, self._correct_for_ms)
        if self._befalls("too_late"):
            return at_ms - self._correct_for_ms - rng.choice([rng.randrange(1, 30_000), rng.randrange(1, 600_000)])
        if self._befalls("ahead"):
            return at_ms + rng.randrange(self._tolerance_ms)
        if self._befalls("future"):
            return at_ms + self._tolerance_ms + rng.choice([1, rng.randrange(1, 60_000), rng.randrange(1, 86_400_000)])
        if self._befalls("edge"):
            window_ms = time_ms - time_ms % rng.choice(list(SIZES_MS.values()))
            oldest_ms = (partition.highest_ms or at_ms) - self._correct_for_ms
            return rng.choice([window_ms, window_ms - 1, oldest_ms, oldest_ms - 1, at_ms + self._tolerance_ms])
        return time_ms

    def _rfc3339(self, time_ms: int) -> str:
        """The same instant in one of the ways producers write it."""
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
        style = self._rng.randrange(8)
        if style == 0:
            return moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(timespec="milliseconds")
        if style == 1:
            return moment.astimezone(timezone(-timedelta(hours=8))).isoformat(timespec="microseconds")
        if style == 2:
            finer = self._rng.randrange(1_000)
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}{finer:03d}Z"
        if style == 3 and time_ms % 1_000 == 0:
            return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    # --- the same again -------------------------------------------------------------------------------------------------

    def _near_duplicate(self, partition: _Partition, at_ms: int) -> Event | None:
        """One of the last few of its partition: of this envelope, or of the record before."""
        return self._rng.choice(partition.sent[-3:])[1] if partition.sent else None

    def _far_duplicate(self, partition: _Partition, at_ms: int) -> Event | None:
        """One of a minute ago or longer; sometimes so old that its id is forgotten and its time too late."""
        behind_ms = self._rng.choice([MINUTE_MS, 2 * MINUTE_MS, self._correct_for_ms + MINUTE_MS])
        old = [event for sent_ms, event in partition.sent if sent_ms <= at_ms - behind_ms]
        return self._rng.choice(old) if old else None

    def _elsewhere(self, partition: _Partition, at_ms: int) -> Event | None:
        """One that another partition had."""
        others = [other for other in self._partitions if other is not partition and other.sent]
        return self._rng.choice(self._rng.choice(others).sent[-20:])[1] if others else None

    def _restamped(self, partition: _Partition, at_ms: int) -> Event | None:
        """A retry with the time of the retry: a duplicate while the id is known, a new event after that."""
        again = self._far_duplicate(partition, at_ms) or self._near_duplicate(partition, at_ms)
        if again is None or again.get("type") not in self._types:
            return None
        return again | {"time": self._rfc3339(at_ms - self._rng.randrange(2_000))}

    # --- what no producer should send -----------------------------------------------------------------------------------

    def _malformed(self, partition: _Partition, at_ms: int) -> Any:
        """An element that is no CloudEvent 1.0. It is a text, a number, a list or another dictionary, never None."""
        event = self._plain(partition, at_ms)
        missing = self._rng.choice(["specversion", "id", "source", "type"])
        return self._rng.choice(
            [
                {name: value for name, value in event.items() if name != missing},
                event | {missing: ""},
                event | {missing: 7},
                event | {"specversion": "0.3"},
                event | {"subject": 7},
                "event",
                7,
                [],
                {},
            ]
        )

    def _invalid(self, partition: _Partition, at_ms: int) -> Event:
        """A CloudEvent that cannot be metered; where no meter reads the value, some of these are valid after all."""
        event = self._plain(partition, at_ms)
        bad_times = ["yesterday", "2026-01-01T12:00:00", "2026-13-01T12:00:00Z", "1969-12-31T23:59:59.999Z", "", None]
        bad_values: list[Any] = ["many", "", "1,5", None, {}, [1], True, -7, "-0.5", "1" * 21]
        bad_values.append(orjson.Fragment(b"0." + b"1" * 19))
        bad_value = self._rng.choice(bad_values)
        missing = self._rng.choice(["subject", "time", "data"])
        # Whether data that is no object matters to a meter that reads nothing in it is left open by the design.
        bad_data: Any = {}
        if event["type"] in self._read_values:
            bad_data = self._rng.choice([None, 7, "text", [], {}])
        return self._rng.choice(
            [
                event | {"subject": self._rng.choice(["", None, "s" * 513, "é" * 257])},
                {name: value for name, value in event.items() if name != missing},
                event | {"time": self._rng.choice(bad_times)},
                event | {"data": event["data"] | {"amount": bad_value, "usage": {"total": bad_value}}},
                event | {"data": event["data"] | {"user": self._rng.choice([None, {}, []])}},
                event | {"data": bad_data},
            ]
        )

    def _unmatched(self, partition: _Partition, at_ms: int) -> Event:
        return self._plain(partition, at_ms, type=self._rng.choice(["api.reply", "API.REQUEST", "x"]))

    def _foreign_tick(self, partition: _Partition, at_ms: int) -> Event:
        """A tick that no owner sent: old, timely, ahead, too far ahead, or unreadable."""
        rng = self._rng
        times: list[str | None] = [
            self._rfc3339(at_ms - rng.randrange(10 * MINUTE_MS)),
            self._rfc3339(at_ms - rng.randrange(60 * SECOND_MS)),
            self._rfc3339(at_ms + rng.randrange(self._tolerance_ms + 1)),
            self._rfc3339(at_ms + self._tolerance_ms + rng.choice([1, rng.randrange(1, 600_000)])),
            rng.choice(["soon", "2026-01-01T12:00:00", None]),
        ]
        number = rng.randrange(1_000)
        head = {"specversion": "1.0", "id": f"tick-{number}", "source": "/clock", "type": "meterline.tick"}
        time = rng.choice(times)
        return head if time is None else head | {"time": time}

    # --- drawn once per seed --------------------------------------------------------------------------------------------

    def _silence(self, wildness: float) -> tuple[int, int]:
        """From when to when a partition gets nothing: never, all the time, or for a stretch."""
        drawn = self._rng.random()
        if drawn < 0.1 * wildness:
            return self._start_ms, self._start_ms + self._span_ms
        if drawn < 0.35 * wildness:
            begin_ms = self._start_ms + self._rng.randrange(self._span_ms)
            return begin_ms, begin_ms + int(self._span_ms * self._rng.uniform(0.2, 0.8))
        return 0, 0

    def _producer(self, number: int, wildness: float) -> _Producer:
        """Named so that names run into ids: /p with id 11, and /p1 with id 1, are two events."""
        producer = _Producer("/p" + "1" * number, counting=self._rng.random() < 0.5)
        drawn = self._rng.random()
        if drawn < 0.12 * wildness:
            producer.stuck_at_ms = self._start_ms + self._rng.randrange(self._span_ms)
        elif drawn < 0.24 * wildness:
            producer.offset_ms = self._rng.choice([-1, 1]) * self._rng.randrange(1, 2 * self._tolerance_ms)
        return producer

    # --- small draws ----------------------------------------------------------------------------------------------------

    def _befalls(self, kind: str) -> bool:
        return self._rng.random() < self._rates[kind]

    def _subject(self) -> str:
        """The first few are hot."""
        hot = self._rng.random() < 0.7
        return self._subjects[self._rng.randrange(2)] if hot else self._rng.choice(self._subjects)

    def _quantity(self) -> Any:
        """A number or a decimal in a text, mostly small; 1 at least, so that no minimum refuses it."""
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.5:
            return rng.randint(1, 1_000)
        if drawn < 0.75:
            return orjson.Fragment(f"{rng.randint(1, 99)}.{rng.randrange(100):02d}".encode())
        if drawn < 0.95:
            return f"{rng.randint(1, 99)}.{rng.randrange(10**6):06d}"
        return orjson.Fragment(f"{rng.randrange(10**19, 10**20)}.{rng.randrange(10**18):018d}".encode())
