"""A worker that is warm compiles nothing any more: not while it meters, closes, recovers or speaks of what it has."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from streams.warming import warm

ROOT = Path(__file__).resolve().parents[2]
_TELL = """
import logging, sys
from numba.core.dispatcher import Dispatcher
from streams.warming import warm

def ready():
    rooms = [module for name, module in sys.modules.items() if name.endswith("kernels")]
    kernels = [kernel for room in rooms for kernel in vars(room).values() if isinstance(kernel, Dispatcher)]
    return {f"{kernel.py_func.__qualname__} {types}" for kernel in kernels for types in kernel.signatures}

warm()
logging.disable(logging.CRITICAL)
before = ready()
assert len(before) > 40, before
from simulation.world import tell

for seed in range(6):
    assert tell(seed).promise is None

from tests.tables import test_dedupe, test_lanes

test_dedupe.test_an_id_takes_at_most_forty_bytes()
test_lanes.test_what_is_too_late_makes_room_for_more()
test_lanes.test_a_snapshot_of_a_lane_in_parts_has_what_changes_between_them()
print(*sorted(ready() - before), sep="\\n")
"""


def test_what_is_warm_compiles_nothing_any_more() -> None:
    done = subprocess.run([sys.executable, "-c", _TELL], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "streams/warming.py runs these, too, with these types"


def test_what_a_killed_process_left_while_it_warmed_goes_with_the_next(tmp_path: Path) -> None:
    dead = tmp_path / "ids-0123456789abcdef"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "0.run").touch()
    foreign = tmp_path / "ids-of-another-program"
    foreign.mkdir()
    (foreign / "lock").touch()
    command = [sys.executable, "-m", "streams.warming"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, check=True)
    assert list(tmp_path.iterdir()) == [foreign]


def test_where_there_is_no_temporary_directory_the_rest_is_warm_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file system: what runs on a disk only is compiled if it is ever needed."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert warm() > 0
