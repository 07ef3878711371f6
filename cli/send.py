"""`send`: a file of usage records, through a source stanza, into the usage topic."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.feeding import Fed, feed, final_ms, named_source, now_ms
from cli.main import current
from schemas.definitions import Definitions
from schemas.meters import load
from schemas.sources import Source
from schemas.times import format_rfc3339
from settings import Settings
from transport.sending import UsageProducer

SHOWN_BAD_ROWS = 20


@click.command(short_help="A CSV or NDJSON file of usage into the stream.")
@click.argument("file", type=click.File("rb"))
@click.option("--source", "name", required=True, help="The stanza of the meters file that reads FILE.")
@click.option("--amqp", is_flag=True, help="Over AMQP, with Azure's SDK, instead of Kafka.")
@click.option("--final", is_flag=True, help="End with ticks of the data's own time, so that its windows close.")
@click.pass_context
def send(ctx: click.Context, file: BinaryIO, name: str, amqp: bool, final: bool) -> None:
    """Send FILE (CSV or NDJSON; `-` is stdin) as usage events, packed into envelopes, keyed by subject.

    \b
    The stanza says how a record becomes an event; no code is needed. Bad rows are reported at the end and do not stop the
    others; the exit code is then 1. Sending a file again is safe: its events are recognised and not counted twice.
      python app.py send usage.csv --source my-source
      python app.py send old.csv --source my-source --final        an import; workers with `max_delay: none`
      zcat usage.ndjson.gz | python app.py send - --source my-json
      python app.py send usage.csv --source my-source --amqp
    """
    settings = current(ctx)
    meters = Path(settings.meters)
    definitions = load(meters)
    source = named_source(definitions, name, meters)
    console = Console(stderr=True, highlight=False)
    fed, tick_ms = asyncio.run(_send(settings, definitions, source, file, amqp=amqp, final=final, console=console))
    report(fed, tick_ms, console)
    if fed.bad_rows:
        ctx.exit(1)


async def _send(
    settings: Settings,
    definitions: Definitions,
    source: Source,
    file: BinaryIO,
    *,
    amqp: bool,
    final: bool,
    console: Console,
) -> tuple[Fed, int | None]:
    if amqp:
        from transport.amqp import AmqpProducer

        entered: UsageProducer | AmqpProducer = AmqpProducer(settings)
    else:
        entered = UsageProducer(settings)
    async with entered as producer:
        with _progress(console) as progress:
            task = progress.add_task(getattr(file, "name", "stdin"), total=_size(file))
            fed = await feed(producer, source, file, lambda size: progress.advance(task, size))
        tick_ms = final_ms(definitions, fed.latest_ms, now_ms()) if final else None
        if tick_ms is not None:
            await producer.tick(tick_ms, "/meterline/send")
        return fed, tick_ms


def report(fed: Fed, tick_ms: int | None, console: Console) -> None:
    """What was sent, and which rows were not, and why."""
    console.print(f"{fed.events:,} events sent in {fed.records:,} records")
    if tick_ms is not None:
        console.print(f"ended with ticks at {format_rfc3339(tick_ms)}")
    if not fed.bad_rows:
        return
    console.print(f"[yellow]{fed.bad_rows:,} rows were not sent:")
    for _, reason in fed.bad[:SHOWN_BAD_ROWS]:
        console.print(f"  {reason}", markup=False, soft_wrap=True)
    if fed.bad_rows > SHOWN_BAD_ROWS:
        console.print(f"  … and {fed.bad_rows - SHOWN_BAD_ROWS:,} more")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _size(file: BinaryIO) -> int | None:
    """Bytes of the file; None where that is not known, as of a pipe."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except (OSError, ValueError):
        return None
