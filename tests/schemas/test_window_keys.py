"""A window's key in a changelog is read back as what it was, and equal parts of keys are one object."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.windows import WindowKey, decode_key, encode_key

TEXTS = st.text(max_size=40)


@given(
    st.builds(
        WindowKey,
        st.one_of(TEXTS, st.integers(0, 600).map("x".__mul__)),
        TEXTS,
        st.lists(st.tuples(TEXTS, TEXTS), max_size=20).map(tuple),
        st.integers(-(1 << 53), 1 << 53),
        TEXTS,
    )
)
@example(WindowKey("x" * 31, "m", (), 0, "PT1M"))
@example(WindowKey("x" * 32, "m", (), 0, "PT1M"))
@example(WindowKey("x" * 255, "m", (), 0, "PT1M"))
@example(WindowKey("x" * 256, "m", (), 0, "PT1M"))
@example(WindowKey("ü" * 128, "m", (), 0, "PT1M"))
def test_a_key_is_read_back_as_it_was(key: WindowKey) -> None:
    again = decode_key(encode_key(key))
    assert (again, type(again)) == (key, WindowKey)


def test_keys_that_differ_in_their_subject_alone_share_the_rest() -> None:
    keys = [decode_key(encode_key(WindowKey(name, "m", (("region", "we"),), 60_000, "PT1M"))) for name in "ab"]
    for field in range(1, 5):
        assert keys[0][field] is keys[1][field]
