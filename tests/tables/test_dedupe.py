"""An id is known until the time it was counted with, rounded up to the end of its bucket, is too late (design §4)."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from schemas.ids import Ids
from tables.dedupe import KnownIds
from tables.runs import Disk
from tests import pictures
from tests.tables.ids import (
    BUCKET,
    HOUR,
    MINUTE,
    NOON,
    Plain,
    by_digest,
    count,
    in_lane,
    knows,
    numbered,
    restore,
    snapshot,
    touched,
)
from tests.usage import definitions, meter, usage
from tests.world import MeteringProcess, World

DEFINITIONS = definitions({"stream": {"max_delay": "none", "correct_for": "PT1H"}, "meters": [meter("total")]})
FORGOTTEN = NOON + BUCKET + HOUR
"""The first watermark at which what was counted at noon is known no longer."""


def fates(*steps: tuple[str, int]) -> tuple[MeteringProcess, list[str]]:
    """Each step is an id and a time: an event of that time, or `tick`; what became of each event."""
    world = World(DEFINITIONS)
    process = MeteringProcess(world)
    found = []
    for id, time_ms in steps:
        if id == "tick":
            world.tick(time_ms)
        else:
            world.use(usage(id, time_ms, n=1), at_ms=NOON + 1000 * MINUTE)
        before = process.table.ledger.describe()
        process.read()
        after = process.table.ledger.describe()
        names = ("counted", "duplicate", "dead_lettered_too_late")
        found += [name for name in names if after.get(name, 0) > before.get(name, 0)]
    return process, found


def test_the_second_of_two_is_a_duplicate() -> None:
    assert fates(("a", NOON), ("a", NOON), ("b", NOON))[1] == ["counted", "duplicate", "counted"]


def test_source_and_id_together_tell_events_apart() -> None:
    world = World(DEFINITIONS)
    for source, id in (("s", "12"), ("s1", "2"), ("s", "1"), ("1:s", "1"), ("s", "12")):
        world.use(usage(id, n=1, source=source))
    process = MeteringProcess(world)
    process.read()
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (4, 1)


@pytest.mark.parametrize("id", ["a", "lane-7"])
def test_an_id_is_known_up_to_the_last_moment_that_its_bucket_is_not_too_late(id: str) -> None:
    for time_ms in (NOON, NOON + BUCKET // 2, NOON + BUCKET - 1):
        last_ms = FORGOTTEN - 1
        assert fates((id, time_ms), ("tick", last_ms), (id, last_ms))[1] == ["counted", "duplicate"]
        assert fates((id, time_ms), ("tick", FORGOTTEN), (id, FORGOTTEN))[1] == ["counted", "counted"]


def test_a_retry_stamped_anew_after_that_is_a_new_event() -> None:
    found = fates(("a", NOON), ("tick", FORGOTTEN), ("a", FORGOTTEN), ("a", FORGOTTEN))[1]
    assert found == ["counted", "counted", "duplicate"]


def test_the_same_event_again_after_that_is_too_late_and_never_counted_twice() -> None:
    assert fates(("a", NOON), ("tick", NOON + HOUR + 1), ("a", NOON))[1] == ["counted", "dead_lettered_too_late"]


def test_only_counted_ids_are_known() -> None:
    world = World(DEFINITIONS)
    world.use(usage("a", n="not a number"))
    world.use(usage("a", n=1))
    world.use(usage("b", type="unheard.of"))
    world.use(usage("b", n=1))
    process = MeteringProcess(world)
    process.read()
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (2, 0)


def test_a_duplicate_is_a_duplicate_with_the_time_that_was_counted_not_with_its_own() -> None:
    _, found = fates(("a", NOON), ("a", NOON + 30 * MINUTE), ("tick", FORGOTTEN), ("a", FORGOTTEN))
    assert found == ["counted", "duplicate", "counted"], "the duplicate's own time keeps nothing alive"


def test_eviction_is_housekeeping_whether_swept_or_not_nothing_is_decided_otherwise() -> None:
    """Two memories, one swept at every step, one never: they know the same."""
    rng = random.Random(7)
    swept, kept = KnownIds(HOUR), KnownIds(HOUR)
    watermark_ms = NOON
    for _ in range(1000):
        watermark_ms += rng.choice([0, 0, 1, MINUTE, 7 * MINUTE])
        number = rng.randrange(40)
        ids = Ids.joined([numbered(number, number + 1), in_lane(number, number + 10)])
        swept.evict(watermark_ms)
        time_ms = watermark_ms - rng.randrange(HOUR + 1)
        assert count(swept, ids, time_ms, watermark_ms) == count(kept, ids, time_ms, watermark_ms)
    assert len(swept) <= len(kept)


def test_memory_is_bounded_by_time_not_by_the_length_of_the_log() -> None:
    ids = KnownIds(HOUR)
    most = 0
    for number in range(0, 20_000, 10):
        time_ms = NOON + number * 1000
        count(ids, Ids.joined([numbered(number, number + 1), in_lane(number, number + 9)]), time_ms)
        ids.evict(time_ms)
        most = max(most, len(ids))
    assert most <= 3600 + BUCKET // 1000 + 10


def test_a_partition_forgets_as_its_watermark_moves_on() -> None:
    process, _ = fates(*[(str(number), NOON + number * MINUTE) for number in range(50)], ("tick", NOON + HOUR * 20))
    assert len(process.table.ids) == 0


@pytest.mark.parametrize("ids", [numbered(0, 9), in_lane(0, 9)], ids=["by digest", "in a lane"])
def test_an_id_counted_again_outlives_the_sweep_of_its_first_time(ids: Ids) -> None:
    """The first bucket still stands when the id is known no longer, is counted anew, and only then is swept."""
    known = KnownIds(HOUR)
    count(known, ids, NOON)
    assert not any(count(known, ids, FORGOTTEN))
    known.evict(FORGOTTEN + MINUTE)
    assert all(knows(known, ids, FORGOTTEN + HOUR))


@pytest.mark.parametrize("ids", [numbered(0, 9), in_lane(0, 9)], ids=["by digest", "in a lane"])
def test_an_id_forgotten_and_counted_again_is_restored_with_its_later_time(ids: Ids) -> None:
    known = KnownIds(HOUR)
    count(known, ids, NOON)
    early = touched(known)
    known.evict(FORGOTTEN)
    count(known, ids, FORGOTTEN)
    late = touched(known)
    for pieces in (early + late, late + early):
        assert all(knows(restore(KnownIds(HOUR), pieces), ids, FORGOTTEN + HOUR))


def test_what_is_known_survives_a_checkpoint() -> None:
    process, _ = fates(*[(str(number), NOON + number % 50 * MINUTE) for number in range(200)])
    process.checkpoint()
    before = pictures.known_ids(process.world, process.table)
    assert len(before) == 200
    assert pictures.known_ids(process.world, MeteringProcess(process.world).table) == before


def test_times_before_1970_are_times_like_others() -> None:
    known = KnownIds(HOUR)
    ids = Ids.joined([numbered(0, 9), in_lane(0, 9)])
    count(known, ids, -5)
    again = restore(KnownIds(HOUR), touched(known))
    assert all(knows(again, ids, HOUR - 1)) and not any(knows(again, ids, HOUR))


def test_an_id_takes_at_most_forty_bytes() -> None:
    """While they are put in, too, and when as many are swept as come."""
    known = KnownIds(HOUR)
    for number in range(0, 400_000, 500):
        time_ms = NOON + number * HOUR // 200_000
        count(known, numbered(number, number + 500), time_ms)
        known.evict(time_ms)
        touched(known)
        assert known.size_bytes <= 40 * len(known) + 2000, f"{known.size_bytes / len(known):.1f} bytes of {len(known)}"


def test_a_thousand_ids_in_the_order_of_their_counters_take_less_than_a_byte() -> None:
    known, written = KnownIds(HOUR), 0
    counters = np.arange(5000)
    for number in range(2000):
        ids = Ids(
            np.zeros((2, 5000), np.uint64), np.zeros(5000, np.int64), counters + number * 5000, [b"one lane of ids."]
        )
        count(known, ids, NOON + number * HOUR // 2000)
        if number % 20 == 19:
            written += sum(map(len, touched(known)))
    assert len(known) == 10_000_000
    assert known.size_bytes < 10_000
    assert written < 10_000
    assert sum(map(len, snapshot(known))) < 10_000


def test_what_is_swept_is_soon_gone_from_memory() -> None:
    known = KnownIds(HOUR)
    for number in range(300):
        time_ms = NOON + number * MINUTE
        count(known, numbered(number * 100, number * 100 + 100), time_ms)
        known.evict(time_ms)
        touched(known)
        assert len(known) <= 6300
        assert known.size_bytes <= 2 * 40 * max(len(known), 100)
    known.evict(NOON + 10_000 * MINUTE)
    assert len(known) == 0 and known.size_bytes < 3000


def test_lanes_that_are_swept_are_soon_gone_from_memory() -> None:
    known = KnownIds(HOUR)
    for number in range(1000):
        time_ms = NOON + number * MINUTE
        count(known, in_lane(number * 10, number * 10 + 10, f"lane {number}-"), time_ms)
        count(known, in_lane(number * 10, number * 10 + 10, f"lane {number}-"), time_ms)
        known.evict(time_ms)
        touched(known)
    assert known.size_bytes < 50_000


def test_times_ages_apart_are_told_apart() -> None:
    """A replay's clock jumps: what lies so far apart fits into no four bytes, and must not come out as less."""
    known = KnownIds(2000)
    age = (1 << 33) * 1000
    for ids in (numbered(0, 40), in_lane(0, 40)):
        times_ms = NOON + np.arange(40) * age
        assert not known.count(ids, times_ms, times_ms).any()
        assert known.count(ids, times_ms[-1:].repeat(40), times_ms[-1:].repeat(40)).tolist() == [False] * 39 + [True]
        known = KnownIds(2000)


