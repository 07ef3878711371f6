"""What a deployment needs for a load: `check --load EVENTS/S --keys N`. Computed, nothing is connected to.

Bytes are not guessed: a sample of the load goes through the real stages, and what they would send and store is weighed. How
often each is sent follows from the settings' paces and from how many of the keys a span of time touches. Ids that come in
envelopes are taken for our client's, which are known as intervals; others are known one by one. Rules of Event Hubs,
Service Bus and Cosmos DB, with the page of the Azure documentation each is from:

* A throughput unit takes 1 MB/s or 1000 records/s in, and gives 2 MB/s or 4096 records/s out (event-hubs-quotas).
* Service Bus bills a send and a receive per message (service-bus-pricing FAQ).
* A Cosmos write of 1 KB takes 4.95 RU, of 2 KB 6.29, of 4 KB 6.67, in every region (understand request unit consumption).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.table import Table

from schemas.definitions import Definitions, Meter
from schemas.errors import ConfigurationError
from schemas.events import event_id_digest
from schemas.ids import ID_BYTES, Ids
from schemas.partials import RECORD_MAX
from schemas.records import Batch, Out, PackedRecords, Record
from schemas.times import format_rfc3339
from settings import Settings
from streams.closing import Closing
from streams.metering import Metering, Topics
from tables.closing import ClosingTable
from tables.dedupe import BUCKETS, INTERVAL_BYTES, LANE, KnownIds
from tables.durable import Durable
from tables.effects import Procedure, Produce
from tables.lanes import DENSE, INTERVAL_MEMORY_BYTES
from tables.metering import MeteringTable

SAMPLE = 400
"""Keys that are weighed; what they weigh each is taken for all."""
ID_MEMORY_BYTES = 40
"""Memory of an id that is known by itself, at most (`tables/shelves.py`)."""
TU_IN_BYTES_S, TU_IN_RECORDS_S, TU_OUT_BYTES_S, TU_OUT_RECORDS_S, MOST_TU = 1e6, 1000, 2e6, 4096, 40
WRITES_RU = ((1024, 4.95), (2048, 6.29), (4096, 6.67))
_WHOLE = 1e-5
"""So far may shares be from a whole: people write thirds as 0.333333."""
_LANES = 32
_MOST = 1000
"""Lanes that are weighed, and ids of each in a checkpoint: more are a digit more of an interval."""
START_MS = 1_767_225_600_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be carried. events_s: usage events a second. keys: pairs of subject and group that are active at once.

    event_bytes: of one event's JSON. envelope: how many events come in one record. producers: processes that send them.
    sources, targets: partitions of the usage and the partials topic. regions: of Cosmos DB. mix: metered types, each with its
    share of the events; empty for all of them alike. What is missing from a whole is usage that nobody meters.
    """

    events_s: float
    keys: int
    event_bytes: int = 220
    envelope: int = 1
    producers: int = 10
    sources: int = 4
    targets: int = 4
    regions: int = 2
    mix: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """Records that flow. bytes_s, records_s: a second. readers: how many times all of it is read."""

    bytes_s: float
    records_s: float
    readers: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What a load needs.

    streams: by topic. mix: the share of each metered type. units: throughput units of Event Hubs. ids: remembered at once, and
    their memory. revisions_s: on average; operations_s, request_units_s: of Service Bus and Cosmos DB for them.
    """

    streams: dict[str, Stream]
    mix: dict[str, float]
    units: int
    ids: float
    ids_bytes: float
    revisions_s: float
    operations_s: float
    request_units_s: float

    @property
    def fits(self) -> bool:
        """Whether one Standard namespace can have so many units."""
        return self.units <= MOST_TU


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What known ids take: bytes of memory, in all workers together, and of changelog a second, written once."""

    memory: float
    changelog_s: float


