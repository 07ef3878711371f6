"""What known ids take: memory, changelog and time, for ids that are known by themselves and for those that are intervals.

`make bench-ids` (a minute, one core). Ids are put in as one partition's batches would, over a day of event time, with a
checkpoint now and then; nothing else runs. "At once" is the longest that one batch held the others up, all rebuilding, splitting
and writing to disk included. Times are CPU time but for "at once", which is by the clock where the disk is waited for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.results import busy, machine, table, today, write_section
from schemas.ids import Ids, ids_of
from schemas.texts import Texts
from tables.dedupe import KnownIds
from tables.runs import Disk

TITLE = "Known ids"
_DAY_MS = 86_400_000
_START_MS = 1_767_225_600_000
_BATCH = 10_000
_CHECKPOINT = 25
"""Batches."""
_MEMORY_MB = 64


@dataclass(slots=True)
class Taken:
    """What so many ids took. changelog: bytes of their checkpoints; snapshot: of all of them at the end."""

    ids: int
    cpu_s: float = 0.0
    longest_s: float = 0.0
    changelog: int = 0
    memory: int = 0
    snapshot: int = 0
    spilled: int = 0


def put_in(batches: Callable[[int], Ids], events: int, disk: Disk | None = None, apart_ms: int = 0) -> Taken:
    """A day of ids, in batches. batches: gives each by its number. apart_ms: times are up to so much behind their order."""
    known, taken = KnownIds(_DAY_MS, disk), Taken(0)
    many = events // _BATCH
    random = np.random.default_rng(many)
    for number in range(many):
        ids = batches(number)
        events = len(ids.counters)
        at_ms = _START_MS + (number * events + np.arange(events)) * _DAY_MS // (many * events)
        behind_ms = random.integers(0, apart_ms + 1, events)
        watermarks_ms = np.full(events, at_ms[0])
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        assert not known.count(ids, at_ms - behind_ms, watermarks_ms).any()
        known.evict(int(at_ms[0]))
        taken.cpu_s += time.thread_time() - began_cpu_s
        taken.longest_s = max(taken.longest_s, time.perf_counter() - began_s)
        taken.ids += events
        if number % _CHECKPOINT == _CHECKPOINT - 1 or number == many - 1:
            taken.changelog += sum(len(entry.value or b"") for entry in known.touched())
    assert len(known) == taken.ids
    taken.memory, taken.spilled = known.size_bytes, known.spilled
    taken.snapshot = sum(len(entry.value or b"") for unit in known.units() for entry in known.slice(unit))
    return taken


def drawn(number: int) -> Ids:
    """Ids as random as the digests of UUIDs are."""
    words = np.random.default_rng(number).integers(0, 1 << 64, (2, _BATCH), np.uint64, endpoint=False)
    none = np.full(_BATCH, -1, np.int64)
    return Ids(words, none, none, [])


def in_lanes(lanes: int, missing: int = 0) -> Callable[[int], Ids]:
    """Ids of so many lanes, each in the order of its counters; a batch has a hundred of one behind the other.

    missing: one of so many is not counted, by chance.
    """
    names = [lane.to_bytes(16, "big") for lane in range(lanes)]
    words = np.zeros((2, _BATCH), np.uint64)

    def batch(number: int) -> Ids:
        places = np.arange(number * _BATCH, (number + 1) * _BATCH)
        turns, within = places // 100, places % 100
        ids = Ids(words, turns % lanes, turns // lanes * 100 + within, names)
        if not missing:
            return ids
        return ids.only(np.flatnonzero(np.random.default_rng(number).random(_BATCH) * missing >= 1))

    return batch


def digested(texts: list[bytes]) -> float:
    """µs of an id: its digest, and its lane and counter."""
    column, codes = Texts.of(texts), np.zeros(len(texts), np.int64)
    best_s = float("inf")
    for _ in range(20):
        began_s = time.thread_time()
        ids_of(column, codes, ["/shop"])
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s / len(texts) * 1e6


def section(events: int, occasion: str) -> str:
    """Measures, as Markdown."""
    put_in(drawn, 20 * _BATCH), put_in(in_lanes(4), 20 * _BATCH)  # compiles
    rows = []
    for title, many in (("by digest", events // 10), ("by digest", events)):
        rows.append(_row(title, put_in(drawn, many)))
    with tempfile.TemporaryDirectory() as directory:
        found = put_in(drawn, events, Disk(Path(directory), _MEMORY_MB * 1_000_000))
        rows.append(_row(f"by digest, {_MEMORY_MB} MB of memory", found))
    explained = __doc__.split("\n\n", 1)[1].strip().replace("\n", " ")
    heads = [
        "ids",
        "how many",
        "µs an id",
        "at once, ms",
        "memory, B/id",
        "changelog, B/id",
        "snapshot, B/id",
        "on disk",
    ]
    lines = [explained, "", occasion, "", table(heads, rows), ""]
    rows = []
    for lanes, missing, apart_s in (
        (1, 0, 0),
        (10, 0, 0),
        (100, 0, 0),
        (10, 10_000, 0),
        (10, 100, 0),
        (10, 0, 1),
        (10, 0, 60),
    ):
        found = put_in(in_lanes(lanes, missing), 5 * events, apart_ms=1000 * apart_s)
        per = [f"{size * 1000 / found.ids:.2f}" for size in (found.memory, found.changelog, found.snapshot)]
        cost = [f"{found.cpu_s / found.ids * 1e6:.3f}", f"{found.longest_s * 1000:.1f}"]
        title = f"{lanes}"
        title += f", one of {missing:,} missing" if missing else f", times {apart_s} s apart" if apart_s else ""
        rows.append([title, f"{found.ids:,}", *cost, *per])
    heads = ["lanes", "ids", "µs an id", "at once, ms", "memory, B/1000", "changelog, B/1000", "snapshot, B/1000"]
    lines += [
        "Ids that end in a counter, in order, as `meterline-client` makes them; a checkpoint every "
        f"{_CHECKPOINT * _BATCH:,} of them. A lane takes some kilobytes a day, and some bytes a checkpoint, however many ids "
        "it has. An id that is missing, as of an event that is not counted, is a gap; where times are out of order, two buckets "
        "of time mingle at the end of each: both make more intervals.",
        "",
        table(heads, rows),
        "",
    ]
    uuids = [str(uuid.UUID(int=at * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128))).encode() for at in range(_BATCH)]
    counted = [b"01JH7Z9Q-3-%d" % (10_000_000 + at) for at in range(_BATCH)]
    lines.append(
        f"Before that an id is made a digest (BLAKE2b), and its lane is looked for: {digested(uuids):.2f} µs for a UUID, "
        f"{digested(counted):.2f} µs for one that ends in a counter."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write the section."""
    parser = argparse.ArgumentParser(prog="python -m bench.ids", description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, help="instead of 10,000,000; printed, not written")
    options = parser.parse_args()
    text = section(options.ids or 10_000_000, f"`make bench-ids`, {today()}: {machine()}; {busy()}.")
    print(text)
    if options.ids is None:
        write_section(TITLE, text)


def _row(title: str, taken: Taken) -> list[str]:
    per = [f"{size / taken.ids:.1f}" for size in (taken.memory, taken.changelog, taken.snapshot)]
    spilled = f"{taken.spilled / taken.ids:.0%}" if taken.spilled else "none"
    return [
        title,
        f"{taken.ids:,}",
        f"{taken.cpu_s / taken.ids * 1e6:.2f}",
        f"{taken.longest_s * 1000:.1f}",
        *per,
        spilled,
    ]


if __name__ == "__main__":
    main()
