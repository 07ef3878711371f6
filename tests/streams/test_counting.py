"""A batch counts as its records one by one, wherever it begins and ends, and however much of it is out of the ordinary."""

from __future__ import annotations

import random

import orjson
import pytest

from schemas.deadletters import DeadLetter
from schemas.records import Batch
from schemas.shapes import Shapes
from simulation.usage import document
from simulation.usage import usage as drawn_usage
from tests import pictures
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import USAGE, MeteringProcess, World

START_MS = 1_767_268_800_000


def of(process: MeteringProcess) -> tuple[pictures.Picture, list[DeadLetter], set[object]]:
    """The state, the dead letters in their order, and what is to be sent."""
    table = process.table
    return pictures.of_metering(process.world, table), process.stage.dead_letters, set(table.dirty)


@pytest.mark.parametrize("seed", range(60))
def test_batches_of_any_size_come_to_the_same(seed: int) -> None:
    rng = random.Random(f"batches {seed}")
    drawn = document(rng)
    world = World(definitions(drawn))
    for sent in drawn_usage(rng, drawn, 1, START_MS, rng.choice([120_000, 900_000]), 150, rng.choice([0.1, 1.0])):
        world.logs[USAGE, 0].append(sent.value, sent.key, sent.at_ms)
    whole, parts, singly = (MeteringProcess(world, recovers=False) for _ in range(3))
    whole.read()
    while parts.table.position < world.logs[USAGE, 0].end:
        parts.read(rng.choice([1, 2, 7, 40]))
    while singly.table.position < world.logs[USAGE, 0].end:
        singly.read(1)
    assert of(whole) == of(parts) == of(singly)


def test_an_odd_record_in_the_midst_is_of_its_place() -> None:
    """One with an escape is read by itself, and still the first and the last offset of a window's share are the log's."""
    world = World(definitions({"meters": [meter("total"), meter("newest", "latest")]}))
    names = ['odd "one"', "b", "c", 'odd "two"']
    for number, name in enumerate(names):
        world.use(usage(name, NOON, n=number + 1), at_ms=NOON)
    process = MeteringProcess(world)
    process.read()
    shares = {key.meter: held.share for key, held in process.table.partials.items()}
    assert {(share.first, share.through, share.events) for share in shares.values()} == {(0, 3, 4)}
    assert [shares["total"].amount, shares["newest"].amount] == [10, 4]


def test_of_equal_times_in_one_batch_the_last_in_the_log_is_the_latest() -> None:
    world = World(definitions({"meters": [meter("newest", "latest")]}))
    for number, ms in enumerate([0, 5, 3, 5, 5, 1]):
        world.use(usage(str(number), NOON + ms, n=number), at_ms=NOON + MINUTE)
    process = MeteringProcess(world)
    process.read()
    ((_, partial),) = process.table.partials.items()
    assert [partial.share.amount, partial.share.at] == [4, (NOON + 5, 4, 0)]


def test_more_sources_than_are_remembered_are_all_told_apart() -> None:
    world = World(definitions({"meters": [meter("calls", "count")]}))
    for round_ in range(2):
        for number in range(1100):
            world.use(usage("1", NOON, source=f"/shop/{number}"), at_ms=NOON + round_ * MINUTE)
    process = MeteringProcess(world)
    process.read()
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (1100, 1100)


def test_many_windows_in_one_batch_are_all_told_apart() -> None:
    """Every subject with every model in every minute, from afar and close together."""
    world = World(definitions({"meters": [meter("total", group_by={"model": "/model"}), meter("calls", "count")]}))
    rng = random.Random(7)
    for number in range(1500):
        subject, model = (f"{name}{rng.randrange(60)}" for name in ("subject", "model"))
        time_ms = NOON - rng.choice([0, 1, 2, 700]) * MINUTE
        world.use(usage(str(number), time_ms, subject, n=rng.randrange(9), model=model), at_ms=NOON)
    whole, singly = (MeteringProcess(world, recovers=False) for _ in range(2))
    whole.read()
    while singly.table.position < world.logs[USAGE, 0].end:
        singly.read(1)
    assert len(whole.table.partials) > 1500
    assert of(whole) == of(singly)


def test_a_batch_without_a_record_moves_on_all_the_same() -> None:
    """Control records have offsets, too."""
    world = World(definitions({"meters": [meter("calls", "count")]}))
    process = MeteringProcess(world)
    process.stage.step(Batch(0, 3, []))
    assert process.table.position == 3


def test_a_number_that_no_decoder_takes_makes_an_event_invalid_whatever_shape_is_known() -> None:
    """It stands where no meter looks; and events of its shape came before it, or were not seen yet."""
    values = [b"1", b"9" * 5000, b"9" * 400, b"0." + b"9" * 5000]
    world = World(definitions({"meters": [meter("total")]}))
    for number, value in enumerate(values):
        event = orjson.dumps(usage(str(number), NOON, n=1, unread=777)).replace(b"777", value)
        world.logs[USAGE, 0].append(event, b"k", NOON)
    whole, fresh = (MeteringProcess(world, recovers=False) for _ in range(2))
    whole.read()
    while fresh.table.position < world.logs[USAGE, 0].end:
        fresh.stage._counting._shapes = Shapes()
        fresh.read(1)
    assert of(whole) == of(fresh)
    assert [letter.offset for letter in whole.stage.dead_letters] == [1]


@pytest.mark.parametrize("odd", [b"true", b"[1]", b'"no"'])
def test_an_envelope_of_many_kinds_is_counted_event_by_event(odd: bytes) -> None:
    """Of several types and shapes, some of them unmatched; and one that no column can take leaves its neighbours whole."""
    meters = [meter("total", group_by={"model": "/model"}), meter("calls", "count", event_type="ping")]
    world = World(definitions({"meters": meters}))
    for number in range(3):
        events = [
            usage(f"{number}-a", NOON, n=1, model="m"),
            usage(f"{number}-b", NOON, type="ping", host="h"),
            usage(f"{number}-c", NOON, n=2),
            usage(f"{number}-d", NOON, type="other", n=5),
            usage(f"{number}-e", NOON, n=4, model="m"),
        ]
        if number == 1:
            events.insert(3, usage("odd", NOON, n=777))
        value = orjson.dumps(events).replace(b"777", odd)
        world.use(value, at_ms=NOON)
    process = MeteringProcess(world)
    process.read()
    ledger = process.table.ledger
    assert (ledger.read, ledger.counted, ledger.unmatched, ledger.dead_lettered) == (16, 12, 3, 1)
    sums = {(key.meter, key.group): held.share.amount for key, held in process.table.partials.items()}
    assert sums == {("total", (("model", "m"),)): 15, ("total", (("model", ""),)): 6, ("calls", ()): None}
    assert [(letter.offset, letter.index) for letter in process.stage.dead_letters] == [(1, 3)]
