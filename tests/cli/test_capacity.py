"""What `check --load` computes is what the stages really send and store."""

from __future__ import annotations

import json
import re
from bisect import bisect
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.capacity import Load, mixed, needs
from cli.main import group
from schemas.definitions import Definitions
from schemas.errors import ConfigurationError
from schemas.meters import parse
from settings import Settings
from tables.dedupe import KnownIds
from tests.tables.ids import HOUR, count, of_lane
from tests.usage import NOON, definitions, meter, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World

SETTINGS = Settings()
METERS = definitions(
    {
        "meters": [
            meter("total", group_by={"model": "/model"}, windows=["PT1H"]),
            meter("calls", "count", windows=["PT1M", "PT1H"]),
        ]
    }
)
HOURLY = definitions({"meters": [meter("total", windows=["PT1H"])]})
TWO_TYPES = definitions(
    {"meters": [meter("total", windows=["PT1H"]), meter("jobs", "count", event_type="job", windows=["PT1H", "P1D"])]}
)
LOAD = Load(events_s=400.0, keys=500, sources=1, targets=1)
SKEWED = (("job", 0.1), ("use", 0.9))


@pytest.mark.parametrize(
    ("keys", "meters", "mix"),
    [(500, METERS, ()), (5_000, HOURLY, ()), (5_000, TWO_TYPES, ()), (5_000, TWO_TYPES, SKEWED)],
)
def test_it_is_what_a_partition_that_works_sends_and_stores(
    keys: int, meters: Definitions, mix: tuple[tuple[str, float], ...]
) -> None:
    """Half a minute of that load through both stages, in the settings' own paces."""
    load = replace(LOAD, keys=keys, mix=mix)
    types, shares = zip(*mixed(load, meters), strict=True)
    bounds = [*accumulate(shares)]
    world = World(meters)
    metering, closing = MeteringProcess(world), ClosingProcess(world)
    per_emit, emits = int(LOAD.events_s * SETTINGS.emit_ms / 1000), 60
    per_checkpoint = SETTINGS.checkpoint_ms // SETTINGS.emit_ms
    for round_ in range(emits):
        for at in range(per_emit):
            number = round_ * per_emit + at
            key = number * 7919 % load.keys  # evenly, and in no order
            event_type = types[bisect(bounds[:-1], number * 0.618034 % 1)]  # in their shares, and in no order
            event = usage(
                f"{number:032x}",
                NOON + round_ * 500,
                f"customer-{key:08d}",
                event_type,
                n=1234,
                model="model-of-this-key",
            )
            world.use(event, at_ms=NOON + round_ * 500)
        metering.read()
        metering.emit()
        closing.read()
        if (round_ + 1) % per_checkpoint == 0:
            metering.checkpoint()
            closing.checkpoint()
    seconds = emits * SETTINGS.emit_ms / 1000
    need = needs(load, meters, SETTINGS)
    sent = sum(len(record.value or b"") for record in world.logs[PARTIALS, 0].records) / seconds
    assert need.streams[SETTINGS.partials_topic].bytes_s == pytest.approx(sent, rel=0.25)
    for topic, name in (
        ("metering-state", SETTINGS.metering_state_topic),
        ("closing-state", SETTINGS.closing_state_topic),
    ):
        stored = sum(len(record.value or b"") for record in world.logs[topic, 0].records) / seconds
        assert stored / 2.6 < need.streams[name].bytes_s < stored * 2.6, "with snapshots, about twice what is touched"
    assert world.logs[USAGE, 0].end == emits * per_emit


def test_envelopes_save_records_and_no_bytes() -> None:
    alone, packed = (needs(replace(LOAD, envelope=events), METERS, SETTINGS) for events in (1, 250))
    usage_alone, usage_packed = (need.streams[SETTINGS.usage_topic] for need in (alone, packed))
    assert usage_packed.bytes_s == usage_alone.bytes_s
    assert usage_packed.records_s == usage_alone.records_s / 250


