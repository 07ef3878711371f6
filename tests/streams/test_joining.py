"""Partials are joined: repeating, reordering, or sending early changes nothing (design §2.5)."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import partials as wire
from schemas.errors import PartitionStopped
from schemas.partials import Partials, Rows, Watermark
from schemas.texts import Texts
from schemas.window_kernels import LAST_START_MS
from schemas.windows import encode_key
from tests import pictures
from tests.streams.stage import CLOSES, Stage, digest, key, made, member
from tests.usage import NOON
from tests.world import PARTIALS, ClosingProcess


def test_per_source_the_highest_through_holds() -> None:
    stage = Stage()
    stage.partial(3, 30)
    stage.partial(2, 20)
    stage.partial(5, 50)
    stage.mark(CLOSES)
    assert stage.last() == (1, "50", "50", "closed", 5)
    assert stage.process.table.sources[0].joined == 5


def test_sources_add_up() -> None:
    stage = Stage(sources=3)
    for source in range(3):
        stage.partial(source + 1, 10**source, source=source)
    for source in range(3):
        stage.mark(CLOSES, source=source)
    assert stage.last() == (1, "111", "111", "closed", 6)


def test_a_partial_repeated_changes_nothing() -> None:
    stage = Stage()
    stage.partial(3, 30)
    before = msgspec.to_builtins(stage.process.table.windows[key()])
    stage.again(0, 0)
    assert msgspec.to_builtins(stage.process.table.windows[key()]) == before
    assert stage.process.table.sources[0].joined == 3


def rows_record(source: int, name: bytes) -> bytes:
    """A row of a window that is right, and one of a window that is called so."""
    rows, _ = Rows.of([made(1, 1), made(1, 1, "max")])
    names = [encode_key(key()), name or encode_key(key())]
    return next(wire.pack_rows(source, rows._replace(keys=Texts.of(names))))


steps = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(0, 1 << 30))
def test_any_order_and_any_repetition_gives_the_same_window(written: list[tuple[int, int]], seed: int) -> None:
    plain, mixed = Stage(sources=2), Stage(sources=2)
    items = [(source, made(events, events * 10)) for source, events in written]
    for source, item in items:
        plain.pack(source, item)
    rng = random.Random(seed)
    again = [*items, *rng.choices(items, k=5)]
    rng.shuffle(again)
    for source, item in again:
        mixed.pack(source, item, objects=rng.random() < 0.5)
    assert mixed.process.table.windows == plain.process.table.windows
    assert [s.joined for s in mixed.process.table.sources] == [s.joined for s in plain.process.table.sources]


def test_members_are_united_from_every_piece_whatever_its_through() -> None:
    stage = Stage()
    stage.partial(3, meter="unique_count", members=member(3))
    stage.partial(2, meter="unique_count", members=member(1) + member(2))
    stage.partial(3, meter="unique_count", members=member(3))
    stage.mark(CLOSES)
    assert stage.last() == (1, "3", "3", "closed", 3)


def test_members_that_come_after_their_share_was_told_make_a_revision() -> None:
    """A partial of many members travels in pieces, each with the same share; a watermark may come in between."""
    stage = Stage(sources=2)
    stage.mark(CLOSES, source=0)
    stage.mark(CLOSES - 1, source=1)
    stage.partial(3, meter="unique_count", members=member(1) + member(2))
    stage.mark(CLOSES, source=1)
    assert stage.last() == (1, "2", "2", "closed", 3)
    stage.partial(3, meter="unique_count", members=member(3))
    stage.mark(CLOSES + 60, source=0)
    stage.mark(CLOSES + 60, source=1)
    assert stage.last() == (2, "3", "1", "late", 3)


def test_members_that_come_after_their_share_was_told_are_not_forgotten_in_recovery() -> None:
    stage = Stage()
    stage.partial(3, meter="unique_count", members=member(1))
    stage.mark(CLOSES)
    stage.partial(3, meter="unique_count", members=member(3))
    stage.process.checkpoint()
    stage.process = ClosingProcess(stage.world)
    stage.mark(CLOSES + 60)
    assert stage.last() == (2, "2", "1", "late", 3)


def test_a_watermark_never_goes_back() -> None:
    stage = Stage()
    stage.mark(50)
    stage.mark(20, through=2000)
    assert stage.process.table.watermark_ms == NOON + 50_000


def test_a_stale_watermark_does_not_take_back_what_its_source_has_sent() -> None:
    stage = Stage()
    stage.mark(50, through=20, folds=0)
    stage.mark(40, through=10, folds=0)
    assert stage.process.table.sources[0].through == 20


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "neither partials nor a watermark"),
        (b"hello", "neither partials nor a watermark"),
        (wire.encode(Partials(1, [made(1, 1)])), "comes from usage partition 1, but usage has 1 partitions"),
        (wire.encode(Watermark(1, NOON, 1, 0)), "comes from usage partition 1, but usage has 1 partitions"),
        (wire.encode(Watermark(-1, NOON, 1, 0)), "comes from usage partition -1, but usage has 1 partitions"),
        (wire.encode(Partials(0, [made(1, 1, "unknown")])), "meter 'unknown' with windows of PT1M"),
        (rows_record(1, b""), "comes from usage partition 1, but usage has 1 partitions"),
        (rows_record(0, encode_key(key("unknown"))), "meter 'unknown' with windows of PT1M"),
        (wire.encode(Watermark(0, 1 << 52, 1, 0)), "neither partials nor a watermark"),
        (rows_record(0, b"\x93abc"), "neither partials nor a watermark (one of its windows has no key)"),
        (rows_record(0, encode_key(key("total")).replace(b"acme", b"a\xffme")), "one of its windows has no key"),
        (rows_record(0, encode_key(key("total")._replace(start_ms=1 << 60))), "one of its windows has no key"),
        (rows_record(0, encode_key(key("total")._replace(start_ms=-60_000))), "one of its windows has no key"),
        (wire.encode(Partials(0, [made(1, 1)])).replace(b"acme", b"a\xffme"), "neither partials nor a watermark"),
    ],
)
def test_a_record_that_cannot_be_right_stops_the_partition_and_says_why(value: bytes, said: str) -> None:
    stage = Stage()
    stage.world.logs[PARTIALS, 0].append(value)
    with pytest.raises(PartitionStopped) as caught:
        stage.process.read()
    assert said in caught.value.what and caught.value.hint
    assert (caught.value.topic, caught.value.partition) == (PARTIALS, 0)
    assert not stage.process.table.windows, "nothing of it is joined"


@pytest.mark.parametrize("seed", range(300))
def test_a_damaged_record_stops_the_partition_or_is_one_that_can_be_billed(seed: int) -> None:
    rng = random.Random(f"damaged {seed}")
    value = bytearray(rng.choice([rows_record(0, encode_key(key())), wire.encode(Partials(0, [made(1, 1)]))]))
    for _ in range(rng.choice([1, 2, 4])):
        value[rng.randrange(len(value))] = rng.choice([rng.randrange(256), 0, 127, 128, 255])
    stage = Stage()
    stage.world.logs[PARTIALS, 0].append(bytes(value[: rng.choice([len(value), rng.randrange(len(value))])]))
    stage.world.logs[PARTIALS, 0].append(wire.encode(Watermark(0, LAST_START_MS, 1 << 52, 0)))
    with contextlib.suppress(PartitionStopped):
        stage.process.read()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=12), st.integers(0, 1 << 30))
def test_the_state_does_not_depend_on_how_the_log_is_cut_into_batches(cuts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    stage = Stage(sources=2)
    for number in range(15):
        stage.partial(
            number + 1, number, rng.choice(["sum", "avg", "max"]), source=rng.randrange(2), second=60 * rng.randrange(3)
        )
        stage.mark(rng.randrange(800), source=rng.randrange(2), through=number)
    world = stage.world
    other = ClosingProcess(world, recovers=False)
    for most in cuts:
        other.read(most)
    other.read()
    assert pictures.of_closing(other.table) == pictures.of_closing(stage.process.table)
    assert [*other.stage.revised] == stage.revisions()
    assert other.table.outbox.items == stage.process.table.outbox.items


def test_a_window_shows_what_it_rests_on() -> None:
    stage = Stage(sources=2)
    stage.partial(2, 20, through=7, first=3, source=1)
    described = stage.process.stage.describe(key())
    assert described is not None
    assert described["receipt"] == {
        "events": 2,
        "digest": digest(2).hex(),
        "watermark": None,
        "meter_version": 1,
        "sources": [{"partition": 1, "events": 2, "first_offset": 3, "last_offset": 7, "digest": digest(2).hex()}],
    }
