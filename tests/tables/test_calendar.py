"""When windows end is read out of their keys' bytes, as decoding each key would say it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.texts import Texts
from schemas.window_kernels import LAST_START_MS
from schemas.windows import WindowKey, encode_key
from tables.calendar import Calendar, Unknown
from tests.usage import definitions, meter

CALENDAR = Calendar(
    definitions(
        {
            "stream": {"max_delay": "none"},
            "meters": [
                meter("requests", windows=["PT1M", "PT1H"], grace="PT5S"),
                meter("a" * 40, windows=["P1D"], grace="PT7S"),
            ],
        }
    )
)
SIZES = {
    ("requests", "PT1M"): (60_000, 5000),
    ("requests", "PT1H"): (3_600_000, 5000),
    ("a" * 40, "P1D"): (86_400_000, 7000),
}
EDGES = (0, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, LAST_START_MS)
"""Where MessagePack writes a number otherwise."""
TEXTS = st.one_of(st.text(max_size=40), st.integers(0, 300).map("x".__mul__))
KEYS = st.builds(
    lambda subject, kind, group, start_ms: WindowKey(subject, kind[0], group, start_ms, kind[1]),
    TEXTS,
    st.sampled_from(list(SIZES)),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=20).map(tuple),
    st.one_of(st.integers(0, LAST_START_MS), st.integers(0, 300), st.integers(0, 1 << 17)),
)


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=10))
@example([WindowKey("x" * 70_000, "requests", (("g", "y" * 70_000),), start_ms, "PT1M") for start_ms in (0, 1 << 32)])
@example([WindowKey("", "requests", (), start_ms, "PT1M") for start_ms in EDGES])
def test_the_ends_of_windows_are_those_of_their_keys(keys: list[WindowKey]) -> None:
    ends = CALENDAR.ends(Texts.of([encode_key(key) for key in keys]))
    assert ends.ends_ms.tolist() == [key.start_ms + SIZES[key.meter, key.size][0] for key in keys]
    graces_ms = (ends.closes_ms - ends.ends_ms).tolist()
    assert graces_ms == [SIZES[key.meter, key.size][1] for key in keys]


@pytest.mark.parametrize("unknown", [("another", "PT1M"), ("requests", "P1D"), ("requests", "PT1")])
def test_a_window_that_no_meter_has_is_named(unknown: tuple[str, str]) -> None:
    keys = [WindowKey("acme", "requests", (), 0, "PT1M"), WindowKey("acme", unknown[0], (), 0, unknown[1])]
    with pytest.raises(Unknown) as caught:
        CALENDAR.ends(Texts.of([encode_key(key) for key in keys]))
    assert caught.value.row == 1


@pytest.mark.parametrize(
    "start_ms", [-1, -32, -33, -128, -129, -32_768, -32_769, -(1 << 31), -(1 << 31) - 1, LAST_START_MS + 1, 1 << 63]
)
def test_a_window_of_a_time_that_cannot_be_written_is_none(start_ms: int) -> None:
    with pytest.raises(Unknown):
        CALENDAR.ends(Texts.of([encode_key(WindowKey("acme", "requests", (), start_ms, "PT1M"))]))


@given(KEYS, st.data())
def test_what_is_no_key_is_told_and_nothing_behind_it_is_read(key: WindowKey, data: st.DataObject) -> None:
    whole = encode_key(key)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for raw in (whole[:cut], whole + b"\x00", b"\x94" + whole[1:]):
        with pytest.raises(Unknown):
            CALENDAR.ends(Texts.of([raw]))