@dataclass(frozen=True, slots=True)
class _Flow:
    """Events of one type. events_s: a second. ends_s: how often the windows end that each is in.

    Bytes per key: of its partials, of their entries in a changelog, of its windows', and of one revision's message.
    """

    events_s: float
    ends_s: tuple[float, ...]
    keys: int
    partials: float
    metering: float
    closing: float
    revision: float

    def touched(self, span_s: float) -> float:
        """How many keys a span of time touches, of so many that are equally likely."""
        return self.keys * -math.expm1(-self.events_s * span_s / self.keys)

    @property
    def revisions_s(self) -> float:
        """Windows that end, of those that an event was in."""
        return sum(self.touched(end_s) / end_s for end_s in self.ends_s)


def needs(load: Load, definitions: Definitions, settings: Settings) -> Need:
    """What the load needs, if the events of each type are spread evenly over the keys: nothing else touches more of them.

    Raises ConfigurationError for a mix of other types than are metered, or of more than a whole.
    """
    emit_s, checkpoint_s = settings.emit_ms / 1000, settings.checkpoint_ms / 1000
    mix = mixed(load, definitions)
    flows = [_flow(definitions, event_type, load.events_s * share, load.keys) for event_type, share in mix]
    metered_s = sum(flow.events_s for flow in flows)
    remembered = _remembered(load, metered_s, definitions, settings)
    revisions_s = sum(flow.revisions_s for flow in flows)
    usage = Stream(load.events_s * load.event_bytes, load.events_s / load.envelope, 1)
    partials_s = sum(flow.touched(emit_s) * flow.partials for flow in flows) / emit_s
    marks_s = load.sources * load.targets / emit_s
    partials = Stream(partials_s + 40 * marks_s, _records_s(partials_s, marks_s) + marks_s, 1)
    # A snapshot is as large as the chunks since the last one: every byte that is written is written about twice.
    metering_s = sum(flow.touched(checkpoint_s) * flow.metering for flow in flows) / checkpoint_s
    metering_s = 2 * (metering_s + remembered.changelog_s)
    closing_s = sum(flow.touched(checkpoint_s) * flow.closing for flow in flows) / checkpoint_s
    closing_s = 2 * (closing_s + sum(flow.revisions_s * flow.revision for flow in flows))
    chunks_s = load.sources / checkpoint_s
    streams = {
        settings.usage_topic: usage,
        settings.partials_topic: partials,
        settings.metering_state_topic: Stream(metering_s, _records_s(metering_s, chunks_s)),
        settings.closing_state_topic: Stream(closing_s, _records_s(closing_s, load.targets / checkpoint_s)),
    }
    ids = metered_s * definitions.stream.correct_for_ms / 1000
    # Two writes of each in every region: the document, and the ledger's item.
    request_units = sum(flow.revisions_s * load.regions * 2 * _write_ru(flow.revision) for flow in flows)
    return Need(
        streams,
        dict(mix),
        _units(streams.values()),
        ids,
        remembered.memory,
        revisions_s,
        2 * revisions_s,
        request_units,
    )


def mixed(load: Load, definitions: Definitions) -> list[tuple[str, float]]:
    """Each metered type of the load with its share. Raises ConfigurationError: see `needs`."""
    metered = sorted(definitions.by_event_type)
    mix = load.mix or [(event_type, 1 / len(metered)) for event_type in metered]
    for event_type, _ in mix:
        if event_type not in metered:
            raise ConfigurationError(f"no meter reads {event_type!r}", hint=f"metered are {', '.join(metered)}")
    if len({event_type for event_type, _ in mix}) < len(mix) or sum(share for _, share in mix) > 1 + _WHOLE:
        raise ConfigurationError("the shares of the types are more than a whole", hint="each type once, up to 1 in all")
    return list(mix)


