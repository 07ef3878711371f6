"""`worker`: one metering worker, the Faust app of app.py. `faust -A app worker` starts the same."""

from __future__ import annotations

import os

import click

from cli.main import current
from settings import Settings


@click.command(short_help="One worker for its share of the partitions.")
@click.pass_context
def worker(ctx: click.Context) -> None:
    """Run one worker: metering, closing and delivery for its share of the partitions, and the web server.

    \b
    Settings come from the environment or .env; `python app.py check` says whether they fit.
      python app.py worker
      METERLINE_WEB_PORT=6067 python app.py worker        a second one on this machine
      faust -A app worker                                 the same, as Faust's users know it

    Workers of one METERLINE_APP_ID share the partitions. SIGTERM or Ctrl-C ends it after a last checkpoint.
    """
    run(current(ctx))


def run(settings: Settings) -> None:
    """Become the Faust worker of `app.app`; ends the process with the worker's exit code.

    Address and port of the web server are the app's own, from the settings: giving Faust's `--web-port` would
    replace the advertised URL (faust/cli/worker.py, `_init_worker_options`).
    """
    # app.py reads the settings itself, as it must under `faust -A app worker`: hand over what --settings has brought.
    os.environ.update(settings.environment())
    import app  # here: only the worker pays for Faust

    assert app.app is not None  # built by being asked for, so that what is wrong with the settings is told our way
    from faust.cli.faust import cli as faust

    faust(["-A", "app", "worker", "--loglevel", settings.log_level.lower()], prog_name="faust")
