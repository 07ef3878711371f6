"""`check`: the preflight. Is everything there, and as it must be? Each failure says how to mend it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.main import current
from cli.probes import probe_cosmos, probe_kafka, probe_queue
from cli.verdicts import Verdict, failed, judge_cosmos, judge_kafka, judge_queue
from settings import Settings

_LOOKS = {
    "ok": "[green]ok[/]",
    "note": "[cyan]note[/]",
    "unknown": "[yellow]unknown[/]",
    "failed": "[bold red]failed[/]",
}
_AREAS = {"broker": "Event Hubs / Kafka", "servicebus": "Service Bus", "cosmos": "Cosmos DB"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for scripts.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the configured Event Hubs (or Kafka), Service Bus and Cosmos DB before a worker starts.

    \b
    Looked at, and nothing is written: reachability and keys, the five topics and their
    partition counts, append time on the usage topic, the queue with sessions and duplicate
    detection, database and containers with partition key and conflict policy.
      python app.py check
      python app.py check --json | jq '.checks[] | select(.status == "failed")'

    What a key may not see is "unknown", and no failure. Exit code 1 if anything failed, else 0.
    """
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
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    area = ""
    for verdict in verdicts:
        if verdict.area != area:
            area = verdict.area
            table.add_row(f"[bold]{_AREAS[area]}[/]", "", "")
        table.add_row(f"  {escape(verdict.what)}", _LOOKS[verdict.status], escape(verdict.found))
    console.print(table)
    for verdict in verdicts:
        if verdict.mend:
            console.print(
                f"\n{_LOOKS[verdict.status]} {escape(verdict.what)}: {escape(verdict.found)}", highlight=False
            )
            console.print(f"  {verdict.mend}", highlight=False, markup=False, soft_wrap=True)
    if not failed(verdicts):
        console.print("\n[green]Nothing is in a worker's way.[/]")
