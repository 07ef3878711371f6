"""`mend`: what a partition that stopped needs, to go on without a wrong number (docs/mending.md)."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.markup import escape

from cli.main import current
from schemas.errors import PartitionStopped
from schemas.meters import load as load_meters
from settings import Settings
from streams.deployment import SINKS, Deployment, StageName
from streams.diagnosis import NEW_TOPICS, Diagnosis, diagnose
from streams.driver import drive
from streams.mending import Mended, accept_gap, mend_offset, rebuild, resend, unpark
from streams.metering import Topics
from tables.effects import Procedure
from transport.outside import Outside

T = TypeVar("T")
BESIDE_WORKERS = 2
"""How often more a partition is read that looks stopped while workers run: a checkpoint may have come in between."""
_LOOKS = {"fine": "[green]fine[/]", "new": "[cyan]new[/]", "stopped": "[bold red]stopped[/]"}
_stage = click.argument("stage", type=click.Choice(["metering", "closing"]))
_partition = click.argument("partition", type=click.IntRange(min=0))
_partitions = click.argument("partition", metavar="PARTITION|all")


@click.group(short_help="What a stopped partition needs.", invoke_without_command=True)
@click.pass_context
def mend(ctx: click.Context) -> None:
    """Say how each partition is, and mend those that stopped. docs/mending.md explains every case.

    \b
    With the workers stopped (all but `show` and `resend` refuse to run beside them):
      python app.py mend                                    how is each partition, and what mends it?
      python app.py mend offset metering 3                  commit what the changelog proves
      python app.py mend rebuild closing all                fold the source log again, and write the state
      python app.py mend accept-gap metering 3 --to 4711    go on behind what is gone; the audit shows it
      python app.py mend resend all                         send all live partials again
      python app.py mend unpark 0                           deliver again what a sink refused for good

    Nothing is written where the result would not be proven. Exit code 1 where something is stopped, or was refused.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@mend.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for scripts.")
@click.pass_context
def show(ctx: click.Context, as_json: bool = False) -> None:
    """Say of every partition whether it can go on, why not, and which command mends it. Writes nothing."""
    found, members = _run(current(ctx), _look)
    stopped = any(one.state == "stopped" for one in found)
    if as_json:
        click.echo(
            json.dumps({"ok": not stopped, "workers": members, "partitions": list(map(asdict, found))}, indent=1)
        )
    else:
        _tell(found, members, Console())
    ctx.exit(1 if stopped else 0)


@mend.command()
@_stage
@_partitions
@click.pass_context
def offset(ctx: click.Context, stage: StageName, partition: str) -> None:
    """Commit the newest offset that the changelog proves: where the group's is missing, or leads nowhere.

    `all`: of every partition that this mends.
    """
    _alone(ctx, stage, partition, "offset", mend_offset)


@mend.command("rebuild")
@_stage
@_partitions
@click.option(
    "--same-definitions",
    is_flag=True,
    help="Vouch for the meters file being the one the deployment began with, where no changelog is left that says so.",
)
@click.pass_context
def rebuild_(ctx: click.Context, stage: StageName, partition: str, same_definitions: bool) -> None:
    """Fold the source log again from where the partition began, write its state, commit.

    `all`: of every partition that this mends.
    """
    _alone(ctx, stage, partition, "rebuild", partial(rebuild, same_definitions=same_definitions))


@mend.command("accept-gap")
@_stage
@_partition
@click.option("--to", type=click.IntRange(min=1), required=True, help="The first offset to be counted again.")
@click.option("--reason", default="", help="Why, for whoever reads the audit.")
@click.pass_context
def accept_gap_(ctx: click.Context, stage: StageName, partition: int, to: int, reason: str) -> None:
    """Go on behind offsets that are gone or cannot be counted; /v1/audit shows them from then on."""
    now_ms = time.time_ns() // 1_000_000
    _alone(ctx, stage, str(partition), "accept-gap", partial(accept_gap, to=to, reason=reason, now_ms=now_ms))


@mend.command("resend")
@click.argument("partition", metavar="PARTITION|all")
@click.pass_context
def resend_(ctx: click.Context, partition: str) -> None:
    """Send all live partials of a usage partition again, whole. Harmless at any time, beside running workers too."""
    only = None if partition == "all" else _number(partition)

    async def send(outside: Outside, deployment: Deployment) -> list[Mended]:
        return [await again(outside, deployment, chosen) for chosen in _chosen(deployment, "metering", only)]

    async def again(outside: Outside, deployment: Deployment, chosen: int) -> Mended:
        for _ in range(BESIDE_WORKERS):
            try:
                return await _perform(outside, deployment, "metering", chosen, resend(deployment, chosen))
            except PartitionStopped:
                if not await outside.members():
                    break
        return await _perform(outside, deployment, "metering", chosen, resend(deployment, chosen))

    _say(_run(current(ctx), send))


