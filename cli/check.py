"""`check`: the preflight. Is everything there, and as it must be? Each failure says how to mend it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.capacity import Load, needs, table
from cli.main import current
from cli.probes import probe_cosmos, probe_kafka, probe_queue
from cli.verdicts import Verdict, failed, judge_cosmos, judge_kafka, judge_queue
from schemas.meters import load as load_meters
from schemas.partials import RECORD_MAX
from settings import Settings

_LOOKS = {
    "ok": "[green]ok[/]",
    "note": "[cyan]note[/]",
    "unknown": "[yellow]unknown[/]",
    "failed": "[bold red]failed[/]",
}
_AREAS = {"broker": "Event Hubs / Kafka", "servicebus": "Service Bus", "cosmos": "Cosmos DB"}


class _Finite(click.FloatRange):
    """A number above zero that is not beyond all measure; NaN and infinity are none."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1e12, min_open=True)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of events.", param, ctx)
        return number


class _Share(click.ParamType):
    """An event type and its share of the events."""

    name = "TYPE=SHARE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        event_type, _, text = str(value).rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not event_type or not 0 < share <= 1:
            self.fail(f"{value} is no type with its share from above 0 to 1, like llm.inference=0.8.", param, ctx)
        return event_type, share


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for scripts.")
@click.option("--load", "events_s", type=_Finite(), help="Events a second: what they would need.")
@click.option(
    "--keys",
    type=click.IntRange(1, 10**12),
    default=1000,
    show_default=True,
    help="Subjects times groups, with --load.",
)
@click.option(
    "--event-bytes",
    type=click.IntRange(100, 1_000_000),
    default=220,
    show_default=True,
    help="Of one event, with --load.",
)
@click.option(
    "--envelope", type=click.IntRange(min=1), default=1, show_default=True, help="Events a record (64 KB), with --load."
)
@click.option(
    "--producers",
    type=click.IntRange(1, 10**6),
    default=10,
    show_default=True,
    help="Processes that send envelopes with our client, with --load.",
)
@click.option("--type", "mix", type=_Share(), multiple=True, help="Of the events, as llm.inference=0.8, with --load.")
@click.pass_context
def check(
    ctx: click.Context,
    as_json: bool,
    events_s: float | None,
    keys: int,
    event_bytes: int,
    envelope: int,
    producers: int,
    mix: tuple[tuple[str, float], ...],
) -> None:
    """Check the configured Event Hubs (or Kafka), Service Bus and Cosmos DB before a worker starts.

    \b
    Looked at, and nothing is written: reachability and keys, the five topics and their
    partition counts, append time on the usage topic, the queue with sessions and duplicate
    detection, database and containers with partition key and conflict policy.
      python app.py check
      python app.py check --json | jq '.checks[] | select(.status == "failed")'

    What a key may not see is "unknown", and no failure. Exit code 1 if anything failed, else 0.

    
    With --load nothing is connected to: what such a load needs is computed from the meters file
    and the settings, for 4 partitions of usage and of partials and 2 regions; of each metered
    type alike, unless --type says otherwise. Exit code 1 if it is more than a Standard namespace has.
      python app.py check --load 20000 --keys 100000 --envelope 250
      python app.py check --load 20000 --type llm.inference=0.8 --type api.request=0.2
    """
    if events_s is None:
        for name in ("keys", "event_bytes", "envelope", "producers", "mix"):
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                option = "type" if name == "mix" else name.replace("_", "-")
                raise click.UsageError(f"--{option} says more of a load: --load is missing.")
    else:
        if envelope > 1 and envelope * event_bytes > RECORD_MAX:
            raise click.UsageError(
                f"{envelope} events of {event_bytes} bytes are more than the {RECORD_MAX:,} bytes of a record: "
                f"--envelope {max(1, RECORD_MAX // event_bytes)} is the most."
            )
        load = Load(events_s, keys, event_bytes, envelope, producers, mix=mix)
        need = needs(load, load_meters(Path(current(ctx).meters)), current(ctx))
        if as_json:
            click.echo(json.dumps(asdict(need), indent=1))
        else:
            Console(highlight=False).print(table(load, need, current(ctx).ids_memory_mb))
        ctx.exit(0 if need.fits else 1)
    verdicts = asyncio.run(examine(current(ctx)))
    if as_json:
        ok = not failed(verdicts)
        click.echo(json.dumps({"ok": ok, "checks": [asdict(verdict) for verdict in verdicts]}, indent=1))
    else:
        show(verdicts, Console())
    ctx.exit(1 if failed(verdicts) else 0)


async def examine(settings: Settings) -> list[Verdict]:
    """All verdicts, the three services asked at once."""
    kafka, queue, cosmos = await asyncio.gather(probe_kafka(settings), probe_queue(settings), probe_cosmos(settings))
    return [*judge_kafka(kafka, settings), *judge_queue(queue, settings), *judge_cosmos(cosmos, settings)]


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """The verdicts as a table, and below it what is to be done, whole: a command in a table cell cannot be copied."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    area = ""
    for verdict in verdicts:
        if verdict.area != area:
            area = verdict.area
            shown.add_row(f"[bold]{_AREAS[area]}[/]", "", "")
        shown.add_row(f"  {escape(verdict.what)}", _LOOKS[verdict.status], escape(verdict.found))
    console.print(shown)
    for verdict in verdicts:
        if verdict.mend:
            console.print(
                f"\n{_LOOKS[verdict.status]} {escape(verdict.what)}: {escape(verdict.found)}", highlight=False
            )
            console.print(f"  {verdict.mend}", highlight=False, markup=False, soft_wrap=True)
    if not failed(verdicts):
        console.print("\n[green]Nothing is in a worker's way.[/]")
