"""`local`: the whole road on this machine, without Docker and without Azure."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import orjson
import yaml
from rich.console import Console
from rich.table import Table

from cli.invoices import line
from cli.judgement import told, until_signal
from cli.main import current
from local.checking import Mismatch
from local.demo import Demo, cleared
from local.foreground import serve
from local.ledger import Expected, Key
from local.once import Check, Feed, Options, Report, generated, once
from local.reading import Rules
from local.stack import Stack
from schemas.errors import ConfigurationError
from settings import Settings


@click.command(short_help="The whole road on this machine: servers, worker, usage, dashboard.")
@click.option("--once", "only_once", is_flag=True, help="Run to the end, check every number, and stop.")
@click.option("--chaos", is_flag=True, help="The same while workers and servers are killed, frozen and rescaled.")
@click.option("--seconds", default=30.0, show_default=True, type=click.FloatRange(5), help="Of usage, with --chaos.")
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(min=1), help="How many, with --once.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same usage (and misfortunes).")
@click.option("--json", "as_json", is_flag=True, help="With --once, --chaos: one JSON object, nothing else.")
@click.option(
    "--input", "input_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="With --once: this CSV."
)
@click.option("--source", help="The stanza of the meters file that reads --input.")
@click.option("--stack-only", is_flag=True, help="Broker, Service Bus and Cosmos DB; no worker, no generator.")
@click.option(
    "--only", type=click.Choice(["broker", "servicebus", "cosmos"]), help="Just this part; implies --stack-only."
)
@click.option("--env-file", type=click.Path(path_type=Path), help="Write the settings there once everything answers.")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1024), help="Of the usage topic.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 32), help="Worker processes.")
@click.option("--no-generator", is_flag=True, help="Send nothing; you do.")
@click.option("--rate", default=25.0, show_default=True, type=click.FloatRange(0.1), help="Events a second.")
@click.option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of the embedded broker.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Messages, documents, logs. [METERLINE_DATA_DIR]")
@click.option("--meters", type=click.Path(path_type=Path), help="The meters file. [METERLINE_METERS, meters.yaml]")
@click.pass_context
def local(ctx: click.Context, /, **options: Any) -> None:
    """Everything on this machine: broker, Service Bus, Cosmos DB in two regions, worker, dashboard, usage.

    \b
    Watch usage become invoices; Ctrl-C ends all of it:
      python app.py local
      python app.py local --workers 2 --rate 200
    \b
    The same road to its end, every message and document compared with an independent ledger (exit code 0: all equal):
      python app.py local --once --events 20000
      python app.py local --once --json --input usage.csv --source my-source
    \b
    The same while workers and servers are killed, frozen, restarted and rescaled, at moments that a seed decides:
      python app.py local --chaos --seconds 30 --seed 7
    \b
    Only the servers, for a worker or a client of your own:
      python app.py local --stack-only --env-file stack.env
      python app.py --settings stack.env worker
      python app.py local --only cosmos --env-file cosmos.env
    """
    base = current(ctx)
    if options["meters"]:
        base = replace(base, meters=str(options["meters"]))
    if options["chaos"]:
        if options["only_once"] or options["input_file"] or options["source"]:
            raise click.UsageError("--chaos generates its own usage: without --once, --input and --source")
        from cli.chaos import run

        ctx.exit(run(base, **{name: options[name] for name in _CHAOS}))
    if options["only_once"]:
        ctx.exit(_once(base, **{name: options[name] for name in _ONCE}))
    for name in ("as_json", "input_file", "source"):
        if options[name]:
            raise click.UsageError(f"--{name.removeprefix('as_').removesuffix('_file')} goes with --once")
    if options["stack_only"] or options["only"]:
        directory = options["data_dir"] or Path(base.data_dir)
        stack = Stack(directory, options["only"], options["kafka"], options["partitions"], base=base)
        _warn_of_the_past(stack)
        ctx.exit(asyncio.run(serve(stack, options["env_file"], _say_ready)))
    ctx.exit(_demo(base, **{name: options[name] for name in _DEMO}))


_ONCE = ("events", "seed", "as_json", "input_file", "source", "partitions", "workers", "kafka", "data_dir")
_CHAOS = ("seconds", "seed", "as_json", "partitions", "kafka", "data_dir")
_DEMO = ("env_file", "partitions", "workers", "no_generator", "rate", "kafka", "data_dir", "seed")


def _demo(
    base: Settings,
    env_file: Path | None,
    partitions: int,
    workers: int,
    no_generator: bool,
    rate: float,
    kafka: str | None,
    data_dir: Path | None,
    seed: int,
) -> int:
    if data_dir is None and base.data_dir == Settings().data_dir and kafka is None:
        data_dir = cleared(Path(base.data_dir) / "demo")
    stack = Stack(data_dir or Path(base.data_dir), None, kafka, partitions, base=base)
    _warn_of_the_past(stack)
    demo = Demo(stack, workers=workers, rate=None if no_generator else rate, seed=seed, env_file=env_file, render=line)
    return asyncio.run(demo.run(Console(highlight=False)))


def _warn_of_the_past(stack: Stack) -> None:
    """Messages and documents outlive the embedded broker's log; usage of the same windows would contradict them."""
    if "broker" in stack.parts and any((stack.data_dir / part).is_dir() for part in stack.parts - {"broker"}):
        click.echo(
            f"note: {stack.data_dir} holds messages and documents of an earlier run, but the embedded broker keeps its log"
            " in memory and begins empty. Usage for windows of that time would contradict them: send newer usage, or begin"
            " with another --data-dir.",
            err=True,
        )


