"""A receipt is what a total rests on: finance can verify a line, a replay can prove it (design §4)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

import orjson
import pytest

from tests.streams.road import Road, assert_same
from tests.streams.stage import CLOSES, Stage, key
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World, to_the_end

DEFINITIONS = definitions({"stream": {"max_delay": "none", "correct_for": "PT1H"}, "meters": [meter("total")]})


def independent_digest(ids: list[tuple[str, str]]) -> str:
    """As an auditor would compute it from a list of (source, id)."""
    total = 0
    for source, id in ids:
        text = f"{len(source.encode())}:{source}{id}".encode()
        total += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"


def test_a_receipt_names_per_source_partition_the_events_the_offsets_and_the_digest_of_their_ids() -> None:
    world = World(DEFINITIONS, sources=3)
    world.use(usage("a", NOON - 5 * MINUTE, n=1))
    for id in ("b", "c"):
        world.use(usage(id, n=1))
        world.use(usage("b", n=1))
    world.use(usage("d", n=1), usage("ü", n=1, source="naïve app"), partition=2)
    for partition in range(3):
        world.tick(NOON + 2 * MINUTE, partition)
    to_the_end(world)
    receipt = next(d["receipt"] for d in world.documents() if d["window_start"] == "2026-01-01T12:00:00Z")
    zero, two = [("app", "b"), ("app", "c")], [("app", "d"), ("naïve app", "ü")]
    assert receipt == {
        "events": 4,
        "digest": independent_digest(zero + two),
        "watermark": "2026-01-01T12:02:00Z",
        "meter_version": 1,
        "sources": [
            {"partition": 0, "events": 2, "first_offset": 1, "last_offset": 3, "digest": independent_digest(zero)},
            {"partition": 2, "events": 2, "first_offset": 0, "last_offset": 0, "digest": independent_digest(two)},
        ],
    }


def test_a_digest_is_that_of_the_ids_in_whatever_order_and_partition() -> None:
    """The same events, spread and ordered in three ways: one digest, and it is the auditor's."""
    found = set()
    for spread in ([0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]):
        world = World(DEFINITIONS, sources=2)
        for id, partition in sorted(
            zip("abcd", spread, strict=True), key=lambda pair: (sum(spread[:2]), pair[0]), reverse=True
        ):
            world.use(usage(id, n=1), partition=partition)
        for partition in range(2):
            world.tick(NOON + 2 * MINUTE, partition)
        to_the_end(world)
        found.add(world.documents()[0]["receipt"]["digest"])
    assert found == {independent_digest([("app", id) for id in "abcd"])}


def test_replaying_the_partials_gives_the_same_revisions_byte_for_byte() -> None:
    for seed in range(40):
        world = Road(seed).run().world
        assert world.received["cosmos"]
        assert_same(world, "cosmos")


def test_replaying_usage_from_nothing_gives_the_same_final_values_events_and_digests() -> None:
    for seed in range(40):
        road = Road(seed).run()
        again = World(road.world.definitions, road.world.sources, road.world.targets)
        for partition in range(again.sources):
            again.logs[USAGE, partition] = road.world.logs[USAGE, partition]
        to_the_end(again)
        assert finals(again) == finals(road.world)


def finals(world: World) -> dict[str, Any]:
    """Of each window: value, events, and the digests of its last revision."""
    last: dict[str, Any] = {}
    for document in sorted(world.documents(), key=lambda document: document["revision"]):
        sources = [{**source} for source in document["receipt"]["sources"]]
        last[document["id"]] = (document["value"], document["events"], document["receipt"]["digest"], sources)
    return last


def test_offsets_and_events_of_all_receipts_add_up_to_the_counted_events() -> None:
    world = World(DEFINITIONS, sources=2)
    for number in range(30):
        world.use(usage(str(number), NOON + number * 20_000, n=1), partition=number % 2, at_ms=NOON + 10 * MINUTE)
    for partition in range(2):
        world.tick(NOON + 90 * MINUTE, partition)
    metering, _ = to_the_end(world)
    counted: dict[int, int] = defaultdict(int)
    for document in world.documents():
        for source in document["receipt"]["sources"]:
            counted[source["partition"]] += source["events"]
    assert counted == {process.part: process.table.ledger.counted for process in metering} == {0: 15, 1: 15}


def test_revisions_of_one_window_have_receipts_of_their_own() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.mark(CLOSES)
    stage.partial(4, 40)
    stage.mark(CLOSES + 60)
    first, second = (document["receipt"] for document in stage.revisions())
    assert (first["events"], second["events"]) == (3, 4)
    assert first["digest"] != second["digest"]
    assert (first["watermark"], second["watermark"]) == ("2026-01-01T12:01:05Z", "2026-01-01T12:02:05Z")


@pytest.mark.parametrize("chance", [0, 1])
def test_a_body_never_changes_once_it_is_decided(chance: int) -> None:
    """What the outbox restores is the very bytes, not a document made again."""
    world = World(DEFINITIONS)
    world.use(usage("a", n=1))
    world.tick(NOON + 2 * MINUTE)
    metering = MeteringProcess(world)
    metering.read()
    metering.checkpoint()
    closing = ClosingProcess(world)
    closing.read()
    closing.checkpoint(snapshot_due=bool(chance))
    before = closing.table.outbox.waiting("cosmos", 1)
    world.logs[PARTIALS, 0].append(world.logs[PARTIALS, 0].records[0].value)
    again = ClosingProcess(world)
    again.read()
    assert again.table.outbox.waiting("cosmos", 1) == before
    assert orjson.loads(before[0].body)["value"] == "1"


def test_a_closed_window_shows_the_receipt_of_its_last_revision_whatever_the_watermark_is_now() -> None:
    stage = Stage()
    stage.partial(3, 30)
    for second in (CLOSES, CLOSES + 60, CLOSES + 120):
        stage.mark(second)
        assert stage.process.stage.describe(key()) == stage.revisions()[0] | {"state": "closed", "pending": False}
    stage.partial(4, 40)
    shown = stage.process.stage.describe(key())
    assert shown is not None and shown["pending"]
    assert shown["receipt"]["watermark"] == "2026-01-01T12:03:05Z", "no revision has said this value"  # type: ignore[index]
    stage.mark(CLOSES + 180)
    stage.mark(CLOSES + 240)
    assert stage.process.stage.describe(key()) == stage.revisions()[1] | {"state": "closed", "pending": False}


def test_a_receipt_before_any_watermark_has_none() -> None:
    stage = Stage()
    stage.partial(3, 30)
    shown = stage.process.stage.describe(key())
    assert shown is not None and shown["receipt"]["watermark"] is None  # type: ignore[index]
