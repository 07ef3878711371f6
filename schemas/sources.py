"""Sources: how a foreign record (a CSV row, a JSON object) becomes a CloudEvent, so that a new billing source needs no code.

Numbers stay as they were written: a CSV text is checked to be a decimal and copied into the JSON as it stands, and a JSON
number is copied through. No float anywhere (design §5). A bad row is an answer of its own, and never ends the reading.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import msgspec
import orjson

from schemas.errors import ConfigurationError, DataError
from schemas.events import RESERVED_PREFIX
from schemas.numbers import describe, quantity
from schemas.pointers import MISSING, Pointer
from schemas.refusals import MAX_DEPTH, repeated_key, too_deep
from schemas.stamps import Stamp
from schemas.times import format_rfc3339

Record = Mapping[str, object]
"""A row by column, or a JSON object; a JSON number that is no 64-bit int is an `orjson.Fragment` of what was written."""

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A column of a CSV row, by name, or a place in a JSON object, by pointer."""

    text: str
    pointer: Pointer | None = None

    @classmethod
    def parse(cls, text: str, format: str) -> Reference:
        """Raises ValueError for an empty name, or for what is no pointer where the format is ndjson."""
        if format == "ndjson":
            return cls(text, Pointer(text))
        if not text:
            raise ValueError("found an empty name, expected a column")
        return cls(text)

    def find(self, record: Record) -> object:
        """What is there, or MISSING."""
        return self.pointer.find(record) if self.pointer else record.get(self.text, MISSING)


class Special(Enum):
    """What a template can hold besides references."""

    ROW = "row"
    HASH = "hash"