def table(load: Load, need: Need, memory_mb: int) -> Table:
    """The needs as a table for people. memory_mb: what a worker may have for ids."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    alike = "" if load.mix or len(need.mix) == 1 else "; --type TYPE=SHARE says otherwise"
    shown.add_row("events", ", ".join(f"{share:.0%} {escape(name)}" for name, share in need.mix.items()) + alike)
    for topic, stream in need.streams.items():
        shown.add_row(f"into {topic}", f"{stream.bytes_s / 1e6:,.2f} MB/s, {stream.records_s:,.0f} records/s")
    beyond = ""
    if need.ids_bytes > memory_mb * 1e6:
        beyond = f"; each keeps {_size(memory_mb * 1e6)} in memory, the rest on its disk"
    if need.ids_bytes < need.ids * ID_MEMORY_BYTES and need.ids_bytes > memory_mb * 1e6 / 2:
        beyond = (
            f"; beyond {_size(memory_mb * 1e6 / 2)} in a worker its ids are known one by one: more, and on its disk"
        )
    most = "" if need.fits else f", [bold red]more than the {MOST_TU} of a Standard namespace[/]"
    shown.add_row("throughput units", f"{need.units:,}{most}")
    shown.add_row("ids remembered", f"{need.ids:,.0f}, at most {_size(need.ids_bytes)} in all workers together{beyond}")
    shown.add_row("revisions", f"{need.revisions_s:,.1f}/s on average; they come when windows end")
    shown.add_row("Service Bus", f"{need.operations_s:,.1f} operations/s, a send and a receive of each")
    shown.add_row(
        "Cosmos DB", f"{need.request_units_s:,.0f} RU/s in {load.regions} regions together, without indexed properties"
    )
    return shown


def _remembered(load: Load, metered_s: float, definitions: Definitions, settings: Settings) -> _Remembered:
    """Our client has a lane for each partition; its ids come in the order of their counters.

    An id that nobody meters is not remembered: a gap, and an interval more.
    """
    correct_for_ms, checkpoint_s = definitions.stream.correct_for_ms, settings.checkpoint_ms / 1000
    gaps = max(0.0, 1 - metered_s / load.events_s)
    if load.envelope < LANE or gaps * DENSE > 1:
        return _Remembered(metered_s * correct_for_ms / 1000 * ID_MEMORY_BYTES, metered_s * ID_BYTES)
    lanes = load.producers * load.sources
    each = max(LANE, min(_MOST, int(load.events_s * checkpoint_s / lanes)))
    known = KnownIds(correct_for_ms)
    names = [bytes([lane]) * ID_BYTES for lane in range(_LANES)]
    written = 0
    for number in range(BUCKETS + 1):
        counters = np.tile(np.arange(number * each, (number + 1) * each), _LANES)
        ids = Ids(np.zeros((2, len(counters)), np.uint64), np.repeat(np.arange(_LANES), each), counters, names)
        at_ms = np.full(len(counters), START_MS + number * correct_for_ms // BUCKETS)
        known.count(ids, at_ms, at_ms)
        written = sum(len(entry.value or b"") for entry in known.touched())
    touched = -math.expm1(-load.events_s * checkpoint_s / lanes)
    remembered = metered_s * gaps * correct_for_ms / 1000 * INTERVAL_MEMORY_BYTES
    return _Remembered(
        known.size_bytes / _LANES * lanes + remembered,
        written / _LANES * lanes * touched / checkpoint_s + metered_s * gaps * INTERVAL_BYTES,
    )


def _records_s(bytes_s: float, least_s: float) -> float:
    """Packed records: at least so many, at most 64 KB each."""
    return max(least_s, bytes_s / RECORD_MAX)


def _units(streams: Iterable[Stream]) -> int:
    flows = list(streams)
    into = max(sum(s.bytes_s for s in flows) / TU_IN_BYTES_S, sum(s.records_s for s in flows) / TU_IN_RECORDS_S)
    out = max(
        sum(s.bytes_s * s.readers for s in flows) / TU_OUT_BYTES_S,
        sum(s.records_s * s.readers for s in flows) / TU_OUT_RECORDS_S,
    )
    return math.ceil(max(into, out))


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 5e7 else f"{size_bytes / 1e6:,.1f} MB"


def _write_ru(size_bytes: float) -> float:
    """Of a write of an item; beyond 4 KB in proportion."""
    sizes, units = zip(*WRITES_RU, strict=True)
    if size_bytes > sizes[-1]:
        return units[-1] * size_bytes / sizes[-1]
    return float(np.interp(size_bytes, sizes, units))


def _flow(definitions: Definitions, event_type: str, events_s: float, keys: int) -> _Flow:
    """Weighed: a sample of keys through both stages, one event each."""
    metering_table = MeteringTable(1, definitions.stream.correct_for_ms)
    closing_table = ClosingTable(1, definitions.stream.correct_for_ms, ("servicebus", "cosmos"))
    metering = Metering(
        definitions, Topics("usage", "partials", "dead"), 0, 1, _durable(metering_table, definitions), metering_table
    )
    closing = Closing(definitions, "partials", 0, _durable(closing_table, definitions), closing_table)
    values = [_event(event_type, definitions.by_event_type[event_type], key) for key in range(SAMPLE)]
    records = PackedRecords.of_lists(range(len(values)), [START_MS] * len(values), [b"k"] * len(values), values, None)
    metering.step(Batch(0, len(values), records))
    if metering_table.ledger.counted < len(values):
        raise ConfigurationError(
            f"no event of type {event_type} was found that all of its meters count",
            hint="do two of them read one place as a group and as a quantity, or as a value and as what has members?",
        )
    sent = [out for out in _written(metering.emit()) if out.topic == "partials"]
    closing.step(Batch(0, len(sent), [Record(at, START_MS, out.key, out.value) for at, out in enumerate(sent)]))
    windows = list(closing_table.windows)
    described = sum(len(json.dumps(closing.describe(key), separators=(",", ":"))) for key in windows)
    metered = sum(len(out.value) for out in _written(metering.durable.checkpoint())) - len(values) * ID_BYTES
    return _Flow(
        events_s,
        tuple(window.size_ms / 1000 for meter in definitions.by_event_type[event_type] for window in meter.windows),
        keys,
        sum(len(out.value) for out in sent) / SAMPLE,
        metered / SAMPLE,
        sum(len(out.value) for out in _written(closing.durable.checkpoint())) / SAMPLE,
        described / max(1, len(windows)),
    )


def _durable(stage: MeteringTable | ClosingTable, definitions: Definitions) -> Durable:
    durable = Durable(stage, "source", "changelog", 0, 1, definitions.digest, "weighed-here")
    durable.accepted = 0
    return durable


def _written(procedure: Procedure[object]) -> list[Out]:
    """What a procedure produces; everything is acknowledged."""
    written: list[Out] = []
    result: object = None
    while True:
        try:
            effect = procedure.send(result)
        except StopIteration:
            return written
        result = None
        if isinstance(effect, Produce):
            result = [len(written) + at for at in range(len(effect.records))]
            written += effect.records


def _event(event_type: str, meters: Iterable[Meter], key: int) -> bytes:
    """One event, whose data has what its meters read."""
    data: dict[str, object] = {}
    for meter in sorted(
        meters, key=lambda meter: meter.minimum or 0, reverse=True
    ):  # what is enough for one is for others
        _put(data, meter)
    event = {
        "specversion": "1.0",
        "id": event_id_digest("sample", str(key)).hex(),
        "source": "sample",
        "type": event_type,
        "subject": f"customer-{key:08d}",
        "time": format_rfc3339(START_MS + key),
        "data": data,
    }
    return json.dumps(event, separators=(",", ":")).encode()


def _put(data: dict[str, object], meter: Meter) -> None:
    """Puts a value where each pointer of a meter looks."""
    for name, pointer in meter.group_by:
        _set(data, pointer.tokens, f"{name}-of-this-key")
    if meter.value is not None:
        least = int(meter.minimum or 0)
        _set(data, meter.value.tokens, max(1234, least + 1))


def _set(data: dict[str, object], tokens: tuple[str, ...], value: object) -> None:
    for token in tokens[:-1]:
        below = data.setdefault(token, {})
        if not isinstance(below, dict):
            return
        data = below
    data.setdefault(tokens[-1], value)
