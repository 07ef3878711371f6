"""Events of one shape, many at once: without an object per event, or even per text.

What one producer sends looks alike: the same attributes in the same order, with other texts and other numbers. A *shape* is
learned from one event that was decoded exactly: what stands around its texts and numbers, byte by byte. Whatever has the
same bytes there, a text wherever it has one, and a number wherever it has one, is an event with the same keys and other
values, and nothing of it needs to be parsed. All records of a batch are held against it in one go.

What does not match, has an escape or is not UTF-8, comes to no harm: it is left to `schemas/plain.py`, and comes to the same.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from schemas import shape_kernels as kernels
from schemas.events import MAX_ELEMENTS, RawEvent, decode
from schemas.refusals import repeated_key
from schemas.texts import Texts
from schemas.written import Flags, Integers

MOST = 16
"""Shapes that are remembered."""
TRIES = 2
"""Events of a batch from which a shape is learned, at most; to look at one takes as long as to decode hundreds."""
VALUES_MOST = 128
"""Values of one shape: each of its events takes room for as many places, in a whole slice."""
_QUOTES_MOST = 8 * VALUES_MOST

_ATTRIBUTES = ("id", "source", "type", "subject", "time")
_FILLED = ("id", "source", "type", "subject")
"""Never empty (`schemas/events.py`, `schemas/reader.py`)."""
_NUMBER = re.compile(rb"-?\d[\d.eE+-]*")
_MARK = "\x01"
"""Begins what stands for a value while a shape is read; a text without an escape cannot have it."""
_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)
_SALT = np.uint64(secrets.randbits(64))
"""Where a text goes while texts are told apart is this process's secret: nobody can make up texts that crowd together."""


class Value(NamedTuple):
    """A place of a shape where each event has its own. number: a number, not a text."""

    at: int
    number: bool


_NO_VALUE = Value(-1, number=False)


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
        self.filled = np.zeros(len(values) + 1, np.int64)
        self.filled[[self.attributes[name].at for name in _FILLED]] = 1
        self.least = sum(map(len, constants)) + int(self.filled.sum())

    @classmethod
    def of(cls, event: bytes) -> Shape | None:
        """The shape of an event; None where it is none, or has something that no shape is made of.

        That is: an attribute that is missing or no text, data in base64 or that is no object, a number with an exponent,
        two numbers without a text between them, more than VALUES_MOST values.
        """
        if (
            event.count(b'"') > _QUOTES_MOST
            or b"\\" in event
            or any(type(found) is not RawEvent for found in decode(event))
        ):
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
        if type(document) is not dict or document.get("specversion") != "1.0" or "data_base64" in document:
            return None
        if any(type(document.get(name)) is not Value or document[name].number for name in _ATTRIBUTES):
            return None
        if len(values) > VALUES_MOST:
            return None
        return cls(constants, values, document) if type(document.get("data", {})) is dict else None


class Matched(NamedTuple):
    """Events of one shape, in the log's order. records: of each the number of its record in the batch; places: in it.

    starts, stops: (values, events), where each value stands in `letters`.
    """

    shape: Shape
    letters: npt.NDArray[np.uint8]
    records: Integers
    places: Integers
    starts: Integers
    stops: Integers

    def only(self, rows: Any) -> Matched:
        """Some of them: flags, or row numbers in ascending order."""
        if rows.dtype == bool:
            if rows.all():
                return self
            rows = np.flatnonzero(rows)
        starts, stops = self.starts.take(rows, 1), self.stops.take(rows, 1)
        return Matched(self.shape, self.letters, self.records[rows], self.places[rows], starts, stops)

    def texts(self, value: Value) -> Texts:
        """Of each event what is written there."""
        return Texts(self.letters, self.starts[value.at], self.stops[value.at])

    def told_apart(self, value: Value) -> dict[str, Matched]:
        """The events by what is written there."""
        codes, names = told_apart(self.texts(value))
        if len(names.starts) == 1:
            return {names.text(0).decode(): self}
        return {name.decode(): self.only(codes == code) for code, name in enumerate(names.tolist())}


