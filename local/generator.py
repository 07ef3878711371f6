"""Usage that looks like usage: tenants of very different size, and everything that goes wrong on a road like this.

Pure and seeded: the same arguments give the same records. Fits any meters file: it fills what the meters point at.
What it sends is judged by `local/ledger.py`; nothing here knows what should come of it.

- `compressed`: a fixed number of events over a span in the past, for `local --once`.
- `live`: the last minutes at once, then a steady rate for ever, for `local`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import orjson

from local.reading import MeterRule, Rules
from schemas.hashing import partition_for
from schemas.times import format_rfc3339

TENANTS = (
    "contoso",
    "fabrikam",
    "litware",
    "nod-publishers",
    "woodgrove bank / EMEA #2",  # what a URL would choke on is an ordinary subject
    "fincher-architects",
    "blue-yonder",
    "northwind",
)
GROUPS = {
    "model": ("gpt-4o", "gpt-4o-mini", "o4-mini"),
    "region": ("westeurope", "swedencentral", "eastus2"),
    "tier": ("hot", "cool", "archive"),
    "method": ("GET", "POST", "DELETE"),
}
UNMATCHED_TYPE = "portal.page.viewed"
SOURCE = "/meterline/generator"
MAX_RECORD_BYTES = 60_000
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Planned:
    """One record to send. due_ms: not before this wall clock time (0: at once). events: how many will be read of it."""

    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    events: int = 1
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """How often each thing goes wrong, as a share of the events."""

    disorder: float = 0.15
    late: float = 0.01
    duplicate_near: float = 0.02
    duplicate_far: float = 0.01
    too_late: float = 0.002
    future: float = 0.002
    malformed: float = 0.003
    invalid: float = 0.004
    unmatched: float = 0.01

    def kinds(self) -> tuple[list[str], list[float]]:
        """Every kind of step and its weight; what is left is plain."""
        weights = {name: getattr(self, name) for name in self.__slots__}
        weights["plain"] = 1.0 - sum(weights.values())
        return list(weights), list(weights.values())


def compressed(
    rules: Rules,
    *,
    seed: int,
    partitions: int,
    events: int,
    start_ms: int,
    span_ms: int,
    now_ms: int,
    trouble: Trouble | None = None,
) -> Iterator[Planned]:
    """Exactly `events` events whose times cover `span_ms` from `start_ms`; `now_ms` is only where the future begins."""
    world = _World(rules, seed, partitions, trouble or Trouble(), span_ms)
    for number in range(events):
        world.step(start_ms + span_ms * number // events, now_ms, settled=number > events // 20)
        yield from world.ready(largest=60)
    yield from world.rest()


def live(
    rules: Rules, *, seed: int, partitions: int, now_ms: int, rate: float = 25.0, trouble: Trouble | None = None
) -> Iterator[Planned]:
    """The last six minutes at once, then `rate` events a second for ever, each due at its own time."""
    backfill_ms = 6 * MINUTE_MS
    world = _World(rules, seed, partitions, trouble or Trouble(), backfill_ms)
    count = int(rate * backfill_ms / 1000 / 4)
    for number in range(count):
        world.step(now_ms - backfill_ms + backfill_ms * number // count, now_ms, settled=number > count // 4)
        yield from world.ready(largest=40)
    yield from world.rest()
    number = 0
    while True:
        due_ms = now_ms + int(number * 1000 / rate)
        world.step(due_ms, due_ms, settled=True)
        # Once a second everything leaves: an event of a quiet tenant must not grow old in a buffer.
        ready = world.rest() if number % max(1, int(rate)) == 0 else world.ready(largest=4)
        for planned in ready:
            yield replace(planned, due_ms=due_ms)
        number += 1


class _World:
    """The tenants, what they sent before, and one buffer per partition that becomes a record or an envelope.

    late_ms: how far back late events reach, at most; there should be windows there.
    """

    def __init__(self, rules: Rules, seed: int, partitions: int, trouble: Trouble, late_ms: int) -> None:
        self._rules = rules
        self._random = Random(seed)
        self._partitions = partitions
        self._late_ms = max(2 * MINUTE_MS, min(late_ms, 40 * MINUTE_MS, rules.correct_for_ms // 2))
        self._kinds, self._weights = trouble.kinds()
        self._types: dict[str, list[MeterRule]] = {}
        for meter in rules.meters:
            self._types.setdefault(meter.event_type, []).append(meter)
        assert self._types, "a meters file has at least one meter"
        self._tenant_weights = [1 / (rank + 1) ** 1.1 for rank in range(len(TENANTS))]
        self._number = 0
        self._sent: list[dict[str, Any]] = []
        self._broken: list[dict[str, Any]] = []
        self._buffers: dict[int, list[tuple[str, bytes]]] = {number: [] for number in range(partitions)}
        self._targets = dict.fromkeys(range(partitions), 1)
        self._finished: list[Planned] = []

    def step(self, time_ms: int, now_ms: int, *, settled: bool) -> None:
        """Exactly one more event. settled: far enough from the beginning for old times to be told from new ones."""
        kind = self._random.choices(self._kinds, self._weights)[0]
        if kind in ("late", "too_late", "duplicate_far") and not settled:
            kind = "plain"
        random = self._random
        if kind == "malformed":
            self._malformed(time_ms)
            return
        if kind.startswith("duplicate") and self._sent:
            near = self._sent[-40:] if kind == "duplicate_near" else self._sent
            event = random.choice(near)
            if random.random() < 0.2:  # one id, other content: the first one wins
                event = {**event, "data": self._data(event["type"])}
            self._put(event)
            return
        event = self._event(self._time(kind, time_ms, now_ms))
        if kind == "unmatched":
            event["type"] = UNMATCHED_TYPE
        if kind == "invalid":
            self._spoil(event)
            self._broken.append(event)
        elif kind == "plain" and self._broken and random.random() < 0.2:
            # A dead letter's id was never counted: the corrected event must be.
            event["id"] = self._broken.pop()["id"]
        self._put(event)
        if kind in ("plain", "disorder", "late"):
            self._sent.append(event)
            if len(self._sent) > 5000:
                del self._sent[::2]

    def ready(self, largest: int) -> Iterator[Planned]:
        """The records that are complete: singles and envelopes of up to `largest` events."""
        for partition, buffer in self._buffers.items():
            size = sum(len(body) for _, body in buffer)
            if buffer and (len(buffer) >= self._targets[partition] or size > MAX_RECORD_BYTES - 2_000):
                self._flush(partition)
                self._targets[partition] = 1 if self._random.random() < 0.3 else self._random.randint(2, largest)
        yield from self._finished
        self._finished.clear()

    def rest(self) -> Iterator[Planned]:
        """Whatever is still in the buffers."""
        for partition in self._buffers:
            self._flush(partition)
        yield from self._finished
        self._finished.clear()

    def _time(self, kind: str, time_ms: int, now_ms: int) -> int:
        random = self._random
        if kind == "disorder":
            return time_ms - random.randint(0, 20_000)
        if kind == "late":
            return time_ms - random.randint(2 * MINUTE_MS, self._late_ms)
        if kind == "too_late":
            return time_ms - self._rules.correct_for_ms - random.randint(60 * MINUTE_MS, 120 * MINUTE_MS)
        if kind == "future":
            return now_ms + self._rules.future_tolerance_ms + random.randint(60 * MINUTE_MS, 600 * MINUTE_MS)
        return time_ms - random.randint(0, 900)

    def _event(self, time_ms: int) -> dict[str, Any]:
        self._number += 1
        event_type = self._random.choice(list(self._types))
        return {
            "specversion": "1.0",
            "id": f"{self._number:08d}-{self._random.getrandbits(32):08x}",
            "source": SOURCE,
            "type": event_type,
            "subject": self._random.choices(TENANTS, self._tenant_weights)[0],
            "time": format_rfc3339(time_ms),
            "datacontenttype": "application/json",
            "data": self._data(event_type),
        }

    def _data(self, event_type: str) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for meter in self._types[event_type]:
            for name, pointer in meter.group_by:
                _place(data, pointer, self._random.choice(GROUPS.get(name, ("alpha", "beta"))))
            if meter.value and meter.aggregation != "count":
                _place(data, meter.value, self._value(meter))
        return data

    def _value(self, meter: MeterRule) -> Any:
        random = self._random
        if meter.aggregation == "unique_count":
            return f"user-{int(random.paretovariate(0.7)) % 400}"
        if (meter.value or "").endswith(("tokens", "count", "requests", "bytes")):
            return int(random.lognormvariate(6, 1.2)) + 1
        # As text, so that what is written is exactly this decimal, whatever its digits (design §5).
        digits = random.choice((1, 2, 3, 6, 9))
        number = f"{random.randint(0, 40)}.{random.randrange(10**digits):0{digits}d}"
        return orjson.Fragment(number)

    def _spoil(self, event: dict[str, Any]) -> None:
        """Makes it invalid for a meter of its: a value missing, of the wrong kind, too long, or too small."""
        valued = [meter for meter in self._types[event["type"]] if meter.value and meter.aggregation != "count"]
        if not valued:
            del event["subject"]
            return
        meter = self._random.choice(valued)
        assert meter.value is not None
        wrong: list[Any] = [None, {"amount": 1}, True]
        if meter.aggregation != "unique_count":
            wrong += ["NaN", orjson.Fragment("9" * 60), orjson.Fragment("1e400"), orjson.Fragment("0." + "1" * 60)]
            if meter.minimum is not None:
                wrong += [orjson.Fragment(str(meter.minimum - 1)), orjson.Fragment(f"{meter.minimum - 3}.25")]
        choice = self._random.randrange(len(wrong) + 1)
        if choice < len(wrong):
            _place(event["data"], meter.value, wrong[choice])
        else:
            _remove(event["data"], meter.value)

    def _malformed(self, time_ms: int) -> None:
        """Something that is no usage at all: as a record of its own, or as one of an envelope of good ones."""
        random = self._random
        event = self._event(time_ms)
        subject = event["subject"]
        partition = partition_for(subject, self._partitions)
        if random.random() < 0.5:
            broken = dict(event)
            mutation = random.randrange(4)
            if mutation == 0:
                broken.pop(random.choice(("id", "source", "type", "time")))
            elif mutation == 1:
                broken["time"] = "yesterday at noon"
            elif mutation == 2:
                broken["time"] = event["time"].rstrip("Z")
            else:
                broken["specversion"] = "0.3"
            self._put(broken)
            return
        bodies = (b"usage=12;tenant=7", b"[]", b"\xff\xfe\x00", b'{"reading": 12.5}', b"17", orjson.dumps(event)[:-9])
        not_json = orjson.dumps({**event, "data": {"amount": orjson.Fragment("NaN")}})
        self._flush(partition)
        self._finished.append(Planned(partition, subject.encode(), random.choice((*bodies, not_json))))

    def _put(self, event: dict[str, Any]) -> None:
        partition = partition_for(event.get("subject", ""), self._partitions)
        self._buffers[partition].append((event.get("subject", ""), orjson.dumps(event)))

    def _flush(self, partition: int) -> None:
        buffer = self._buffers[partition]
        if not buffer:
            return
        self._finished.append(_record(partition, buffer, self._random.random() < 0.2))
        buffer.clear()


def _record(partition: int, buffer: Sequence[tuple[str, bytes]], binary: bool) -> Planned:
    """One record, keyed by its first subject: the event, the event in CloudEvents' binary mode, or an envelope."""
    subject, body = buffer[0]
    key = subject.encode()
    if len(buffer) > 1:
        return Planned(partition, key, b"[" + b",".join(body for _, body in buffer) + b"]", events=len(buffer))
    if not binary:
        return Planned(partition, key, body)
    return Planned(partition, key, *_binary(body))


def _binary(body: bytes) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """(value, headers) of an event in the binary content mode of CloudEvents' Kafka binding (§3.2)."""
    start = body.index(b'"data":') + len(
        b'"data":'
    )  # the last attribute, so that its decimals stay as they were written
    attributes = orjson.loads(body[: start - len(b'"data":')].rstrip(b",") + b"}")
    attributes.pop("datacontenttype")
    headers = [("content-type", b"application/json")]
    headers += [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return body[start:-1], tuple(headers)


def _place(data: dict[str, Any], pointer: str, value: Any) -> None:
    *path, last = pointer.split("/")[1:]
    for name in path:
        data = data.setdefault(name, {})
    data[last] = value


def _remove(data: dict[str, Any], pointer: str) -> None:
    *path, last = pointer.split("/")[1:]
    for name in path:
        data = data[name]
    data.pop(last, None)
