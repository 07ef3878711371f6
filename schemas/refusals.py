"""Why bytes are no event, in words, and where one event of an envelope ends: the slow, careful side of events.py."""

from __future__ import annotations

import json
import re
from functools import lru_cache

import msgspec

MAX_DEPTH = 128
"""Levels of objects and arrays in one event, itself included. A fixed number, because the depth at which a decoder gives
up depends on the interpreter and on its caller, and a fate must not (design §2.1)."""

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ATTRIBUTES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)
_FAILURES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
_SURROGATE = re.compile(r"surrogate|hex escape|truncated")
_READ = ("specversion", "id", "source", "type", "subject", "time", "data", "data_base64", "datacontenttype")
_REQUIRED = ("specversion", "id", "source", "type")
_EXPECTED = "expected a CloudEvent 1.0 in JSON"


@lru_cache(maxsize=1)
def split_elements(value: bytes) -> tuple[bytes, ...]:
    """The original bytes of each element of a JSON array, without the white space around.

    What is inside of an element need not be valid, as long as its brackets and quotes are in balance: a `NaN` in one
    event does not take the others with it. Raises ValueError, saying what was found, where they are not. The last
    answer is kept, for the many bad events of one record.
    """
    try:
        return tuple([bytes(element) for element in _ELEMENTS.decode(value)])
    except _FAILURES:
        return tuple(_split_unsound(value))


def flaw(element: bytes) -> str:
    """What a decoder does not see or say clearly: not UTF-8, too deep, an attribute twice. Empty if none of these."""
    try:
        text = element.decode()
    except UnicodeDecodeError as error:
        found = element[error.start : error.start + 1].hex()
        return f"found the byte 0x{found} at {error.start}, which is not UTF-8, {_EXPECTED}"
    if too_deep(element, MAX_DEPTH):
        return f"found more than {MAX_DEPTH} levels of objects and arrays, expected at most {MAX_DEPTH}"
    try:
        pairs = json.loads(
            text, object_pairs_hook=list, parse_float=str, parse_int=str, parse_constant=_refuse, strict=False
        )
    except ValueError:
        return ""  # not JSON, which `explain` says better
    if text.lstrip()[:1] != "{":
        return ""
    names = [name for name, _ in pairs]
    for name in _READ:
        if names.count(name) > 1:
            return f"found the attribute {name} {names.count(name)} times, expected it once"
    return ""


def too_deep(text: bytes, levels: int) -> bool:
    """Whether objects and arrays nest deeper than this many levels. Never recurses."""
    if text.count(b"{") + text.count(b"[") <= levels:
        return False
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark in b"[{":
            depth += 1
            if depth > levels:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def repeated_key(text: bytes) -> str | None:
    """The first key that an object in a valid JSON text has twice, at any level; None where each is there once."""
    repeated: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            repeated.append(next(name for name in names if names.count(name) > 1))

    json.loads(text.decode(), object_pairs_hook=look, parse_float=str, parse_int=str, strict=False)
    return repeated[0] if repeated else None


def explain(element: bytes) -> str:
    """What was found and what was expected, for an element that is no CloudEvent; never empty."""
    if not element.strip():
        return f"found nothing, {_EXPECTED}"
    if element[:3] == b"\xef\xbb\xbf":
        return f"found a byte order mark, {_EXPECTED}"
    try:
        _ANY.decode(element)
    except _FAILURES as error:
        return f"found bytes that are not JSON ({_syntax(error)}), {_EXPECTED}"
    try:
        attributes = _ATTRIBUTES.decode(element)
    except _FAILURES:
        return f"found {_kind(element)}, {_EXPECTED}, an object"
    missing = [name for name in _REQUIRED if bytes(attributes.get(name, b"null")) == b"null"]
    if missing:
        return f"found no {' and no '.join(missing)}, expected a CloudEvent 1.0 with {', '.join(_REQUIRED)}"
    for name in _READ:
        found = bytes(attributes.get(name, b"null"))
        if name == "data" or (found == b"null" and name not in _REQUIRED):
            continue
        if found[:1] != b'"':
            return f"found {_kind(found)} in {name}, expected a text"
        if name == "specversion" and msgspec.json.decode(found) != "1.0":
            return f'found specversion {_shorten(found)}, expected "1.0"'
        if name in _REQUIRED and found == b'""':
            return f"found an empty {name}, expected a text that is not empty"
    return f"found {_shorten(element)}, {_EXPECTED}"


def _split_unsound(value: bytes) -> list[bytes]:
    """By brackets and quotes alone, without recursion."""
    elements: list[bytes] = []
    depth = 0
    start = end = 0
    for token in _TOKEN.finditer(value):
        mark = value[token.start()]
        if end:
            break
        if mark in b"[{":
            depth += 1
            if depth == 1:
                start = token.end()
        elif mark in b"]}":
            depth -= 1
            if depth == 0:
                elements.append(value[start : token.start()].strip())
                end = token.end()
        elif mark == 0x2C and depth == 1:
            elements.append(value[start : token.start()].strip())
            start = token.end()
        elif token.end() - token.start() == 1 and mark == 0x22:
            break  # a text that never ends
    if not end or value[end:].strip() or value[end - 1 : end] != b"]":
        raise ValueError(f"found bytes that are not JSON ({_why(value)}), expected CloudEvents")
    return elements


def _why(value: bytes) -> str:
    try:
        _ANY.decode(value)
    except _FAILURES as error:
        return _syntax(error)
    return "its brackets do not match"


def _syntax(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    text = str(error).removeprefix("JSON is malformed: ")
    return f"a lone surrogate or a text cut off: {text}" if _SURROGATE.search(text) else text


def _kind(found: bytes) -> str:
    first = found.lstrip()[:1]
    kinds = {b"{": "an object", b"[": "an array", b'"': "the text "}
    kind = kinds.get(first)
    if kind is None or first == b'"':
        return f"{kind or ''}{_shorten(found.strip())}"
    return kind


def _shorten(found: bytes) -> str:
    text = found[:60].decode(errors="replace")
    return f"{text}…" if len(found) > 60 else text


def _refuse(constant: str) -> object:
    raise ValueError(constant)