def _once(
    base: Settings,
    events: int,
    seed: int,
    as_json: bool,
    input_file: Path | None,
    source: str | None,
    partitions: int,
    workers: int,
    kafka: str | None,
    data_dir: Path | None,
) -> int:
    meters = Path(base.meters)
    if (input_file is None) != (source is None):
        raise click.UsageError("--input and --source go together: the file, and the stanza that reads it")
    directory = data_dir or Path(tempfile.mkdtemp(prefix="meterline-"))
    options = Options(directory, meters, partitions, workers, kafka)
    stderr = Console(stderr=True, highlight=False)
    feed, check = _feed(base, meters, events, seed, input_file, source)
    if as_json:
        report = asyncio.run(until_signal(once(options, base, feed, _quiet, check)))
    else:
        with stderr.status("starting") as status:
            report = asyncio.run(until_signal(once(options, base, feed, status.update, check)))
    if data_dir is None and (report is None or report.good):
        shutil.rmtree(directory, ignore_errors=True)  # kept only where there is something to look at
    if report is None:
        return 130
    if as_json:
        click.echo(orjson.dumps(report.numbers))
    else:
        _summary(report)
    if report.good:
        return 0
    told(report.mismatches, directory)
    return 1


def _feed(
    base: Settings, meters: Path, events: int, seed: int, input_file: Path | None, source: str | None
) -> tuple[Feed, Check | None]:
    if not meters.is_file():
        raise ConfigurationError(
            f"there is no file {meters}", where="METERLINE_METERS", hint="name it: --meters PATH, or METERLINE_METERS"
        )
    document = yaml.safe_load(meters.read_text())
    if input_file is None or source is None:
        return generated(Rules.of(document), events, seed), None
    from cli.feeding import file_feed
    from local.csv_reading import expectation

    bad: list[tuple[int, str]] = []
    expected = expectation(document, input_file, source)

    def check(rules: Rules, windows: Mapping[Key, Expected], of: int) -> list[Mismatch]:
        """A row that was not sent is usage that nobody is billed for: it is told, and the run is no success."""
        return [Mismatch(f"{input_file} row {row}", "event", "one", reason) for row, reason in bad] + expected(
            rules, windows, of
        )

    return file_feed(meters, input_file, source, bad), check


async def _say_ready(stack: Stack) -> None:
    parts = ", ".join(stack.processes)
    print(f"ready: {parts}; data and logs in {stack.data_dir}; Ctrl-C ends it", file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    """With --json nothing is said but the result; -v shows the steps."""
    logging.getLogger("meterline.once").info(text)


def _summary(report: Report) -> None:
    console = Console(highlight=False)
    numbers = dict(report.numbers)
    sums = numbers.pop("totals")
    table = Table("", "", show_header=False, box=None)
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    console.print(table)
    table = Table("meter", "window", "sum of the final values")
    for meter, sizes in sums.items():
        for size, value in sizes.items():
            table.add_row(meter, size, value)
    console.print(table)
    good = "[green]every message and document equals the independent ledger, decimal for decimal"
    console.print(good if report.good else f"[red]{len(report.mismatches)} mismatches")