class Shapes:
    """The shapes of late. What it has seen only saves work: whatever it gives, and whatever it leaves, comes to the same."""

    def __init__(self) -> None:
        self._shapes: list[Shape] = []
        self._columns = _columns([])

    def split(self, batch: Texts, plain: Flags | None) -> tuple[list[Matched], list[int]]:
        """The events of records' values that have known shapes, and the numbers of the records that are left.

        Of a record all events have one, or it is left. plain: False for values that are not to be looked at, those with
        headers of binary mode.
        """
        left = np.ones(len(batch.starts), bool) if plain is None else plain.copy()
        found, stuck = self._look(batch, left)
        unknown = left.copy()
        for _ in range(TRIES):
            if not unknown.any():
                break
            number = int(np.argmax(unknown))
            shape = Shape.of(_event(batch.text(number), int(stuck[number])))
            if shape is None or any(shape.constants == known.constants for known in self._shapes):
                unknown[number] = False
                continue
            self._remember([shape, *self._shapes])
            more, stuck = self._look(batch, left)
            found += more
            unknown &= left
        if found:
            of_use = list({id(matched.shape): matched.shape for matched in found}.values())
            if self._shapes[: len(of_use)] != of_use:
                self._remember([*of_use, *(shape for shape in self._shapes if shape not in of_use)])
        if plain is not None:
            left |= ~plain
        return found, np.flatnonzero(left).tolist()

    def _remember(self, shapes: list[Shape]) -> None:
        self._shapes = shapes[:MOST]
        self._columns = _columns(self._shapes)

    def _look(self, batch: Texts, left: Flags) -> tuple[list[Matched], Integers]:
        """The events of records that are left, and of each record where it got stuck; what is found is not left any more."""
        stuck = np.zeros(len(left), np.int64)
        if not self._shapes:
            return [], stuck
        chosen = left.copy()
        least, widest = min(shape.least for shape in self._shapes), max(len(shape.values) for shape in self._shapes)
        at_most = int(((batch.stops - batch.starts)[chosen] // least + 1).sum())
        starts, stops = np.empty((2, widest, at_most), np.int64)
        records, places, kinds = np.empty((3, at_most), np.int64)
        many = kernels.match(
            batch.letters, batch.starts, batch.stops, chosen, *self._columns, MAX_ELEMENTS, starts, stops, records, places,
            kinds, stuck,
        )  # fmt: skip
        left[chosen] = False
        whole = Matched(
            self._shapes[0], batch.letters, records[:many], places[:many], starts[:, :many], stops[:, :many]
        )
        found = []
        for kind in np.flatnonzero(np.bincount(kinds[:many], minlength=len(self._shapes))).tolist():
            mine = whole.only(kinds[:many] == kind)
            shape = self._shapes[kind]
            values = len(shape.values)
            found.append(mine._replace(shape=shape, starts=mine.starts[:values], stops=mine.stops[:values]))
        return found, stuck


def _columns(shapes: Sequence[Shape]) -> tuple[Any, Any, Any, Any, Integers]:
    """Shapes as `kernels.match` takes them: constants, bounds, numbers, filled, and of each shape its first constant."""
    constants = [constant for shape in shapes for constant in shape.constants]
    numbers = [value.number for shape in shapes for value in (*shape.values, _NO_VALUE)]
    return (
        np.frombuffer(b"".join(constants), np.uint8),
        np.cumsum([0, *map(len, constants)]),
        np.array(numbers, bool),
        np.concatenate([shape.filled for shape in shapes] or [np.empty(0, np.int64)]),
        np.cumsum([0, *(len(shape.constants) for shape in shapes)]),
    )


def told_apart(texts: Texts) -> tuple[Integers, Texts]:
    """Of each text a number, in the order in which they first stand there, and the text of each number."""
    codes, firsts = np.empty((2, len(texts.starts)), np.int64)
    names = kernels.coded(*texts, _SALT, codes, firsts)
    return codes, texts.only(firsts[:names])


def _event(value: bytes, place: int) -> bytes:
    """The event at a place of a record, or what stands there."""
    if value[:1] != b"[":
        return value
    try:
        elements: list[msgspec.Raw] = _ELEMENTS.decode(value)
    except _FAILURES:
        return b""
    return bytes(elements[place]) if place < len(elements) else b""


_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


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