_SPECIAL = {special.value: special for special in Special}


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places: `{column}` or `{/pointer}`, `{row}` (number in the file), `{hash}` (of the content), `{{` for {."""

    text: str
    parts: tuple[str | Reference | Special, ...] = field(compare=False)

    @classmethod
    def parse(cls, text: str, format: str) -> Template:
        """Raises ValueError for a brace that stands alone, or a place that is no reference."""
        parts: list[str | Reference | Special] = []
        end = 0
        for match in _PLACE.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[0] in ("{{", "}}"):
                parts.append(match[0][0])
            elif match[1] is None:
                raise ValueError(
                    f"found a single {match[0]} in {text!r}, expected {match[0] * 2} for the character itself"
                )
            else:
                special = _SPECIAL.get(match[1])
                parts.append(special or Reference.parse(match[1], format))
        parts.append(text[end:])
        return cls(text, tuple(part for part in parts if part != ""))

    @property
    def references(self) -> tuple[Reference, ...]:
        """The places that are filled from the record."""
        return tuple(part for part in self.parts if isinstance(part, Reference))

    def fill(self, record: Record, row: int) -> str:
        """The text for one record. Raises DataError where a place has nothing to put in."""
        return "".join([part if isinstance(part, str) else _fill(part, record, row) for part in self.parts])


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an event's data: from the record, converted; or a constant.

    kind: `text` and `number` convert, `any` copies a JSON value. default: stands in where nothing is there, or an empty
    text. Without one, a missing number is an error, and a missing text is left out of the data.
    """

    reference: Reference | None
    kind: Literal["text", "number", "any"] = "any"
    default: object = None
    constant: object = None


@dataclass(frozen=True, slots=True)
class Source:
    """One source of usage records. header: the first CSV row names the columns; else `columns` does."""

    name: str
    format: Literal["csv", "ndjson"]
    type: Template
    source: Template
    subject: Template
    id: Template
    time: Reference
    stamp: Stamp
    data: tuple[tuple[str, Item], ...]
    delimiter: str = ","
    columns: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """Everything it reads from a record."""
        templates = (self.type, self.source, self.subject, self.id)
        items = [item.reference for _, item in self.data if item.reference is not None]
        return (*[place for template in templates for place in template.references], self.time, *items)


def map_record(stanza: Source, record: Record, row: int) -> dict[str, object]:
    """The CloudEvent of one record, ready for `schemas.events.envelope`; a function of the record and its row alone.

    row: its number in the file. Raises DataError("invalid", …) naming row, column, what was found and expected.
    """
    try:
        event: dict[str, object] = {"specversion": "1.0"}
        for name, template in (
            ("id", stanza.id),
            ("source", stanza.source),
            ("type", stanza.type),
            ("subject", stanza.subject),
        ):
            text = template.fill(record, row)
            if not text:
                raise DataError("invalid", f"{name} ({template.text!r}) came out empty, expected a text")
            event[name] = text
        if str(event["type"]).startswith(RESERVED_PREFIX):
            raise DataError("invalid", f"found the type {event['type']!r}, but {RESERVED_PREFIX}* is the stream's own")
        event["time"] = format_rfc3339(_time(stanza, record))
        event["datacontenttype"] = "application/json"
        data = [(name, _item(item, record)) for name, item in stanza.data]
        event["data"] = {name: value for name, value in data if value is not MISSING}
        return event
    except DataError as error:
        raise DataError("invalid", f"row {row}: {error.detail}") from None


def json_number(text: str) -> orjson.Fragment | str:
    """A decimal text as a JSON number of the same digits; what JSON cannot write so (`+1`, `.5`, `007`) stays a text.

    A quantity may be either (design §5). Raises ValueError for what is no quantity.
    """
    try:
        quantity(text)
    except DataError as error:
        raise ValueError(error.detail) from None
    return _fragment(text) if _JSON_NUMBER.match(text) else text


def read_rows(stanza: Source, file: Iterable[bytes]) -> Iterator[tuple[int, Record | DataError]]:
    """(row, record) of each record in a file, or (row, DataError) for one that cannot be read.

    file: its lines as bytes (a file opened with "rb"), UTF-8. Rows count as a spreadsheet's do: from 1, the header and
    empty rows included, though nothing is said of those. Raises ConfigurationError if the file lacks a column.
    """
    return _csv_rows(stanza, file) if stanza.format == "csv" else _json_rows(file)


def read_events(stanza: Source, file: Iterable[bytes]) -> Iterator[tuple[int, dict[str, object] | DataError]]:
    """(row, CloudEvent) of each record in a file, or (row, DataError) for one that cannot be read or mapped."""
    for row, record in read_rows(stanza, file):
        if isinstance(record, DataError):
            yield row, record
            continue
        try:
            yield row, map_record(stanza, record, row)
        except DataError as error:
            yield row, error


def _fill(place: Reference | Special, record: Record, row: int) -> str:
    if place is Special.ROW:
        return str(row)
    if place is Special.HASH:
        return hashlib.blake2b(orjson.dumps(record, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    found = place.find(record)
    if found is MISSING or found is None or found == "":
        raise _nothing(place)
    return _text(place, found)


def _time(stanza: Source, record: Record) -> int:
    found = stanza.time.find(record)
    if found is MISSING or found is None or found == "":
        raise _nothing(stanza.time)
    try:
        return stanza.stamp.parse(_text(stanza.time, found))
    except ValueError as error:
        raise DataError("invalid", f"{_where(stanza.time)}: {error}") from None


def _item(item: Item, record: Record) -> object:
    place = item.reference
    if place is None:
        return item.constant
    found = place.find(record)
    if found is MISSING or found is None or found == "":
        if item.default is not None:
            found = item.default
        elif item.kind == "number":
            raise _nothing(place)
        else:
            return found
    if item.kind == "any":
        return found
    text = _text(place, found)
    if item.kind == "text":
        return text
    try:
        return json_number(text)
    except ValueError as error:
        raise DataError("invalid", f"{_where(place)}: {error}") from None


def _text(place: Reference, found: object) -> str:
    if isinstance(found, str):
        return found
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int):
        return str(found)
    if isinstance(found, orjson.Fragment):
        return orjson.dumps(found).decode()
    raise DataError("invalid", f"{_where(place)}: found {describe(found)}, expected a scalar")


def _nothing(place: Reference) -> DataError:
    return DataError("invalid", f"{_where(place)}: found nothing, expected a value")


def _where(place: Reference) -> str:
    return place.text if place.pointer else f"column {place.text}"


def _csv_rows(stanza: Source, file: Iterable[bytes]) -> Iterator[tuple[int, Record | DataError]]:
    # Bytes that are not UTF-8 come through as lone surrogates, which nothing else makes: so their row is found, and only it.
    lines = (
        line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape") for number, line in enumerate(file)
    )
    rows = csv.reader(lines, delimiter=stanza.delimiter, strict=True)
    columns = stanza.columns
    row = 0
    while True:
        row += 1
        first_line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            last_line = rows.line_num
            yield row, DataError("invalid", f"row {row}: found no CSV in lines {first_line} to {last_line}: {error}")
            continue
        if not cells:
            continue
        if not columns:
            columns = _header(stanza, cells)
        elif len(cells) != len(columns):
            yield row, DataError("invalid", f"row {row}: found {len(cells)} columns, expected {len(columns)}")
        else:
            yield row, _row(dict(zip(columns, cells, strict=True)), row)


def _row(record: dict[str, object], row: int) -> Record | DataError:
    for column, cell in record.items():
        if not _is_text(str(cell)):
            return DataError("invalid", f"row {row}: column {column}: found bytes that are not UTF-8, expected text")
    return record


def _header(stanza: Source, cells: list[str]) -> tuple[str, ...]:
    where = f"source {stanza.name}"
    for number, column in enumerate(cells, start=1):
        if not _is_text(column):
            raise ConfigurationError(
                f"column {number} of the file's first row is not UTF-8", where=where, hint="save the file as UTF-8"
            )
    if len(set(cells)) < len(cells):
        raise ConfigurationError(f"the file names a column twice: {', '.join(cells)}", where=where)
    missing = sorted({place.text for place in stanza.references} - set(cells))
    if missing:
        raise ConfigurationError(
            f"the file has no column {', '.join(missing)}; its first row is {', '.join(map(repr, cells))}",
            where=where,
            hint="mend the source's columns, or its delimiter, in the meters file",
        )
    return tuple(cells)


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fragment(text: str) -> orjson.Fragment:
    return orjson.Fragment(text.encode())


_decode = msgspec.json.Decoder(float_hook=_fragment).decode


def _json_rows(file: Iterable[bytes]) -> Iterator[tuple[int, Record | DataError]]:
    for row, line in enumerate(file, 1):
        body = line.strip().removeprefix(b"\xef\xbb\xbf") if row == 1 else line.strip()
        if body:
            try:
                yield row, _object(body)
            except DataError as error:
                yield row, DataError("invalid", f"row {row}: {error.detail}")


def _object(body: bytes) -> Record:
    if too_deep(body, MAX_DEPTH):
        raise DataError("invalid", f"found more than {MAX_DEPTH} levels of objects and arrays")
    try:
        record = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError("invalid", f"found no JSON ({error}), expected a JSON object") from None
    if type(record) is not dict:
        raise DataError("invalid", f"found {describe(record)}, expected a JSON object")
    key = repeated_key(body)
    if key is not None:
        raise DataError("invalid", f"found the key {key!r} more than once in one object")
    exact = _exact(record)
    assert isinstance(exact, dict)
    return exact


def _exact(value: object) -> object:
    """orjson writes no int beyond 64 bits, so those go as the digits they are."""
    if type(value) is dict:
        return {key: _exact(item) for key, item in value.items()}
    if type(value) is list:
        return [_exact(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**63:
        return _fragment(str(value))
    return value
