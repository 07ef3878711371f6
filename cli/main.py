"""`python app.py …`: the commands, each in its own room, loaded only when it is asked for.

A MeterlineError is shown as what happened and what to do, on stderr, without a traceback. Exit codes: 0 done · 1 it did
not work · 2 a setting, a meters file or the command line itself is wrong · 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import click

import settings as configuration
from schemas.errors import ConfigurationError, MeterlineError
from settings import Settings

COMMANDS = {
    "local": "cli.local:local",
    "worker": "cli.worker:worker",
    "send": "cli.send:send",
    "invoices": "cli.invoices:invoices",
    "check": "cli.check:check",
    "meters": "cli.meters:meters",
    "mend": "cli.mend:mend",
}
HELP = """Exact usage metering: Event Hubs in, invoice messages and Cosmos documents out.

\b
Begin here, with nothing but this machine:
  python app.py local                      everything, with a generator of usage
  python app.py local --once --events 20000 --json
                                           the same road to its end, checked decimal for decimal
\b
With your own Event Hubs, Service Bus and Cosmos DB (settings METERLINE_… in the environment or in .env):
  python app.py check                      is everything there, and as it must be?
  python app.py worker                     one worker; start as many as there is work
  python app.py send usage.csv --source my-source
  python app.py invoices                   watch invoice messages come
  python app.py mend                       is a partition stopped? what mends it?

Every command explains itself with --help.
"""
_QUIET = ("azure", "uamqp", "aiokafka", "urllib3", "asyncio", "faust", "mode")


class Commands(click.Group):
    """A group that loads a command's module when it is named, and shows every MeterlineError for people."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a MeterlineError ends the process with its text."""
        try:
            return super().invoke(ctx)
        except MeterlineError as error:
            logging.getLogger("meterline").debug("the whole story", exc_info=error)
            click.echo(explain(error), err=True)
            ctx.exit(2 if isinstance(error, ConfigurationError) else 1)


@click.group(
    cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option("-v", "--verbose", count=True, help="Show logs on stderr; twice: the SDKs' and every traceback, too.")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read this file of METERLINE_… settings instead of ./.env. The environment wins over it.",
)
@click.pass_context
def group(ctx: click.Context, verbose: int, settings_file: Path | None) -> None:
    """The root: logging, and the settings for whichever command follows."""
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)],
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    for name in _QUIET if verbose < 2 else ():
        logging.getLogger(name).setLevel(logging.ERROR)
    if settings_file is not None and not settings_file.is_file():
        raise ConfigurationError(f"there is no file {settings_file}", where="--settings")
    ctx.obj = configuration.load(env_file=settings_file)


def explain(error: MeterlineError) -> str:
    """An error for people: what, and where (the first line), and what to do (the second)."""
    lines = [click.style("error: ", fg="red", bold=True) + error.what]
    if error.hint:
        lines.append(click.style("to do: ", fg="yellow", bold=True) + error.hint)
    return "\n".join(lines)


def current(ctx: click.Context) -> Settings:
    """The settings that the root has loaded."""
    found = ctx.find_object(Settings)
    assert found is not None, "commands run under the root"
    return found


def main() -> None:
    """Run the command line of this process."""
    group(prog_name="python app.py")