@mend.command("unpark")
@click.argument("partition", metavar="PARTITION|all")
@click.option("--sink", type=click.Choice(SINKS), help="Only what this one refused.")
@click.pass_context
def unpark_(ctx: click.Context, partition: str, sink: str | None) -> None:
    """Have revisions that a sink refused for good delivered again, once the reason of its refusal is gone."""
    only = None if partition == "all" else _number(partition)

    async def send(outside: Outside, deployment: Deployment) -> list[Mended]:
        await outside.must_be_empty()
        chosen = _chosen(deployment, "closing", only)
        return [await _perform(outside, deployment, "closing", p, unpark(deployment, p, sink)) for p in chosen]

    _say(_run(current(ctx), send))


def _alone(
    ctx: click.Context,
    stage: StageName,
    partition: str,
    what: str,
    procedure: Callable[[Deployment, StageName, int], Procedure[Mended]],
) -> None:
    """Performs a mending of one partition, or of all that it mends, if no worker runs, and says what came of it."""
    only = None if partition == "all" else _number(partition)

    async def perform(outside: Outside, deployment: Deployment) -> list[Mended]:
        await outside.must_be_empty()
        done = []
        for chosen in _chosen(deployment, stage, only):
            if only is None:
                found = await _perform(outside, deployment, stage, chosen, diagnose(deployment, stage, chosen, 0))
                if f"mend {what} {stage} {chosen}" not in found.commands:
                    continue
            done.append(await _perform(outside, deployment, stage, chosen, procedure(deployment, stage, chosen)))
        return done or [Mended(f"no partition of {stage} is stopped by what `mend {what}` mends")]

    _say(_run(current(ctx), perform))


async def _look(outside: Outside, deployment: Deployment) -> tuple[list[Diagnosis], int]:
    members = await outside.members()
    stages: tuple[StageName, ...] = ("metering", "closing")

    async def look(stage: StageName, partition: int) -> Diagnosis:
        found = await _perform(outside, deployment, stage, partition, diagnose(deployment, stage, partition))
        for _ in range(BESIDE_WORKERS if members else 0):
            if found.state != "stopped":
                break
            found = await _perform(outside, deployment, stage, partition, diagnose(deployment, stage, partition))
        return found

    return [await look(stage, partition) for stage in stages for partition in deployment.partitions(stage)], members


def _run(settings: Settings, work: Callable[[Outside, Deployment], Awaitable[T]]) -> T:
    definitions = load_meters(Path(settings.meters))

    async def connected() -> T:
        async with Outside(settings) as outside:
            s = settings
            deployment = Deployment(
                definitions,
                Topics(s.usage_topic, s.partials_topic, s.dead_letters_topic),
                s.metering_state_topic,
                s.closing_state_topic,
                await outside.broker.partitions(s.usage_topic),
                await outside.broker.partitions(s.partials_topic),
                f"mend-{secrets.token_hex(6)}",
            )
            for topic in (s.metering_state_topic, s.closing_state_topic, s.dead_letters_topic):
                await outside.broker.partitions(topic)
            return await work(outside, deployment)

    return asyncio.run(connected())


async def _perform(
    outside: Outside, deployment: Deployment, stage: StageName, partition: int, procedure: Procedure[T]
) -> T:
    topics = deployment.topics
    performer = outside.performer(topics.usage if stage == "metering" else topics.partials, partition)
    return await drive(procedure, performer.perform)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither a partition's number nor `all`")
    return int(text)


def _chosen(deployment: Deployment, stage: StageName, partition: int | None) -> Iterable[int]:
    every = deployment.partitions(stage)
    if partition is None:
        return every
    if partition not in every:
        raise click.BadParameter(f"{stage} has partitions 0 to {len(every) - 1}, there is no {partition}")
    return [partition]


def _say(done: Iterable[Mended]) -> None:
    for mended in done:
        click.echo(mended.what)
        if mended.then:
            click.echo(f"then: {mended.then}")


def _tell(found: list[Diagnosis], members: int, console: Console) -> None:
    for one in found:
        offset = "no offset" if one.offset is None else f"offset {one.offset}"
        console.print(f"{one.stage} {one.partition}  {_LOOKS[one.state]}  {offset}", highlight=False)
        if one.state != "stopped":
            continue
        console.print(f"  {escape(one.what)}", highlight=False, soft_wrap=True)
        for command in one.commands:
            console.print(f"  [yellow]python app.py {command}[/]", highlight=False, soft_wrap=True)
        if not one.commands:
            console.print(f"  [yellow]{escape(one.hint)}[/]", highlight=False, soft_wrap=True)
            if one.way not in ("a-log-made-anew", "another-number-of-partitions", "other-definitions"):
                console.print(f"  its source log is not whole any more: {NEW_TOPICS}", highlight=False, soft_wrap=True)
    if members:
        workers = "1 worker runs" if members == 1 else f"{members} workers run"
        console.print(f"\n{workers}: what is shown may have moved; to mend, stop them first.", highlight=False)
