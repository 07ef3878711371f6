"""Events of one shape, many at once: without an object per event, or even per text.

What one producer sends looks alike: the same attributes in the same order, with other texts and other numbers. A *shape* is
learned from one event that was decoded exactly: what stands around its texts and numbers, byte by byte. Whatever has the
same bytes there, a text wherever it has one, and a number wherever it has one, is an event with the same keys and other
values, and nothing of it needs to be parsed. That is looked at for all events of a batch together: where their quotes are,
and that between them stands what the shape says.

What does not match, has an escape or is not UTF-8, comes to no harm: it is left to `schemas/plain.py`, and comes to the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from schemas.events import MAX_ELEMENTS, RawEvent, decode
from schemas.refusals import repeated_key
from schemas.written import Flags, Integers, Numbers

MOST = 16
"""Shapes that are remembered."""
_FEW = 8
"""Texts that are looked for in all events at once; what has more of them is looked at event by event."""
TRIES = 2
"""Events of a batch from which a shape is learned, at most; to look at one takes as long as to decode hundreds."""

_ATTRIBUTES = ("id", "source", "type", "subject", "time")
_FILLED = ("id", "source", "type", "subject")
"""Never empty (`schemas/events.py`, `schemas/reader.py`)."""
_WIDEST = 4096
"""Bytes between two values, at most."""
_NUMBER = re.compile(rb"-?\d[\d.eE+-]*")
_MARK = "\x01"
"""Begins what stands for a value while a shape is read; a text without an escape cannot have it."""
_SPACE, _QUOTE, _COMMA, _BRACKET, _BACKSLASH, _CLOSE = b' ",[\\]'
_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)


class Value(NamedTuple):
    """A place of a shape where each event has its own. number: a number, not a text."""

    at: int
    number: bool


class Shape:
    """What stands around the values of an event.

    constants: the bytes before each value, and those behind the last. attributes: the values of `id`, `source`, `type`,
    `subject` and `time`. data: the event's data with a `Value` in place of each text and number; None where there is none.
    """

    def __init__(self, constants: Sequence[bytes], values: Sequence[Value], document: dict[str, Any]) -> None:
        self.constants = constants
        self.values = values
        self.attributes: dict[str, Value] = {name: document[name] for name in _ATTRIBUTES}
        self.data: dict[str, Any] | None = document.get("data")
        self.quotes = b"".join(constants).count(b'"')

    @classmethod
    def of(cls, event: bytes) -> Shape | None:
        """The shape of an event; None where it is none, or has something that no shape is made of.

        That is: an attribute that is missing or no text, data in base64 or that is no object, a number with an exponent,
        two numbers without a text between them.
        """
        if b"\\" in event or any(type(found) is not RawEvent for found in decode(event)):
            return None
        try:
            if repeated_key(event) is not None:
                return None
            constants, values = _taken_apart(event)
            marked = constants[0]
            for value, constant in zip(values, constants[1:], strict=True):
                marked += b"%b\\u0001%d%b" % (b'"' * value.number, value.at, b'"' * value.number) + constant
            document = _filled(msgspec.json.decode(marked), values)
        except _FAILURES:
            return None
        if document.get("specversion") != "1.0" or "data_base64" in document or max(map(len, constants)) > _WIDEST:
            return None
        if any(type(document.get(name)) is not Value or document[name].number for name in _ATTRIBUTES):
            return None
        return cls(constants, values, document) if type(document.get("data", {})) is dict else None

    def match(self, batch: _Batch, chosen: Flags) -> Matched:
        """The events of the chosen records, which have as many quotes as events of this shape, as far as they match.

        A record matches if each of its events does.
        """
        whole = bool(chosen.all())
        quotes = batch.quotes if whole else batch.quotes[np.repeat(chosen, batch.counts)]
        begins, ends = batch.begins[chosen], batch.ends[chosen]
        held = quotes.reshape(-1, self.quotes)
        many = batch.counts[chosen] // self.quotes
        last = np.cumsum(many) - 1
        first = last - many + 1
        packed = batch.letters[begins] == _BRACKET
        # Where each event begins and ends, if it is one: a comma between two of an envelope, brackets around them.
        start = held[:, 0] - self.constants[0].index(b'"')
        end = np.append(start[1:] - 1, 0)
        good = batch.letters[end] == _COMMA
        end[last] = ends - packed
        good[last] = ~packed | (batch.letters[ends - 1] == _CLOSE)
        good[first] &= (start[first] == begins + packed) & (many <= MAX_ELEMENTS) & (packed | (many == 1))
        # The values, by the quotes around them.
        starts: list[Integers] = []
        stops: list[Integers] = []
        at, seen = start, 0
        for value in self.values:
            constant, behind = self.constants[value.at], self.constants[value.at + 1]
            good &= batch.stands(constant, at)
            seen += constant.count(b'"')
            starts.append(at + len(constant))
            quote = behind.find(b'"')
            at = held[:, seen] - quote if quote >= 0 else end - len(behind)
            stops.append(at)
            good &= at >= starts[-1] + value.number
        good &= batch.stands(self.constants[-1], at) & (at + len(self.constants[-1]) == end)
        for name in _FILLED:
            value = self.attributes[name]
            good &= stops[value.at] > starts[value.at]
        record = np.repeat(np.arange(len(many)), many)
        place = np.arange(len(record)) - first[record]
        matched = Matched(self, batch, np.flatnonzero(chosen)[record], place, starts, stops)
        # What holds a number is looked at only where all the rest is right: it may be anything.
        good = np.logical_and.reduceat(good, first)[record]
        sound = matched.only(good)
        if len(sound.records) and any(value.number for value in self.values):
            fine = np.ones(len(sound.records), bool)
            for value in self.values:
                if value.number:
                    fine &= sound.numbers(value).sound
            if not fine.all():
                bad = np.unique(sound.records[~fine])
                return sound.only(~np.isin(sound.records, bad))
        return sound


class Matched(NamedTuple):
    """Events of one shape, in the log's order. records: of each the number of its record in the batch; places: in it.

    starts, stops: of each value, by its number, where it stands in the batch's text.
    """

    shape: Shape
    batch: _Batch
    records: Integers
    places: Integers
    starts: list[Integers]
    stops: list[Integers]

    def only(self, rows: Any) -> Matched:
        """Some of them: flags, or row numbers in ascending order."""
        if rows.dtype == bool and rows.all():
            return self
        starts, stops = [column[rows] for column in self.starts], [column[rows] for column in self.stops]
        return Matched(self.shape, self.batch, self.records[rows], self.places[rows], starts, stops)

    def numbers(self, value: Value) -> Numbers:
        """Of each event the number."""
        return Numbers.at(self.batch.letters, self.starts[value.at], self.stops[value.at])

    def texts(self, value: Value) -> list[bytes]:
        """Of each event what is written there."""
        starts, stops = self.starts[value.at], self.stops[value.at]
        sizes = stops - starts
        if len(sizes) and (size := int(sizes[0])) and (sizes == size).all():
            found: list[bytes] = self.batch.windows(size, "S")[starts].tolist()
            return found
        text = self.batch.text
        return [text[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def told_apart(self, value: Value) -> dict[str, Matched]:
        """The events by what is written there."""
        starts, stops = self.starts[value.at], self.stops[value.at]
        found: dict[str, Matched] = {}
        left = np.arange(len(starts))
        while len(left) and len(found) < _FEW:
            text = self.batch.text[int(starts[left[0]]) : int(stops[left[0]])]
            same = self.batch.stands(text, starts[left]) & (stops[left] - starts[left] == len(text))
            found[text.decode()] = self.only(left[same]) if len(left) < len(starts) or not same.all() else self
            left = left[~same]
        if len(left):
            rest = self.only(left)
            rows: dict[bytes, list[int]] = {}
            for row, text in enumerate(rest.texts(value)):
                rows.setdefault(text, []).append(row)
            found |= {text.decode(): rest.only(np.array(chosen)) for text, chosen in rows.items()}
        return found


class Shapes:
    """The shapes of late. What it has seen only saves work: whatever it gives, and whatever it leaves, comes to the same."""

    def __init__(self) -> None:
        self._shapes: list[Shape] = []

    def split(self, values: Sequence[bytes | None], plain: Sequence[bool] | None) -> tuple[list[Matched], list[int]]:
        """The events of records' values that have a known shape, and the numbers of the records that are left.

        plain: False for values that are not to be looked at, those with headers of binary mode.
        """
        batch = _Batch(values, plain)
        left = batch.counts > 0
        found: list[Matched] = []

        def look(shape: Shape) -> bool:
            chosen = left & (batch.counts % shape.quotes == 0)
            if not chosen.any():
                return False
            matched = shape.match(batch, chosen)
            if not len(matched.records):
                return False
            found.append(matched)
            left[matched.records] = False
            return True

        of_use = [shape for shape in self._shapes if left.any() and look(shape)]
        unknown = left.copy()
        for _ in range(TRIES):
            if not unknown.any():
                break
            number = int(np.argmax(unknown))
            shape = Shape.of(batch.first_event(number))
            unknown[number] = False
            if shape is not None and look(shape):
                of_use.append(shape)
                unknown &= left
        if of_use:
            self._shapes = [*of_use, *(shape for shape in self._shapes if shape not in of_use)][:MOST]
        left |= batch.counts == 0
        return found, np.flatnonzero(left).tolist()


class _Batch:
    """Values of records as one text. begins, ends: of each; counts: its quotes, 0 for one that is not to be looked at."""

    def __init__(self, values: Sequence[bytes | None], plain: Sequence[bool] | None) -> None:
        taken: list[bytes] = [value or b"" for value in values]
        if plain is not None:
            taken = [value if good else b"" for value, good in zip(taken, plain, strict=True)]
        self.text = b"".join(taken) + bytes(_WIDEST)
        self.ends = np.cumsum(np.fromiter(map(len, taken), np.int64, len(taken)))
        self.begins = np.append(0, self.ends[:-1])
        self.letters = np.frombuffer(self.text, np.uint8)
        held = self.letters[: len(self.text) - _WIDEST]
        self.quotes = np.flatnonzero(held == _QUOTE)
        self.counts = np.diff(np.searchsorted(self.quotes, self.ends), prepend=0)
        strange = held < _SPACE
        if b"\\" in self.text or strange.any():
            self._leave(np.searchsorted(self.ends, np.flatnonzero(strange | (held == _BACKSLASH)), side="right"))
        if not self.text.isascii():
            self._leave(np.array([number for number, value in enumerate(taken) if not _is_utf8(value)], np.int64))

    def _leave(self, numbers: Integers) -> None:
        """These are not to be looked at."""
        kept = np.ones(len(self.counts), bool)
        kept[numbers] = False
        self.quotes = self.quotes[np.repeat(kept, self.counts)]
        self.counts = np.where(kept, self.counts, 0)

    def first_event(self, number: int) -> bytes:
        """The first event of a record, or what stands in its place."""
        value = self.text[int(self.begins[number]) : int(self.ends[number])]
        if value[:1] != b"[":
            return value
        try:
            elements: list[msgspec.Raw] = _ELEMENTS.decode(value)
        except _FAILURES:
            return b""
        return bytes(elements[0]) if elements else b""

    def windows(self, size: int, kind: str = "V") -> Any:
        """So many bytes from each place of the text on."""
        return np.ndarray((len(self.text) - size + 1,), f"{kind}{size}", self.text, strides=(1,))

    def stands(self, constant: bytes, at: Integers) -> Flags | bool:
        """Whether these bytes stand at each of these places."""
        size = len(constant)
        if size == 0:
            return True
        last = len(self.text) - size
        inside = (at >= 0) & (at <= last)
        there = self.windows(size)[at if inside.all() else np.clip(at, 0, last)]
        if there.tobytes() == constant * len(at):
            return inside
        equal: Flags = (there.view(np.uint8).reshape(-1, size) == np.frombuffer(constant, np.uint8)).all(1)
        return equal & inside


_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _taken_apart(event: bytes) -> tuple[list[bytes], list[Value]]:
    """The constants and the values of an event's text without escapes. Raises ValueError for one that has no shape."""
    pieces = event.split(b'"')  # outside of quotes, within, outside, …
    constants: list[bytes] = []
    values: list[Value] = []
    constant = b""
    for number, piece in enumerate(pieces):
        if number % 2:
            is_key = pieces[number + 1].lstrip()[:1] == b":"
            if is_key or (number > 1 and pieces[number - 2] == b"specversion"):
                constant += b'"' + piece + b'"'
            else:
                constants.append(constant + b'"')
                values.append(Value(len(values), number=False))
                constant = b'"'
            continue
        found = _NUMBER.findall(piece)
        if len(found) > 1:
            raise ValueError("two numbers in a row")
        if found:
            if not found[0][-1:].isdigit() or b"e" in found[0].lower():
                raise ValueError("a number with an exponent")
            before, _, behind = piece.partition(found[0])
            constants.append(constant + before)
            values.append(Value(len(values), number=True))
            constant = behind
        else:
            constant += piece
    return [*constants, constant], values


def _filled(found: Any, values: Sequence[Value]) -> Any:
    """A decoded document with values in place of what stands for them."""
    if type(found) is dict:
        return {key: _filled(item, values) for key, item in found.items()}
    if type(found) is list:
        return [_filled(item, values) for item in found]
    if type(found) is str and found.startswith(_MARK):
        return values[int(found[1:])]
    return found
