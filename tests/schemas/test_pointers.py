"""A pointer finds what RFC 6901 says it finds, or nothing."""

from __future__ import annotations

import pytest

from schemas.pointers import MISSING, Pointer

DOCUMENT = {"a": {"b": [10, {"c": None}]}, "": 1, "a/b": 2, "m~n": 3, "0": 4, "~1": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/a/b/0", 10),
        ("/a/b/1/c", None),
        ("/", 1),
        ("/a~1b", 2),
        ("/m~0n", 3),
        ("/0", 4),
        ("/~01", 5),
    ],
)
def test_it_finds_keys_and_indexes(text: str, value: object) -> None:
    assert Pointer(text).find(DOCUMENT) == value


@pytest.mark.parametrize(
    "text", ["/x", "/a/b/2", "/a/b/-", "/a/b/00", "/a/b/-1", "/a/b/c", "/a/b/1/c/d", "/0/0", "/a/b/٠"]
)
def test_where_nothing_is_it_says_so_and_null_is_something(text: str) -> None:
    assert Pointer(text).find(DOCUMENT) is MISSING


@pytest.mark.parametrize(
    ("text", "words"), [("", "not a JSON pointer"), ("a", "not a JSON pointer"), ("/a~2", "neither ~0")]
)
def test_what_is_no_pointer_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pointer(text)
