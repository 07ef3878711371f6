"""Shares in columns: per source and window the highest `through` holds, as a dict of dicts would have it; packed and restored."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import blocks
from schemas.changelog import Entry
from schemas.partials import COLUMNS, Contribution
from schemas.texts import Texts
from tables import portions
from tables.closing_kernels import ASIDE
from tables.joined import Joined, words_of
from tables.keys import KeyTable
from tables.portions import gone_entries


class Told(NamedTuple):
    """A partial of a window."""

    source: int
    window: bytes
    share: Contribution


AMOUNTS = st.sampled_from([None, Decimal(3), Decimal("-1.5"), Decimal(1 << 63), Decimal("1E-20"), Decimal("1E+30")])
SHARES = st.builds(
    lambda events, digest, first, through, amount, at: Contribution(
        events, digest, first, through, amount, (through, 0, 0) if at else None
    ),
    st.integers(0, 3), st.binary(min_size=16, max_size=16), st.integers(0, 3), st.integers(0, 4), AMOUNTS, st.booleans(),
)  # fmt: skip
TOLD = st.builds(Told, st.integers(0, 3), st.sampled_from([b"%d" % number for number in range(6)]), SHARES)
ACTS = st.lists(
    st.one_of(
        st.lists(TOLD, max_size=8),
        st.sets(st.sampled_from([b"%d" % number for number in range(6)]), max_size=3),
        st.just("checkpoint"),
    ),
    max_size=12,
)
Held = dict[bytes, dict[int, Contribution]]


def join(joined: Joined, told: list[Told]) -> int:
    """How many events that adds."""
    slots, _ = joined.open(Texts.of([one.window for one in told]), np.full(len(told), 7))
    words = np.array([words_of(7, one.share) for one in told], np.int64).reshape(-1, COLUMNS)
    taken = joined.join(np.array([one.source for one in told], np.int64), slots, words)
    for share, one, places in zip(taken.shares.tolist(), told, words[:, -1].tolist(), strict=True):
        if share >= 0 and places == ASIDE:
            joined.put_aside(share, one.share.amount, one.share.at)
    return taken.events


def held(joined: Joined) -> Held:
    slots = joined.keys.slots()
    return {name: joined.of(slot) for name, slot in zip(joined.keys.texts(slots).tolist(), slots.tolist(), strict=True)}


@settings(deadline=None, max_examples=200)
@given(ACTS, st.integers(150, 400))
def test_shares_are_joined_and_restored_as_a_dict_would_be(
    acts: list[list[Told] | set[bytes] | str], limit: int
) -> None:
    joined, plain = Joined(), Held()
    gone: list[bytes] = []
    entries = []
    for act in acts:
        if isinstance(act, list):
            added = 0
            for one in act:
                shares = plain.setdefault(one.window, {})
                before = shares.get(one.source)
                if before is None or (one.share.through, -one.share.events) > (before.through, -before.events):
                    added += one.share.events - (before.events if before else 0)
                    shares[one.source] = one.share
            assert join(joined, act) == added
        elif isinstance(act, set):
            names = [name for name in sorted(act) if plain.pop(name, None) is not None]
            gone += names
            joined.remove(np.array([joined.keys.slot(name) for name in names], np.int64))
        else:
            entries += [*gone_entries(gone, limit), *joined.packed(joined.take_touched(), limit)]
            gone = []
        assert held(joined) == plain
    entries += [*gone_entries(gone, limit), *joined.packed(joined.take_touched(), limit)]
    assert held(restored(entries)) == plain
    places = portions.portions("shares", joined.size)
    snapshot = [entry for one in places for entry in joined.packed(joined.live(one.begin, one.end), limit)]
    assert held(restored(snapshot)) == plain, "a snapshot has all of it"


def restored(entries: list[Entry]) -> Joined:
    """The newest first, as recovery does."""
    again, gone = Joined(), KeyTable()
    for entry in reversed(entries):
        if entry.kind != "share":
            again.restore_waiting(gone)
        if entry.kind == "gone":
            gone.slots_of(blocks.unpack(entry.value or b"", 0)[0], True)
        elif entry.kind == "shares":
            again.restore_block(entry.value or b"", gone)
        else:
            again.restore_share(entry.key, entry.value or b"", gone)
    again.restore_waiting(gone)
    return again


def test_what_was_taken_is_noted_once() -> None:
    joined = Joined()
    share = Contribution(1, bytes(16), 0, 5)
    join(joined, [Told(0, b"a", share), Told(1, b"a", share), Told(0, b"b", share), Told(0, b"a", share)])
    a, b = joined.keys.slot(b"a"), joined.keys.slot(b"b")
    assert joined.take_moved().tolist() == [a, b] and joined.take_moved().tolist() == []
    assert len(joined.take_touched()) == 3 and len(joined.take_touched()) == 0
    join(joined, [Told(0, b"b", share)])
    assert not len(joined.take_moved()) and not len(joined.take_touched()), "nothing new"
    joined.said(b, 1, 0, 1, bytes(16))
    join(joined, [Told(0, name, Contribution(2, bytes(16), 0, 6)) for name in (b"a", b"b")])
    assert joined.take_changed().tolist() == [b], "only of what was closed there is something to revise"


def test_a_window_that_is_gone_is_noted_no_more_nor_whose_place_it_had() -> None:
    joined = Joined()
    share = Contribution(1, bytes(16), 0, 5)
    join(joined, [Told(0, b"a", share)])
    joined.remove(np.array([joined.keys.slot(b"a")]))
    assert not len(joined.take_moved()) and not len(joined.take_touched())
    join(joined, [Told(0, b"a", share)])
    joined.remove(np.array([joined.keys.slot(b"a")]))
    join(joined, [Told(0, b"b", share)])
    assert joined.take_moved().tolist() == [joined.keys.slot(b"b")]
    assert len(joined.take_touched()) == 1


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5))
@settings(deadline=None)
def test_pending_is_what_the_shares_do_not_come_to_what_was_said(digests: list[bytes]) -> None:
    joined = Joined()
    join(joined, [Told(source, b"a", Contribution(2, digest, 0, 1)) for source, digest in enumerate(digests)])
    slots = np.array([joined.keys.slot(b"a")])
    assert joined.pending(slots).all()
    total = sum(int.from_bytes(digest, "big") for digest in digests) % (1 << 128)
    joined.said(int(slots[0]), 1, 0, 2 * len(digests), total.to_bytes(16, "big"))
    assert not joined.pending(slots).any()
    joined.said(int(slots[0]), 2, 0, 2 * len(digests), ((total + 1) % (1 << 128)).to_bytes(16, "big"))
    assert joined.pending(slots).all()
    joined.said(int(slots[0]), 3, 0, 2 * len(digests) + 1, total.to_bytes(16, "big"))
    assert joined.pending(slots).all()


def test_a_block_of_somebody_else_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        Joined().restore_block(b"what is this", KeyTable())
