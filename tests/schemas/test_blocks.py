"""Blocks: what was packed is read back, whatever the width of its columns, the place of its keys and the limit."""

from __future__ import annotations

import random

import numpy as np
import pytest

from schemas import blocks
from schemas.block_kernels import AHEAD
from schemas.partials import RECORD_MAX
from schemas.texts import Texts

LEAST, MOST = -(1 << 63), (1 << 63) - 1


@pytest.mark.parametrize("rows", [1, AHEAD - 1, AHEAD, AHEAD + 1, 2 * AHEAD + 1, 700])
@pytest.mark.parametrize("limit", [RECORD_MAX, 700])
def test_rows_are_read_back_in_blocks_within_the_limit(rows: int, limit: int) -> None:
    chance = random.Random(rows)
    names = [b"x" * chance.randint(1, 50) + b"%d" % number for number in range(rows)]
    stand = sorted(range(rows), key=lambda _: chance.random())  # anywhere in their letters, in no order
    keys = Texts.of([names[number] for number in stand]).only(np.argsort(stand))
    assert keys.tolist() == names
    bounds = ((7, 7), (-3, 200), (LEAST, LEAST + 40_000), (-5, 1 << 31), (LEAST, MOST), (MOST, MOST))
    columns = [np.array([chance.randint(*bound) for _ in names]) for bound in bounds]
    for column, bound in zip(columns, bounds, strict=True):
        column[[0, -1]] = bound
    packed = [*blocks.pack(keys, columns, limit)]
    assert all(len(block) <= limit for block in packed) and (len(packed) > 1) == (rows > 1 and limit == 700)
    read = [blocks.unpack(block, len(columns)) for block in packed]
    assert [name for some, _ in read for name in some.tolist()] == names
    for number, column in enumerate(columns):
        assert np.concatenate([some[number] for _, some in read]).tolist() == column.tolist()


def test_a_key_that_no_block_could_be_read_back_with_is_not_packed() -> None:
    with pytest.raises(AssertionError):
        list(blocks.pack(Texts.of([b"key", b""]), [], RECORD_MAX))