def test_what_ends_more_often_is_revised_more_often() -> None:
    hourly, minutely = (
        needs(LOAD, definitions({"meters": [meter("calls", "count", windows=[size])]}), SETTINGS)
        for size in ("PT1H", "PT1M")
    )
    assert hourly.revisions_s == pytest.approx(500 / 3600)
    assert minutely.revisions_s == pytest.approx(60 * hourly.revisions_s)
    assert minutely.operations_s == 2 * minutely.revisions_s
    assert minutely.request_units_s == pytest.approx(60 * hourly.request_units_s, rel=0.1)


def test_no_window_is_revised_that_no_event_was_in() -> None:
    need = needs(replace(LOAD, events_s=5.0, keys=1_000_000), METERS, SETTINGS)
    windows = sum(len(one.windows) for one in METERS.meters)
    assert need.revisions_s == pytest.approx(5.0 * windows, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--load", "nan"], "no number of events"),
        (["--load", "inf"], "not in the range"),
        (["--load", "0"], "not in the range"),
        (["--load", "1e307"], "not in the range"),
        (["--load", "10", "--keys", "1" + 400 * "0"], "not in the range"),
        (["--keys", "10"], "--keys says more of a load: --load is missing"),
        (["--event-bytes", "300"], "--event-bytes says more of a load: --load is missing"),
        (["--load", "10", "--envelope", "1000"], "--envelope 290 is the most"),
        (["--type", "job=1"], "--type says more of a load: --load is missing"),
        (["--load", "10", "--type", "job"], "job is no type with its share"),
        (["--load", "10", "--type", "job=0"], "job=0 is no type with its share"),
        (["--load", "10", "--type", "job=nan"], "job=nan is no type with its share"),
    ],
)
def test_a_load_that_is_none_is_refused_with_what_it_should_be(arguments: list[str], said: str) -> None:
    refused = CliRunner().invoke(group, ["check", *arguments])
    assert refused.exit_code == 2 and said in refused.output and "Traceback" not in refused.output


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ((("dance", 0.5),), "no meter reads 'dance' -> metered are job, use"),
        ((("job", 0.5), ("use", 0.6)), "more than a whole"),
        ((("job", 0.5), ("job", 0.5)), "each type once"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(mix: tuple[tuple[str, float], ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        needs(replace(LOAD, mix=mix), TWO_TYPES, SETTINGS)


def test_meters_of_one_place_with_different_minimums_are_weighed_by_what_both_count() -> None:
    meters = [meter("small", windows=["PT1H"]), meter("large", minimum=5000, windows=["PT1H"])]
    assert needs(LOAD, definitions({"meters": meters}), SETTINGS).revisions_s == pytest.approx(2 * 500 / 3600)


def test_meters_that_no_event_can_please_are_told() -> None:
    meters = [meter("calls", "count", group_by={"n": "/n"}), meter("total")]
    with pytest.raises(ConfigurationError, match="no event of type use was found that all of its meters count"):
        needs(LOAD, definitions({"meters": meters}), SETTINGS)


def test_usage_that_nobody_meters_costs_its_way_and_leaves_gaps_in_lanes() -> None:
    load = replace(LOAD, envelope=100, mix=(("job", 0.25), ("use", 0.25)))
    half, whole = needs(load, TWO_TYPES, SETTINGS), needs(replace(load, mix=()), TWO_TYPES, SETTINGS)
    assert half.streams[SETTINGS.usage_topic] == whole.streams[SETTINGS.usage_topic]
    assert half.ids == whole.ids / 2
    partials = SETTINGS.partials_topic
    assert half.streams[partials].bytes_s < whole.streams[partials].bytes_s

    known = KnownIds(HOUR)
    random = np.random.default_rng(1)
    ids = 0
    for begin in range(0, 200_000, 5000):
        counters = begin + np.flatnonzero(random.random(5000) < 0.5)
        count(known, of_lane(counters), NOON)
        list(known.touched())
        ids += len(counters)
    assert half.ids_bytes / half.ids == pytest.approx(known.size_bytes / ids, rel=0.2)


def test_where_most_usage_is_metered_by_nobody_ids_are_known_one_by_one() -> None:
    load = replace(LOAD, envelope=100, mix=(("job", 0.25),))
    need = needs(load, TWO_TYPES, SETTINGS)
    assert need.ids_bytes == need.ids * 40


def test_ids_are_remembered_for_correct_for_at_forty_bytes() -> None:
    short = parse(
        '{"stream": {"correct_for": "PT1H"}, "meters": [{"slug": "a", "event_type": "t", "aggregation": "count"}]}'
    )
    need = needs(LOAD, short, SETTINGS)
    assert (need.ids, need.ids_bytes) == (400 * 3600, 400 * 3600 * 40)


def test_ids_of_our_client_are_intervals_and_take_what_a_partition_takes_for_them() -> None:
    """Half a minute of its envelopes: what the changelog has of them, and an hour in memory."""
    load = replace(LOAD, envelope=50, producers=2)
    plain = definitions({"stream": {"correct_for": "PT1H"}, "meters": [meter("calls", "count", windows=["PT1H"])]})
    need, singly = (needs(asked, plain, SETTINGS) for asked in (load, replace(load, envelope=1)))
    assert need.ids == singly.ids
    assert need.ids_bytes * 1000 < singly.ids_bytes

    world = World(plain)
    metering = MeteringProcess(world)
    stored = 0
    for checkpoint in range(6):
        at_ms = NOON + checkpoint * SETTINGS.checkpoint_ms
        for envelope in range(40):
            begin = (checkpoint * 20 + envelope // 2) * 50
            events = [usage(f"run{envelope % 2}-0-{begin + at}", at_ms, n=1) for at in range(50)]
            world.use(*events, at_ms=at_ms)
        metering.read()
        stored += sum(len(entry.value or b"") for entry in metering.table.ids.touched())
    assert metering.table.ledger.counted == 30 * LOAD.events_s
    less = singly.streams[SETTINGS.metering_state_topic].bytes_s - need.streams[SETTINGS.metering_state_topic].bytes_s
    assert 2 * LOAD.events_s * 16 - less == pytest.approx(2 * stored / 30, rel=0.2), "with snapshots, twice"
    assert metering.table.ids.size_bytes < need.ids_bytes < 5 * metering.table.ids.size_bytes


def test_ids_beyond_a_workers_memory_are_said_to_go_to_its_disk(tmp_path: Path) -> None:
    file = tmp_path / "meters.yaml"
    file.write_text("meters:\n  - {slug: calls, event_type: call, aggregation: count, windows: [PT1H]}\n")
    run = CliRunner()
    environment = {"METERLINE_METERS": str(file), "METERLINE_IDS_MEMORY_MB": "100"}
    command = ["check", "--load", "1000", "--keys", "100"]
    assert re.search(
        r"ids remembered +86,400,000, at most 3\.5 GB .*disk",
        run.invoke(group, command, env=environment).stdout,
        re.DOTALL,
    )
    packed = run.invoke(group, [*command, "--envelope", "100", "--producers", "3"], env=environment).stdout
    assert re.search(r"ids remembered +86,400,000, at most 0\.\d MB", packed) and "disk" not in packed


def test_more_than_a_namespace_has_is_said_and_is_the_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "meters.yaml"
    file.write_text("meters:\n  - {slug: calls, event_type: call, aggregation: count, windows: [PT1H]}\n")
    run = CliRunner()
    environment = {"METERLINE_METERS": str(file)}
    small = run.invoke(group, ["check", "--load", "100", "--keys", "100"], env=environment)
    assert small.exit_code == 0 and re.search(r"throughput units +1 ", small.stdout)
    large = run.invoke(group, ["check", "--load", "1000000", "--keys", "1000000", "--json"], env=environment)
    assert large.exit_code == 1 and json.loads(large.stdout)["units"] > 40
    assert "more than the 40" in run.invoke(group, ["check", "--load", "1000000"], env=environment).stdout
