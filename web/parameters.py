"""Query parameters, checked: what is unknown, doubled or out of range is a 400 that says what, where and what to do.

An unknown parameter is refused and not ignored: `?subjekt=acme` must not answer with everybody's totals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from schemas.durations import format_duration, parse_duration
from web.answers import Problem

SUBJECT_BYTES_MAX = 512
"""Longer subjects are invalid events (design §6), so no window can have one."""

_WINDOW_ID = re.compile(r"[^\s/\\?#]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The query of one request. Each reader raises Problem (400) naming the parameter."""

    query: Mapping[str, str]

    @classmethod
    def of(cls, request: web.Request, known: Iterable[str]) -> Parameters:
        """The query, once every name in it is `known` and given once; `local` is known everywhere."""
        names = sorted({*known, "local"})
        for name in request.query:
            if name not in names:
                raise bad(name, f"there is no parameter {name[:64]!r} here", f"known are: {', '.join(names)}")
            if len(request.query.getall(name)) > 1:
                raise bad(name, f"{name} is given more than once", "give it once, or ask once per value")
        return cls(dict(request.query))

    def text(self, name: str, longest: int = 256) -> str | None:
        """A non-empty text of at most `longest` UTF-8 bytes, or None where it is absent."""
        value = self.query.get(name)
        if value is None:
            return None
        if not value:
            raise bad(name, f"{name} is empty", f"leave {name} out to ask for all")
        if len(value.encode("utf-8", "surrogateescape")) > longest:
            raise bad(name, f"{name} is longer than {longest} bytes", "no event can have one that long")
        return value

    def subject(self) -> str | None:
        """`subject`, as in the events."""
        return self.text("subject", SUBJECT_BYTES_MAX)

    def window_size(self) -> str | None:
        """`window_size`: an ISO-8601 duration, in its canonical text (`PT60M` asks for `PT1H`)."""
        value = self.text("window_size", 32)
        try:
            return None if value is None else format_duration(parse_duration(value))
        except ValueError as error:
            raise bad("window_size", str(error), "write it as in meters.yaml, like PT1H or P1D") from None

    def one_of(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of `choices`, or None where it is absent."""
        value = self.query.get(name)
        if value is not None and value not in choices:
            raise bad(name, f"{value[:64]!r} is no {name}", f"use one of: {', '.join(choices)}")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """An int within `least`..`most`."""
        value = self.query.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not least <= int(value) <= most:
            raise bad(name, f"{value[:64]!r} is no {name}", f"give a whole number from {least} to {most}")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """`true|1` or `false|0`."""
        value = self.query.get(name)
        if value is None:
            return default
        if value not in ("1", "0", "true", "false"):
            raise bad(name, f"{value[:64]!r} is no {name}", "give true or false")
        return value in ("1", "true")

    @property
    def local(self) -> bool:
        """Only this worker is asked: how workers ask each other."""
        return self.flag("local")


Cursor = tuple[str, str]
"""The place in the order of `/v1/totals` behind which a page begins: (subject, window_id)."""
_CURSOR: msgspec.json.Decoder[Cursor] = msgspec.json.Decoder(Cursor)


def encode_cursor(cursor: Cursor) -> str:
    """Opaque text for `next`; URL-safe."""
    return msgspec.json.encode(list(cursor)).hex()


def decode_cursor(text: str | None) -> Cursor | None:
    """What `encode_cursor` wrote. Raises Problem (400)."""
    if text is None:
        return None
    try:
        return _CURSOR.decode(bytes.fromhex(text))
    except ValueError:  # msgspec's errors are ValueErrors too
        raise bad(
            "cursor", "this is no cursor of ours", "pass the text of `next` as it came, or leave it out"
        ) from None


def checked_window_id(text: str) -> str:
    """A text that may be a window's id. Raises Problem (400)."""
    if not _WINDOW_ID.match(text):
        raise bad(
            "id", f"{text[:64]!r} cannot be a window's id", "take `id` from /v1/totals or from an invoice message"
        )
    return text


def bad(parameter: str, detail: str, hint: str) -> Problem:
    """The 400 for one parameter."""
    return Problem(
        400, "bad-parameter", "A parameter does not fit", detail, hint=hint, more={"parameter": parameter[:64]}
    )
