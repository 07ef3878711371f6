"""A worker that is warm compiles nothing any more: not while it meters, closes, recovers or speaks of what it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TELL = """
import logging, sys
import numba.core.event as events
from streams.warming import warm

warm()
logging.disable(logging.CRITICAL)
with events.install_recorder("numba:compile") as recorder:
    from simulation.world import tell

    for seed in range(6):
        assert tell(seed).promise is None
for _, event in recorder.buffer:
    if event.is_start:
        print(event.data["dispatcher"].py_func.__qualname__, event.data["args"])
"""


def test_what_is_warm_compiles_nothing_any_more() -> None:
    done = subprocess.run([sys.executable, "-c", _TELL], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [], "streams/warming.py runs these, too, with these types"
