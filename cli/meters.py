"""`meters`: validates the meters file and shows what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.main import current
from schemas.definitions import Definitions, Meter
from schemas.durations import format_duration
from schemas.meters import load
from schemas.numbers import format_quantity


@click.command(short_help="Validate and print the meters file.")
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
    table = Table(title=str(path), title_justify="left", show_lines=True)
    table.add_column("meter", ratio=2)
    table.add_column("measures", ratio=2)
    table.add_column("windows", no_wrap=True)
    table.add_column("grace", no_wrap=True)
    for meter in document["meters"]:
        unit = f" [dim]({meter['unit']})[/]" if meter["unit"] else ""
        what = (
            meter["aggregation"] + (f" of {meter['value']}" if meter["value"] else "") + f"\nin {meter['event_type']}"
        )
        what += "".join(f"\nby {name} {pointer}" for name, pointer in meter["group_by"].items())
        what += f"\nat least {meter['minimum']}" if meter["minimum"] is not None else ""
        described = f"[bold]{meter['slug']}[/]{unit}\n[dim]{escape(meter['description'])}[/]"
        table.add_row(described, what, "\n".join(meter["windows"]), meter["grace"])
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
