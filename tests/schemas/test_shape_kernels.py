"""What the kernels of reading take for texts, numbers and equals is what everybody else takes for them."""

from __future__ import annotations

import json
import re

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.blocks import still
from schemas.shape_kernels import end_of_number, end_of_text
from schemas.shapes import told_apart
from schemas.texts import Texts

_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
utf8 = st.text(st.characters(codec="utf-8", exclude_characters='"\\'), max_size=12).map(str.encode)
nearly = st.builds(
    lambda text, at, letter: text[: at % (len(text) + 1)] + bytes([letter]) + text[at % (len(text) + 1) :],
    utf8, st.integers(0, 60), st.integers(0, 255),
)  # fmt: skip


@given(utf8 | nearly | st.binary(max_size=6))
@example(b"\xed\xa0\x80")
@example(b"\xc0\x80")
@example(b"\xe0\x80\x80")
@example(b"\xf0\x80\x80\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xf4\x8f\xbf\xbf")
@example(b"\xe2\x82")
def test_a_text_is_utf_8_without_escapes_and_control_characters(text: bytes) -> None:
    letters = still(np.frombuffer(text + b'"behind"', np.uint8), np.uint8)
    try:
        sound = not any(letter < 0x20 or letter in b"\\" for letter in text) and bool(text.decode() or True)
    except UnicodeDecodeError:
        sound = False
    expected = text.index(b'"') if b'"' in text else len(text)
    if not sound and b'"' in text:  # what stands behind the quote is not looked at
        return
    assert end_of_text(letters, 0, len(letters)) == (expected if sound else -1)
    assert end_of_text(letters, 0, min(expected, len(text))) == -1, "it has no end there"


@given(st.text("0123456789.-+eE,} ", max_size=12).map(str.encode))
def test_a_number_is_the_longest_that_json_would_take(text: bytes) -> None:
    letters = still(np.frombuffer(text + b"}", np.uint8), np.uint8)
    end = end_of_number(letters, 0, len(text))
    found = _NUMBER.match(text)
    if end < 0:
        assert found is None or text[found.end() : found.end() + 1].isdigit() or text[found.end() :][:1] == b"."
    else:
        assert found is not None and found.end() == end
        json.loads(text[:end])


@given(st.lists(st.binary(max_size=20), max_size=60))
def test_texts_are_told_apart_in_their_order(texts: list[bytes]) -> None:
    codes, names = told_apart(Texts.of(texts))
    expected = [*dict.fromkeys(texts)]
    assert names.tolist() == expected
    assert codes.tolist() == [expected.index(text) for text in texts]
