"""A window's key in a changelog is read back as what it was, and equal parts of keys are one object."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.blocks import still
from schemas.texts import Texts
from schemas.window_kernels import LAST_START_MS, is_text
from schemas.windows import WindowKey, check_keys, decode_key, encode_key, foreign_key

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


@given(st.binary(max_size=8) | st.text(max_size=6).map(str.encode))
@example(b"\xed\xa0\x80")
@example(b"\xc0\x80")
@example(b"\xe0\x80\x80")
@example(b"\xf0\x80\x80\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xf4\x8f\xbf\xbf")
@example(b"\xe2\x82")
def test_a_text_is_what_everybody_takes_for_utf_8(text: bytes) -> None:
    sound = False
    with contextlib.suppress(UnicodeDecodeError):
        sound = text.decode().encode() == text
    letters = still(np.frombuffer(text + b"behind", np.uint8), np.uint8)
    assert is_text(letters, 0, len(text)) == sound


@pytest.mark.parametrize(
    ("key", "right"),
    [
        (encode_key(WindowKey("acme", "m", (("region", "we"),), 0, "PT1M")), True),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), LAST_START_MS, "PT1M")), True),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), LAST_START_MS + 1, "PT1M")), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), -1, "PT1M")), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), (1 << 64) - 1, "PT1M")), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), 0, "PT1M")).replace(b"acme", b"ac\xffe"), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), 0, "PT1M")).replace(b"region", b"regio\xff"), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), 0, "PT1M")).replace(b"we", b"\xc3e"), False),
        (encode_key(WindowKey("acme", "m", (("region", "we"),), 0, "PT1M"))[:-1], False),
        (encode_key(WindowKey("acme", "meter", (), 0, "PT1M")).replace(b"meter", b"mete\xff"), False),
        (encode_key(WindowKey("acme", "m", (), 0, "PT1M")).replace(b"PT1M", b"PT1\xff"), False),
        (b"k", False),
    ],
)
def test_what_is_no_key_of_a_window_is_refused(key: bytes, right: bool) -> None:
    assert foreign_key(key) == (not right)
    with contextlib.nullcontext() if right else pytest.raises(msgspec.DecodeError):
        check_keys(Texts.of([key]))
