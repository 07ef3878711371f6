"""`meters`: validates the meters file and shows what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from cli.main import current
from schemas.definitions import Definitions, Meter
from schemas.durations import format_duration
from schemas.meters import load
from schemas.numbers import format_quantity


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_context
def meters(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Validate FILE, else METERLINE_METERS, else meters.yaml, and print it with every default filled in.

    \b
    What is wrong is listed with file, line, key, what was found and what was expected; the exit code is then 2.
      python app.py meters
      python app.py meters new-meters.yaml
      python app.py meters --json | jq '.meters[].slug'
    """
    path = file or Path(current(ctx).meters)
    definitions = load(path)
    if as_json:
        click.echo(orjson.dumps(plain(definitions)))
    else:
        show(definitions, path, Console(highlight=False))


def plain(definitions: Definitions) -> dict[str, Any]:
    """The definitions as a document in the meters file's own words, plus their `digest`."""
    stream = definitions.stream
    return {
        "digest": definitions.digest,
        "stream": {
            "max_delay": "none" if stream.max_delay_ms is None else format_duration(stream.max_delay_ms),
            "future_tolerance": format_duration(stream.future_tolerance_ms),
            "correct_for": format_duration(stream.correct_for_ms),
            "revise_every": format_duration(stream.revise_every_ms),
        },
        "meters": [_meter(meter) for meter in definitions.meters],
        "sources": sorted(definitions.sources),
    }


def show(definitions: Definitions, path: Path, console: Console) -> None:
    """The definitions as a table for people."""
    document = plain(definitions)
    table = Table(title=str(path), title_justify="left")
    for column in ("meter", "of events", "is", "by", "windows", "grace", "at least", "unit"):
        table.add_column(column)
    for meter in document["meters"]:
        of = meter["aggregation"] + (f" of {meter['value']}" if meter["value"] else "")
        by = "\n".join(f"{name} {pointer}" for name, pointer in meter["group_by"].items())
        table.add_row(
            f"[bold]{meter['slug']}[/]\n[dim]{meter['description']}" if meter["description"] else meter["slug"],
            meter["event_type"],
            of,
            by,
            " ".join(meter["windows"]),
            meter["grace"],
            meter["minimum"] or "",
            meter["unit"],
        )
    console.print(table)
    settings = "  ".join(f"{name} {value}" for name, value in document["stream"].items())
    console.print(f"stream:  {settings}\nsources: {', '.join(document['sources']) or 'none'}")
    console.print(f"digest:  {definitions.digest}", style="dim")


def _meter(meter: Meter) -> dict[str, Any]:
    return {
        "slug": meter.slug,
        "event_type": meter.event_type,
        "aggregation": meter.aggregation,
        "value": meter.value.text if meter.value else None,
        "group_by": {name: pointer.text for name, pointer in meter.group_by},
        "windows": [window.size for window in meter.windows],
        "timezone": meter.timezone,
        "grace": format_duration(meter.grace_ms),
        "minimum": None if meter.minimum is None else format_quantity(meter.minimum),
        "version": meter.version,
        "description": meter.description,
        "unit": meter.unit,
    }