def test_ids_that_are_made_up_do_not_crowd_together() -> None:
    """Whoever chooses ids could choose digests that begin alike; a table that went by them would stand still."""
    known = KnownIds(HOUR)
    for number in range(0, 60_000, 1000):
        ids = by_digest([at.to_bytes(16, "big") for at in range(number, number + 1000)])
        assert not any(count(known, ids, NOON))
    assert len(known) == 60_000


@pytest.mark.parametrize("many", [0, 1, 6, 47, 3000, 20_000])
@pytest.mark.parametrize("memory", [None, 100_000])
def test_the_shares_of_a_snapshot_are_all_ids_each_once(many: int, memory: int | None, tmp_path: Path) -> None:
    """Also where the table has grown since they were made, and where some are on disk."""
    known = KnownIds(HOUR, None if memory is None else Disk(tmp_path, memory))
    count(known, numbered(0, many), NOON)
    count(known, in_lane(0, many), NOON)
    units = known.units()
    for end in (many, many + many // 3):
        count(known, numbered(0, end), NOON)
        count(known, in_lane(0, end), NOON)
        pieces = snapshot(known, units)
        assert all(0 < len(piece) <= 32_100 for piece in pieces)
        again = restore(KnownIds(HOUR), pieces)
        assert len(again) == len(known) == 2 * end if many > 7 else len(again) >= many
        assert sum(map(len, pieces)) < 20 * end + 200, "no id is in two pieces"


def test_what_is_swept_is_in_no_share_and_in_no_checkpoint() -> None:
    known = KnownIds(HOUR)
    for first, end, time_ms in ((0, 100, NOON), (100, 1000, NOON + HOUR)):
        count(known, numbered(first, end), time_ms)
        count(known, in_lane(first, end), time_ms)
    known.evict(NOON + HOUR + MINUTE)
    assert len(known) == 1800
    for pieces in (snapshot(known), touched(known)):
        assert len(restore(KnownIds(HOUR), pieces)) == 1800


def test_a_share_of_all_ids_is_read_once_each() -> None:
    known = KnownIds(HOUR)
    count(known, numbered(0, 50_000), NOON)
    units = known.units()
    assert len(units) == 25
    sizes = [sum(len(entry.value or b"") for entry in known.slice(unit)) for unit in units]
    assert sum(sizes) < 50_000 * 16 + 25 * 100 and max(sizes) < 40_000


def test_a_batch_without_events_is_judged() -> None:
    assert count(KnownIds(HOUR), numbered(0, 0), NOON) == []


def test_the_rule_is_that_of_a_plain_dictionary() -> None:
    """Every moment around the end of a bucket, for ids held both ways."""
    for ids, pair in ((numbered(0, 1), ("", "")), (in_lane(0, 9), ("", ""))):
        for time_ms in (NOON - 1, NOON, NOON + 1, NOON + BUCKET - 1):
            known, plain = KnownIds(HOUR), Plain()
            count(known, ids, time_ms)
            plain.count(pair, time_ms, time_ms)
            for watermark_ms in range(time_ms + HOUR - 2, time_ms + HOUR + BUCKET + 2, 7):
                assert set(knows(known, ids, watermark_ms)) == {plain.knows(pair, watermark_ms)}
