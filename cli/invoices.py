"""`invoices`: shows invoice messages as they come, as an invoicing system would receive them."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console
from rich.text import Text

from cli.main import current
from local.foreground import stop_signals
from settings import Settings
from sinks.receiving import InvoiceMessage, peek, receive


@click.command(short_help="Print invoice messages as they come.")
@click.option("--json", "as_json", is_flag=True, help="One document per line, exactly as received.")
@click.option("--peek", "only_peek", is_flag=True, help="Show what is in the queue now and leave it there.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.pass_context
def invoices(ctx: click.Context, as_json: bool, only_peek: bool, count: int | None) -> None:
    """Print invoice messages from the Service Bus queue as they come; each is completed once it is printed.

    \b
    Messages of one subject (its session) come in order. A window's highest revision is what counts:
    `value` is its new total, `delta` what changed since the revision before.
      python app.py invoices                     until Ctrl-C
      python app.py invoices --peek              look, and leave everything there
      python app.py invoices --json --count 10 | jq .value
    """
    asyncio.run(_run(current(ctx), Shown(as_json, count), only_peek))


async def _run(settings: Settings, shown: Shown, only_peek: bool) -> None:
    if only_peek:
        if not await peek(settings, shown):
            click.echo("the queue is empty", err=True)
        return
    with stop_signals() as stop:
        shown.done = stop
        # With --count one session at a time, so that nothing is received, and locked, that will not be printed.
        await receive(settings, shown, sessions=4 if shown.count is None else 1, stop=stop)


class Shown:
    """Prints messages, at most `count` of them; `done` is set with the last one."""

    def __init__(self, as_json: bool, count: int | None) -> None:
        self.count = count
        self.done = asyncio.Event()
        self._as_json = as_json
        self._left = count
        self._console = Console(highlight=False)

    def __call__(self, message: InvoiceMessage) -> None:
        """Print one message."""
        if self._left == 0:
            return
        if self._as_json:
            click.echo(message.raw)
        else:
            self._console.print(line(message.body), soft_wrap=True)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.done.set()


def line(document: dict[str, object]) -> Text:
    """A window's document as one readable line."""
    group = document["group"]
    assert isinstance(group, dict)
    labels = " ".join(f"{name}={value}" for name, value in group.items())
    delta = str(document["delta"])
    changed = "" if document["revision"] == 1 else f" ({'' if delta.startswith('-') else '+'}{delta})"
    return Text.assemble(
        (f"{document['window_start']} ", "dim"),
        (f"{document['window_size']:<5} ", "cyan"),
        (f"{document['subject']} ", "bold"),
        f"{document['meter']} ",
        (f"{labels} " if labels else "", "dim"),
        (f"{document['value']}{changed}", "green" if document["revision"] == 1 else "yellow"),
        (f"  r{document['revision']} {document['reason']}, {document['events']} events", "dim"),
    )
