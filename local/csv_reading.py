"""An independent reading of a CSV file: what must come of it, worked out from the rows and the plain stanza.

It shares nothing with `schemas/sources.py` and nothing with what was sent: the `csv` module, the stanza's own words, and
the ledger's rules, which judge the rows as events in the file's order.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from local.checking import Mismatch
from local.ledger import Expected, Key, Ledger
from local.reading import Record, Rules
from schemas.hashing import partition_for

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z", re.ASCII)
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


def expectation(
    document: Mapping[str, Any], path: Path, source: str
) -> Callable[[Rules, Mapping[Key, Expected], int], list[Mismatch]]:
    """The check of an import: that the windows are those of the CSV file, read anew.

    document: the meters file as plain YAML. What it returns takes the rules, the windows to check and the usage topic's
    partitions.
    """
    stanza = (document.get("sources") or {}).get(source) or {}

    def check(rules: Rules, windows: Mapping[Key, Expected], partitions: int) -> list[Mismatch]:
        ledger = Ledger(rules)
        now_ms = time.time_ns() // 1_000_000
        for row, event in enumerate(events(stanza, source, path)):
            partition = partition_for(event["subject"], partitions)
            ledger.judge_events(Record(partition, row, now_ms, None), [event])
        own = ledger.windows()
        return [
            Mismatch(
                f"{path.name}: {key.meter} {key.size} at {key.start_ms}", "read anew", own.get(key), windows.get(key)
            )
            for key in sorted({*own, *windows}, key=str)
            if own.get(key) != windows.get(key)
        ]

    return check


def events(stanza: Mapping[str, Any], source: str, path: Path) -> Iterator[dict[str, Any]]:
    """The rows as events, numbers as Decimal; a row whose time cannot be read is left out, as `send` does."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = stanza.get("columns")
        rows = csv.DictReader(file, fieldnames=columns, delimiter=stanza.get("delimiter", ","))
        for number, cells in enumerate(rows, start=1 if columns else 2):
            row = {**cells, "row": str(number), "hash": repr(sorted(cells.items()))}
            try:
                yield {
                    "specversion": "1.0",
                    "id": _filled(stanza.get("id", "{row}-{hash}"), row),
                    "source": _filled(stanza.get("source", f"/sources/{source}"), row),
                    "type": _filled(stanza["type"], row),
                    "subject": _filled(stanza["subject"], row),
                    "time": _time(stanza["time"], row),
                    "data": {name: _item(item, row) for name, item in stanza["data"].items()},
                }
            except (ValueError, KeyError, ArithmeticError):
                continue


def _filled(template: str, row: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: row[place[1]] if place[1] else place[0][0], template)


def _time(field: Any, row: Mapping[str, str]) -> str:
    if isinstance(field, str):
        return row[field]
    text, form = row[field["from"]], field.get("format", "rfc3339")
    if form == "rfc3339":
        return text
    if form in ("epoch_s", "epoch_ms"):
        ms = int(Decimal(text) * (1000 if form == "epoch_s" else 1))
        moment, fraction = datetime.fromtimestamp(ms // 1000, UTC), f"{ms % 1000:03d}"
    else:
        fraction = ""
        if form.endswith(".%f"):  # strptime takes six digits at most, and files have seven or nine
            form = form.removesuffix(".%f")
            text, _, fraction = text.rpartition(".")
        moment = datetime.strptime(text, form)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC) - _offset(field.get("timezone", "UTC"))
        moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction or '0'}Z"


def _offset(zone: str) -> timedelta:
    if zone == "UTC":
        return timedelta(0)
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _item(item: Any, row: Mapping[str, str]) -> Any:
    if isinstance(item, str):
        item = {"from": item}
    if "constant" in item:
        constant = item["constant"]
        return constant if isinstance(constant, str | bool) else Decimal(str(constant))
    text = row[item["from"]]
    kind = item.get("as", "any")
    if text == "" and "default" in item:
        default = item["default"]
        return Decimal(str(default)) if kind == "number" else default
    return Decimal(text) if kind == "number" and _NUMBER.match(text) else text
