"""Partials between the stages: rows or objects, they are read back as what they were, in records of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import blocks, partials
from schemas.blocks import Column
from schemas.numbers import SUM
from schemas.partials import Contribution, Partial, PartialRows, Rows, amount_of, scaled
from schemas.texts import Texts

WORDS = st.integers(-(1 << 63), (1 << 63) - 1)
OFFSETS = st.integers(0, 1 << 40)
AMOUNTS = st.none() | st.builds(lambda units, places: Decimal(units).scaleb(-places, SUM), WORDS, st.integers(0, 18))
PARTIALS = st.builds(
    Partial,
    st.text(max_size=30),
    st.sampled_from(["requests", "tokens"]),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=2).map(tuple),
    st.integers(-(1 << 53), 1 << 53),
    st.just("PT1H"),
    st.integers(1, 9),
    st.builds(
        lambda events, digest, first, more, amount: Contribution(events, digest, first, first + more, amount),
        OFFSETS,
        st.binary(min_size=16, max_size=16),
        OFFSETS,
        OFFSETS,
        AMOUNTS.map(lambda amount: None if amount is None else amount.normalize(SUM)),
    ),
)


def packed(keys: Texts, columns: Sequence[Column]) -> bytes:
    [block] = blocks.pack(keys, columns, partials.RECORD_MAX)
    return block


@settings(deadline=None)
@given(st.lists(PARTIALS, max_size=20), st.integers(200, 2000))
def test_rows_are_read_back_as_what_they_were_in_records_within_the_limit(items: list[Partial], limit: int) -> None:
    rows, others = Rows.of(items)
    assert not others
    records = list(partials.pack_rows(3, rows, limit))
    messages = [partials.decode(record) for record in records]
    assert [item for message in messages if isinstance(message, PartialRows) for item in message.items] == items
    assert all(message.source == 3 for message in messages)
    for record, message in zip(records, messages, strict=True):
        assert isinstance(message, PartialRows)
        assert len(record) <= limit or len(message.items) == 1


@pytest.mark.parametrize(
    "share",
    [
        Contribution(1, bytes(16), 0, 1, Decimal(1 << 63)),
        Contribution(1, bytes(16), 0, 1, Decimal("1E-19")),
        Contribution(1, bytes(16), 0, 1, Decimal("1E+40")),
        Contribution(1, bytes(16), 0, 1, Decimal(1), (5, 1, 0)),
    ],
)
def test_what_is_no_row_stays_an_object(share: Contribution) -> None:
    partial = Partial("acme", "m", (), 0, "PT1M", 1, share)
    rows, others = Rows.of([partial])
    assert (len(rows.words), others) == (0, [partial]) and list(partials.pack_rows(0, rows)) == []


def test_a_partial_with_members_stays_an_object() -> None:
    partial = Partial("acme", "m", (), 0, "PT1M", 1, Contribution(1, bytes(16), 0, 1), bytes(16))
    assert Rows.of([partial])[1] == [partial]


@given(WORDS, st.integers(0, 18))
@example(0, 18)
@example(-(1 << 63), 0)
def test_an_amount_of_a_row_is_exact(units: int, places: int) -> None:
    amount = Decimal(units).scaleb(-places, SUM)
    found = scaled(amount)
    assert found is not None and amount_of(*found) == amount


def test_equal_amounts_have_equal_bytes() -> None:
    def written(units: int, places: int) -> list[bytes]:
        rows = Rows(Texts.of([b"key"]), np.array([[1, 1, 0, 0, 1, 1, units, places]]))
        return list(partials.pack_rows(0, rows))

    assert written(150, 2) == written(15, 1) == written(1_500_000, 6) != written(15, 2)
    assert written(0, 9) == written(0, 0) != written(0, -1) == written(7, -1)
    assert written(100, 0) == written(1000, 1)


def test_a_block_takes_no_more_bytes_than_its_columns_need() -> None:
    keys = [b"tenant-%04d" % number for number in range(1000)]
    columns = [np.full(1000, 1 << 60), np.arange(1000) - (1 << 50), np.arange(1000) % 256]
    assert len(packed(Texts.of(keys), columns)) < 1000 * (11 + 2 + 1) + 100


@given(st.data())
def test_a_record_of_somebody_else_is_none_of_ours(data: st.DataObject) -> None:
    """Cut off, or with any byte another: it is refused or it is read as some rows, and nothing else happens."""
    items = [Partial(f"tenant-{n}", "m", (), n, "PT1M", 1, Contribution(n, bytes([n] * 16), n, n)) for n in range(20)]
    block = packed(Rows.of(items)[0].keys, [*Rows.of(items)[0].columns()])
    cut = data.draw(st.integers(0, len(block) - 1))
    with pytest.raises(msgspec.DecodeError):
        blocks.unpack(block[:cut], partials.COLUMNS)
    with pytest.raises(msgspec.DecodeError):
        blocks.unpack(block + b"x", partials.COLUMNS)
    with pytest.raises(msgspec.DecodeError):
        blocks.unpack(block, partials.COLUMNS - 1)
    changed = bytearray(block)
    changed[cut] = data.draw(st.integers(0, 255))
    try:
        keys, columns = blocks.unpack(bytes(changed), partials.COLUMNS)
    except msgspec.DecodeError:
        return
    assert len(keys.starts) == len(columns[0]) and int(keys.stops[-1]) == len(block) and int(keys.starts[0]) > 0


def test_rows_that_count_less_than_nothing_are_refused() -> None:
    one = np.ones(1, np.int64)
    block = packed(Texts.of([b"key"]), [one, -one, one, one, one, one, one, one])
    with pytest.raises(msgspec.DecodeError):
        partials.decode(msgspec.msgpack.encode(["r", 0, block]))
    block = packed(Texts.of([b"key"]), [one, one, one, one, one, one, one, 19 * one])
    with pytest.raises(msgspec.DecodeError):
        partials.decode(msgspec.msgpack.encode(["r", 0, block]))


@pytest.mark.parametrize(
    ("events", "digest", "members"), [(-1, bytes(16), b""), (1, b"short", b""), (1, bytes(16), b"x" * 17)]
)
def test_an_object_that_counts_what_cannot_be_counted_is_refused(events: int, digest: bytes, members: bytes) -> None:
    partial = Partial("a", "m", (), 0, "PT1M", 1, Contribution(events, digest, 0, 0), members)
    with pytest.raises(msgspec.DecodeError):
        partials.decode(partials.encode(partials.Partials(0, [partial])))
