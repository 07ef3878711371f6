"""`local --chaos`: the road while its workers and servers are killed, frozen, restarted and rescaled, and a verdict."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import orjson
from rich.console import Console

from cli.judgement import told, until_signal
from local.chaos import Verdict, chaos
from local.once import Options
from schemas.errors import MeterlineError
from settings import Settings


def run(
    base: Settings, seconds: float, seed: int, as_json: bool, partitions: int, kafka: str | None, data_dir: Path | None
) -> int:
    """The exit code: 0 where every number equals the ledger's, 1 where one does not, 130 after a signal.

    Raises MeterlineError where something does not come back.
    """
    directory = data_dir or Path(tempfile.mkdtemp(prefix="meterline-"))
    options = Options(directory, Path(base.meters), partitions, kafka=kafka, duplicate_detection=False)
    stderr = Console(stderr=True, highlight=False)
    began_s = time.monotonic()

    def tell(text: str) -> None:
        if not as_json:
            stderr.print(f"{time.monotonic() - began_s:6.1f} s  {text}")

    tell(f"seed {seed}, {seconds:g} s of usage")
    try:
        verdict = asyncio.run(until_signal(chaos(options, base, seed, seconds, tell)))
    except MeterlineError:
        told((), directory)
        raise
    good = verdict is None or verdict.good
    if data_dir is None and good:
        shutil.rmtree(directory, ignore_errors=True)  # kept only where there is something to look at
    if verdict is None:
        return 130
    if as_json:
        print(orjson.dumps(_numbers(verdict, seed)).decode())
    else:
        _show(verdict)
    if not good:
        told(verdict.report.mismatches, directory)
        print(f"the same misfortunes again: --chaos --seconds {seconds:g} --seed {seed}", file=sys.stderr)
    return 0 if good else 1


def _numbers(verdict: Verdict, seed: int) -> dict[str, object]:
    return {
        "seed": seed,
        "kills": verdict.kills,
        "survived": dict(verdict.survived),
        "messages_again": verdict.report.copies,
        **verdict.report.numbers,
    }


def _show(verdict: Verdict) -> None:
    console = Console(highlight=False)
    console.print(f"\n{verdict.sentence()}", soft_wrap=True)
    if verdict.good:
        console.print(
            "[green]every window, message and document equals the independent ledger, decimal for decimal",
            soft_wrap=True,
        )
