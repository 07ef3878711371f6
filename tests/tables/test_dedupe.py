"""A duplicate is known exactly as long as the time it was counted with is not too late (design §4)."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from tables.dedupe import KnownIds, words_of
from tests import pictures
from tests.usage import MINUTE, NOON, definitions, meter, usage
from tests.world import MeteringProcess, World

CORRECT_FOR = 60 * MINUTE
DEFINITIONS = definitions({"stream": {"max_delay": "none", "correct_for": "PT1H"}, "meters": [meter("total")]})


def fates(*steps: tuple[str, int]) -> tuple[MeteringProcess, list[str]]:
    """Each step is an id and a minute: an event of that time, or `tick`; what became of each event."""
    world = World(DEFINITIONS)
    process = MeteringProcess(world)
    found = []
    for id, minute in steps:
        if id == "tick":
            world.tick(NOON + minute * MINUTE)
        else:
            world.use(usage(id, NOON + minute * MINUTE, n=1), at_ms=NOON + 1000 * MINUTE)
        before = process.table.ledger.describe()
        process.read()
        after = process.table.ledger.describe()
        names = ("counted", "duplicate", "dead_lettered_too_late")
        found += [name for name in names if after.get(name, 0) > before.get(name, 0)]
    return process, found


def test_the_second_of_two_is_a_duplicate() -> None:
    assert fates(("a", 0), ("a", 0), ("b", 0))[1] == ["counted", "duplicate", "counted"]


def test_source_and_id_together_tell_events_apart() -> None:
    world = World(DEFINITIONS)
    for source, id in (("s", "12"), ("s1", "2"), ("s", "1"), ("1:s", "1"), ("s", "12")):
        world.use(usage(id, n=1, source=source))
    process = MeteringProcess(world)
    process.read()
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (4, 1)


def test_an_id_is_known_up_to_the_last_moment_its_time_is_not_too_late() -> None:
    assert fates(("a", 0), ("tick", 60), ("a", 60))[1] == ["counted", "duplicate"]


def test_a_retry_stamped_anew_after_that_is_a_new_event() -> None:
    world = World(DEFINITIONS)
    world.use(usage("a", NOON, n=1))
    world.tick(NOON + CORRECT_FOR + 1)
    world.use(usage("a", NOON + CORRECT_FOR + 1, n=1), at_ms=NOON + 1000 * MINUTE)
    world.use(usage("a", NOON + CORRECT_FOR + 1, n=1), at_ms=NOON + 1000 * MINUTE)
    process = MeteringProcess(world)
    process.read()
    assert (process.table.ledger.counted, process.table.ledger.duplicate) == (2, 1)


def test_the_same_event_again_after_that_is_too_late_and_never_counted_twice() -> None:
    assert fates(("a", 0), ("tick", 61), ("a", 0))[1] == ["counted", "dead_lettered_too_late"]


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
    _, found = fates(("a", 0), ("a", 30), ("tick", 61), ("a", 61))
    assert found == ["counted", "duplicate", "counted"], "the duplicate's own time keeps nothing alive"


def test_eviction_is_housekeeping_whether_swept_or_not_nothing_is_decided_otherwise() -> None:
    """Two memories, one swept at every step, one never: they know the same."""
    rng = random.Random(7)
    swept, kept = KnownIds(CORRECT_FOR), KnownIds(CORRECT_FOR)
    watermark_ms = NOON
    for _ in range(3000):
        watermark_ms += rng.choice([0, 0, 1, MINUTE, 7 * MINUTE])
        digest = bytes([rng.randrange(40)]) * 16
        swept.evict(watermark_ms)
        assert swept.knows(digest, watermark_ms) == kept.knows(digest, watermark_ms)
        if not kept.knows(digest, watermark_ms):
            time_ms = watermark_ms - rng.randrange(CORRECT_FOR + 1)
            swept.add(digest, time_ms)
            kept.add(digest, time_ms)
    assert len(swept) <= len(kept)


def test_memory_is_bounded_by_time_not_by_the_length_of_the_log() -> None:
    ids = KnownIds(CORRECT_FOR)
    most = 0
    for number in range(20_000):
        time_ms = NOON + number * 1000
        ids.add(number.to_bytes(16, "big"), time_ms)
        ids.evict(time_ms)
        most = max(most, len(ids))
    assert most <= 3600 + CORRECT_FOR // 96 // 1000 + 1


def test_a_partition_forgets_as_its_watermark_moves_on() -> None:
    process, _ = fates(*[(str(number), number) for number in range(50)], ("tick", 1000))
    assert len(process.table.ids) == 0


def test_an_id_counted_again_outlives_the_sweep_of_its_first_time() -> None:
    """The first bucket still stands when the id is known no longer, is counted anew, and only then is swept."""
    ids = KnownIds(CORRECT_FOR)
    digest = b"x" * 16
    ids.add(digest, NOON)
    assert not ids.knows(digest, NOON + CORRECT_FOR + 1)
    ids.add(digest, NOON + CORRECT_FOR)
    ids.evict(NOON + CORRECT_FOR + MINUTE)
    assert ids.knows(digest, NOON + 2 * CORRECT_FOR)


def test_an_id_forgotten_and_counted_again_is_restored_with_its_later_time() -> None:
    ids = KnownIds(CORRECT_FOR)
    digest = b"x" * 16
    ids.add(digest, NOON)
    early = list(ids.touched())
    ids.evict(NOON + 2 * CORRECT_FOR)
    ids.add(digest, NOON + 2 * CORRECT_FOR)
    late = list(ids.touched())
    for pieces in (early + late, late + early):
        again = KnownIds(CORRECT_FOR)
        for piece in pieces:
            again.restore(piece.value or b"")
        assert again.knows(digest, NOON + 3 * CORRECT_FOR)


def test_what_is_known_survives_a_checkpoint() -> None:
    process, _ = fates(*[(str(number), number % 50) for number in range(200)])
    process.checkpoint()
    before = pictures.known_ids(process.table, CORRECT_FOR)
    assert len(before) == 200
    assert pictures.known_ids(MeteringProcess(process.world).table, CORRECT_FOR) == before


def test_times_before_1970_are_times_like_others() -> None:
    ids = KnownIds(CORRECT_FOR)
    ids.add(b"x" * 16, -5)
    (entry,) = ids.touched()
    again = KnownIds(CORRECT_FOR)
    again.restore(entry.value or b"")
    assert again.knows(b"x" * 16, CORRECT_FOR - 5) and not again.knows(b"x" * 16, CORRECT_FOR - 4)


def digest_of(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_is_judged_as_its_events_one_by_one(seed: int) -> None:
    """Against a plain dictionary: ids that come again in the batch, too, and some that are known no longer."""
    rng = random.Random(seed)
    ids, counted = KnownIds(CORRECT_FOR), dict[bytes, int]()
    watermark_ms = NOON
    many = rng.choice([3, 40, 4000])
    for _ in range(rng.randint(1, 30)):
        rows = []
        for _ in range(rng.choice([1, 7, 300])):
            watermark_ms += rng.choice([0, 0, 0, 1, MINUTE])
            rows.append((digest_of(rng.randrange(many)), watermark_ms - rng.randrange(CORRECT_FOR + 1), watermark_ms))
        expected = []
        for digest, time_ms, before_ms in rows:
            expected.append(counted.get(digest, -1) >= before_ms - CORRECT_FOR)
            if not expected[-1]:
                counted[digest] = time_ms
        digests, times_ms, before = zip(*rows, strict=True)
        assert ids.count(words_of(digests), np.array(times_ms), np.array(before)).tolist() == expected
        if rng.random() < 0.5:
            ids.evict(watermark_ms)
        again = KnownIds(CORRECT_FOR)
        for share in ids.units():
            for entry in ids.slice(share):
                again.restore(entry.value or b"")
        assert all(
            again.knows(digest, watermark_ms) == ids.knows(digest, watermark_ms) == (at >= watermark_ms - CORRECT_FOR)
            for digest, at in list(counted.items())[:50]
        )


def test_an_id_takes_at_most_forty_bytes() -> None:
    ids = KnownIds(CORRECT_FOR)
    for number in range(0, 120_000, 500):
        digests = [digest_of(at) for at in range(number, number + 500)]
        ids.count(words_of(digests), np.full(500, NOON), np.full(500, NOON))
        assert ids.size_bytes <= 40 * len(ids), f"{ids.size_bytes / len(ids):.1f} bytes each of {len(ids)}"


def test_what_is_swept_is_soon_gone_from_memory() -> None:
    ids = KnownIds(CORRECT_FOR)
    for number in range(300):
        time_ms = NOON + number * MINUTE
        ids.count(
            words_of([digest_of(number * 100 + at) for at in range(100)]), np.full(100, time_ms), np.full(100, time_ms)
        )
        ids.evict(time_ms)
        assert len(ids) <= 6200
        assert ids.size_bytes <= 2 * 40 * max(len(ids), 100)
    ids.evict(NOON + 10_000 * MINUTE)
    assert len(ids) == 0 and ids.size_bytes < 2000


def test_times_years_apart_are_told_apart() -> None:
    """A replay's clock jumps; seven weeks fit into four bytes, and more must not come out as less."""
    ids = KnownIds(CORRECT_FOR)
    year = 365 * 24 * 60 * MINUTE
    digests = [digest_of(number) for number in range(200)]
    times_ms = np.array([NOON + number * year // 50 for number in range(200)])
    assert not ids.count(words_of(digests), times_ms, times_ms).any()
    assert ids.count(words_of(digests), times_ms, times_ms + CORRECT_FOR).all()
    assert not ids.count(words_of(digests), times_ms, times_ms + CORRECT_FOR + 1).any()


def test_ids_that_are_made_up_do_not_crowd_together() -> None:
    """Whoever chooses ids could choose digests that begin alike; a table that went by them would stand still."""
    ids = KnownIds(CORRECT_FOR)
    for number in range(0, 60_000, 1000):
        digests = [at.to_bytes(16, "big") for at in range(number, number + 1000)]
        assert not ids.count(words_of(digests), np.full(1000, NOON), np.full(1000, NOON)).any()
    assert len(ids) == 60_000


@pytest.mark.parametrize("many", [0, 1, 6, 47, 3000, 20_000])
def test_the_shares_of_a_snapshot_are_all_ids_each_once(many: int) -> None:
    """Also where the table has grown since they were made."""
    ids = KnownIds(CORRECT_FOR)

    def add(first: int, end: int) -> set[bytes]:
        digests = [digest_of(number) for number in range(first, end)]
        ids.count(words_of(digests), np.full(len(digests), NOON), np.full(len(digests), NOON))
        return set(digests)

    known = add(0, many)
    shares = ids.units()
    for grown in (0, many // 3):
        known |= add(many, many + grown)
        pieces = [[entry.value or b"" for entry in ids.slice(share)] for share in shares]
        assert all(0 < len(piece) <= 32_000 for held in pieces for piece in held)
        found = [piece[at : at + 16] for held in pieces for piece in held for at in range(0, len(piece), 24)]
        assert len(found) == len(known) and set(found) == known
    assert max(map(len, pieces), default=0) <= 2, "no share is much larger than a piece"


def test_what_is_swept_is_in_no_share() -> None:
    ids = KnownIds(CORRECT_FOR)
    for first, end, time_ms in ((0, 100, NOON), (100, 1000, NOON + CORRECT_FOR)):
        digests = [digest_of(number) for number in range(first, end)]
        ids.count(words_of(digests), np.full(end - first, time_ms), np.full(end - first, time_ms))
    ids.evict(NOON + CORRECT_FOR + MINUTE)
    assert len(ids) == 900
    assert sum(len(entry.value or b"") for share in ids.units() for entry in ids.slice(share)) == 900 * 24
