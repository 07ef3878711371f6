"""A table of keys gives each key its slot, as a dict would; which one depends on the calls alone."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.block_kernels import AHEAD
from schemas.texts import Texts
from tables import keys
from tables.keys import KeyTable, grown, lengthened

some = st.lists(st.binary(max_size=40), max_size=30)
steps = st.lists(st.tuples(st.sampled_from(["add", "find", "remove"]), some), max_size=12)


def added(table: KeyTable, names: Iterable[bytes]) -> list[int]:
    slots: list[int] = table.slots_of(Texts.of(list(names)), True)[0].tolist()
    return slots


@settings(deadline=None)  # kernels are compiled at their first call
@given(steps)
def test_it_answers_as_a_dict_does(calls: list[tuple[str, list[bytes]]]) -> None:
    table, twin, held = KeyTable(), KeyTable(), dict[bytes, int]()
    for what, names in calls:
        if what == "remove":
            gone = np.array(list({name: held.pop(name) for name in names if name in held}.values()), np.int64)
            table.remove(gone)
            twin.remove(gone)
        else:
            texts = Texts.of(names)
            slots, new = table.slots_of(texts, what == "add")
            assert (slots == twin.slots_of(texts, what == "add")[0]).all()
            for name, slot, is_new in zip(names, slots.tolist(), new.tolist(), strict=True):
                assert is_new == (what == "add" and name not in held)
                if is_new:
                    assert slot not in held.values()
                    held[name] = slot
                assert slot == held.get(name, -1)
        assert len(table) == len(held)
        assert sorted(table.slots().tolist()) == sorted(held.values())
        assert table.texts(np.array(list(held.values()), np.int64)).tolist() == list(held)
        assert all(table.key(slot) == name and table.slot(name) == slot for name, slot in held.items())


def test_the_slots_do_not_depend_on_the_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"tenant-%d" % (number * 7919 % 5000) for number in range(9000)]
    given_out = []
    for salt in (1, 2):
        monkeypatch.setattr(keys, "_SALT", np.array([salt, salt], np.uint64))
        table = KeyTable()
        first = added(table, names)
        table.remove(np.arange(0, 5000, 3))
        given_out.append((first, added(table, [b"new-%d" % number for number in range(3000)])))
    assert given_out[0] == given_out[1]


def test_a_table_that_grows_and_shrinks_and_grows_again_keeps_its_keys() -> None:
    table = KeyTable()
    for life in range(4):
        names = [
            b"%d of life %d, which is as long as the key of a window tends to be" % (n, life) for n in range(20_000)
        ]
        slots = added(table, names)
        assert sorted(slots) == list(range(20_000)), "the slots of what is gone are given out again"
        assert table.texts(np.array(slots)).tolist() == names
        table.remove(np.array(slots[:15_000]))
        assert added(table, names[15_000:]) == slots[15_000:]
        assert table.slots_of(Texts.of(names[:15_000]), False)[0].max() == -1
        table.remove(np.array(slots[15_000:]))
    assert len(table) == 0 and table.size == 20_000
    assert len(table._arena) < 4 * 20_000 * 70, "what is gone makes room"


def test_many_at_once_are_found_and_added_in_the_order_given() -> None:
    """More than are looked at together: some there, some new, some twice, after others were removed and the rest moved."""
    table, chance = KeyTable(), random.Random(5)
    names = [b"%d, as long as the key of a window tends to be" % number for number in range(3_000)]
    held = dict(zip(names, added(table, names), strict=True))
    gone = chance.sample(names, 2_500)
    table.remove(np.array([held.pop(name) for name in gone]))
    for most in (AHEAD - 1, AHEAD, AHEAD + 1, 1_000):
        asked = [chance.choice(names) for _ in range(most)]
        slots, new = table.slots_of(Texts.of(asked), True)
        for name, slot, is_new in zip(asked, slots.tolist(), new.tolist(), strict=True):
            assert is_new == (name not in held)
            assert held.setdefault(name, slot) == slot
        assert len(set(held.values())) == len(held) == len(table)
        assert table.texts(np.array(list(held.values()))).tolist() == list(held)
        missing = [name for name in names if name not in held]
        found = table.slots_of(Texts.of(missing + asked), False)[0].tolist()
        assert found == [-1] * len(missing) + [held[name] for name in asked]


def test_texts_stay_what_they_are_when_their_keys_are_gone() -> None:
    table = KeyTable()
    names = [b"%06d" % number * 10 for number in range(3000)]
    slots = np.array(added(table, names))
    texts = table.texts(slots)
    table.remove(slots)
    added(table, [b"other-%d" % number for number in range(20_000)])
    assert texts.tolist() == names


def test_a_slot_without_a_key_cannot_be_removed() -> None:
    table = KeyTable()
    added(table, [b"a"])
    with pytest.raises(AssertionError):
        table.remove(np.array([0, 0]))
    with pytest.raises(AssertionError):
        table.key(0)


def test_columns_grow_along_their_last_axis_and_rows_along_their_first() -> None:
    column = np.arange(6).reshape(2, 3)
    assert grown(column, 3) is column and lengthened(column, 2) is column
    assert grown(column, 4, -1).tolist() == [[0, 1, 2, -1, -1, -1], [3, 4, 5, -1, -1, -1]]
    assert lengthened(column, 5, -1).tolist() == [[0, 1, 2], [3, 4, 5], *[[-1] * 3] * 3]
