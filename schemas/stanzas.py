"""The `sources:` stanzas of the meters file: what may be written there, and what each problem is called."""

from __future__ import annotations

from typing import Literal, cast

from schemas.events import RESERVED_PREFIX
from schemas.sources import Item, Reference, Source, Template, json_number
from schemas.stamps import NAMED, Stamp
from schemas.yamlfile import Field

_KEYS = ("format", "delimiter", "columns", "type", "source", "subject", "id", "time", "data")
_TIME_KEYS = ("from", "format", "timezone")
_ITEM_KEYS = ("from", "as", "default", "constant")
_KINDS = ("text", "number")

_Format = Literal["csv", "ndjson"]


def read_source(name: str, field: Field) -> Source | None:
    """The source that a stanza describes; None after a problem, which the file keeps.

    Left out: `delimiter` is a comma; `columns` come from the first row; `source` is `/sources/NAME`; `id` is
    `{row}-{hash}`, so that a file sent twice counts once.
    """
    entries = field.keys(_KEYS, "a source: a mapping with format, type, subject, time and data")
    if field.kind != "mapping":
        return None
    missing = [key for key in ("format", "type", "subject", "time", "data") if key not in entries]
    for key in missing:
        field.problem(f"{key} is missing, every source needs one")
    format = entries["format"].choice(("csv", "ndjson")) if "format" in entries else None
    if format is None or missing:
        return None
    kind = cast(_Format, format)
    if kind == "ndjson":
        for key in ("delimiter", "columns"):
            if key in entries:
                entries[key].problem(f"{key} belongs to csv, expected none")
    templates = {
        key: _template(entries.get(key), default, kind)
        for key, default in (("type", ""), ("source", f"/sources/{name}"), ("subject", ""), ("id", "{row}-{hash}"))
    }
    type_ = templates["type"]
    if type_ is not None and type_.text.startswith(RESERVED_PREFIX):
        entries["type"].problem(f"found {type_.text!r}, but types {RESERVED_PREFIX}* are the stream's own")
    delimiter = entries["delimiter"].parsed(_delimiter, "one character, like ;") if "delimiter" in entries else ","
    columns = _columns(entries["columns"]) if "columns" in entries else ()
    time, stamp = _time(entries["time"], kind)
    data = _data(entries["data"], kind)
    if None in (*templates.values(), delimiter, time, stamp):
        return None
    source = Source(
        name=name,
        format=kind,
        type=cast(Template, templates["type"]),
        source=cast(Template, templates["source"]),
        subject=cast(Template, templates["subject"]),
        id=cast(Template, templates["id"]),
        time=cast(Reference, time),
        stamp=cast(Stamp, stamp),
        data=data,
        delimiter=delimiter or ",",
        columns=columns,
    )
    if columns:
        for place in source.references:
            if place.text not in columns:
                field.problem(f"{place.text!r} is not one of the columns {', '.join(columns)}")
    return source


def _template(field: Field | None, default: str, format: _Format) -> Template | None:
    if field is None:
        return Template.parse(default, format)
    return field.parsed(lambda text: Template.parse(_not_empty(text), format), "a text")


def _reference(field: Field, format: _Format) -> Reference | None:
    expected = "a column" if format == "csv" else "a JSON pointer, like /tokens"
    return field.parsed(lambda text: Reference.parse(text, format), expected)


def _time(field: Field, format: _Format) -> tuple[Reference | None, Stamp | None]:
    if field.kind != "mapping":
        return _reference(field, format), Stamp()
    entries = field.keys(_TIME_KEYS, "a mapping with from")
    if "from" not in entries:
        field.problem("from is missing, expected where the time is")
        return None, None
    written = entries["format"].text(f"{', '.join(NAMED)} or a pattern") if "format" in entries else "rfc3339"
    zone = entries["timezone"].text("UTC or an offset like +02:00") if "timezone" in entries else "UTC"
    stamp = None
    if written is not None and zone is not None:
        if "timezone" in entries and (written in NAMED or "%z" in written):
            entries["timezone"].problem(f"the format {written} says the zone itself, expected none here")
        for key, text in (("format", written), ("timezone", zone)):
            try:
                stamp = Stamp(text) if key == "format" else Stamp(timezone=text)
            except ValueError as error:
                entries[key].problem(str(error))
                return _reference(entries["from"], format), None
        stamp = Stamp(written, zone)
    return _reference(entries["from"], format), stamp


def _data(field: Field, format: _Format) -> tuple[tuple[str, Item], ...]:
    entries = field.entries("a mapping of names to columns" if format == "csv" else "a mapping of names to pointers")
    if not entries and field.kind == "mapping":
        field.problem("the mapping is empty, expected at least one entry")
    items = [(name, _item(entry, format)) for name, entry in entries.items()]
    return tuple([(name, item) for name, item in items if item is not None])


def _item(field: Field, format: _Format) -> Item | None:
    if field.kind != "mapping":
        reference = _reference(field, format)
        return None if reference is None else Item(reference)
    entries = field.keys(_ITEM_KEYS, "a mapping with from or constant")
    if ("from" in entries) == ("constant" in entries):
        field.problem("expected either from (a column or pointer) or constant (a value)")
        return None
    if "constant" in entries:
        for key in ("as", "default"):
            if key in entries:
                entries[key].problem("a constant is what it is, expected none")
        return Item(None, constant=_constant(entries["constant"]))
    reference = _reference(entries["from"], format)
    kind = entries["as"].choice(_KINDS) if "as" in entries else "any"
    default = _constant(entries["default"]) if "default" in entries else None
    if reference is None or kind is None:
        return None
    if kind == "number" and default is not None:
        entries["default"].number(json_number, "a decimal number")
    return Item(reference, cast(Literal["text", "number", "any"], kind), default)


def _constant(field: Field) -> object:
    """A text, a number exactly as written, or true and false; None after a problem."""
    if field.kind == "bool":
        return str(field.node.value).lower() in ("true", "yes", "on")
    if field.kind in ("int", "float"):
        return field.number(json_number, "a number as JSON writes it")
    return field.text("a text, a number, true or false")


def _columns(field: Field) -> tuple[str, ...]:
    columns: list[str] = []
    for entry in field.items("a list of column names"):
        column = entry.text("a column name")
        if column is None:
            continue
        if column in columns:
            entry.problem(f"found {column!r} again, expected each column once")
        columns.append(column)
    return tuple(columns)


def _delimiter(text: str) -> str:
    if len(text) != 1 or text in '"\r\n':
        raise ValueError(f"found {text!r}, expected one character, like ; or a tab in double quotes")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("found an empty text, expected one")
    return text
