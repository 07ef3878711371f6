"""A start that fails by what nobody foresaw is begun anew, or ends with a code that says so: never as if it had ended well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.ports import free_port

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sys
from streams import faust_app
from streams.start_over import RESTARTS

if RESTARTS in os.environ:
    print("begun anew", flush=True)
    raise SystemExit(0)

def fail(*_):
    raise ZeroDivisionError("a defect")

async def fail_later(*_):
    fail()

async def nothing(*_):
    pass

faust_app.warm = lambda: 0.0
faust_app.check_listens = lambda settings: None
faust_app.Worker.start = nothing
match sys.argv[1]:
    case "warm":
        faust_app.warm = fail
    case "listen":
        faust_app.check_listens = fail
    case "worker":
        faust_app.Worker.start = fail_later
    case "before":
        faust_app.faust.App.on_start = fail_later
    case "after":
        faust_app.MeterlineApp.add_future = fail
import settings
from cli.worker import run
run(settings.load())
"""


def start(where: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A worker whose start fails there."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "METERLINE_METERS": str(ROOT / "meters.yaml"),
        "METERLINE_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "METERLINE_SERVICEBUS_CONNECTION_STRING": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=b;"
        "UseDevelopmentEmulator=true;",
        "METERLINE_WEB_PORT": str(free_port()),
        "METERLINE_DATA_DIR": str(directory / "data"),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, where],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("where", ["warm", "listen", "worker"])
def test_a_defect_in_a_start_is_told_with_its_place_and_begun_anew(where: str, tmp_path: Path) -> None:
    done = start(where, tmp_path)
    said = done.stdout + done.stderr
    assert "begun anew" in done.stdout, said
    assert "starting over: it could not start: ZeroDivisionError: a defect" in said
    assert "Traceback" in said and "in fail" in said
    assert "everything was handed over" not in said


@pytest.mark.parametrize("where", ["before", "after"])
def test_what_ends_without_being_told_to_never_says_that_it_handed_over(where: str, tmp_path: Path) -> None:
    done = start(where, tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "everything was handed over" not in said
