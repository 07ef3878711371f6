"""Kernels work wherever they are installed: where nothing can be written, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from schemas import compiled

CALL = """
import sys, tempfile
sys.path.insert(0, sys.argv[1])
tempfile.tempdir = sys.argv[2]
import numba, numpy
from schemas.block_kernels import without_zeros
units, places = numpy.array([150]), numpy.array([2])
without_zeros(units, places)
print(numba.config.CACHE_DIR, units[0], places[0])
"""


def called(house: Path, tmp: Path) -> list[str]:
    """What a process says that calls a kernel of a house, with no home, and this place for what is temporary."""
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    command = [sys.executable, "-P", "-B", "-c", CALL, str(house), str(tmp)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | nowhere, cwd="/dev", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(" ")


def installed(at: Path) -> Path:
    """A house of one room in which nothing can be kept."""
    shutil.copytree(Path(compiled.__file__).parent, at / "schemas", ignore=shutil.ignore_patterns("__pycache__"))
    (at / "schemas" / "__pycache__").write_text("no directory")
    return at


def test_what_cannot_be_kept_beside_them_is_kept_for_the_process(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    kept, *found = called(installed(tmp_path / "house"), temporary)
    assert kept.startswith(f"{temporary}/meterline-kernels-")
    assert found == ["15", "1\n"]
    assert list(temporary.iterdir()) == [], "nothing is left behind"


def test_what_cannot_be_kept_anywhere_is_compiled_all_the_same(tmp_path: Path) -> None:
    assert called(installed(tmp_path / "house"), Path("/proc/self")) == ["", "15", "1\n"]


def test_a_copy_has_all_that_was_compiled_and_can_be_written(tmp_path: Path) -> None:
    kept = tmp_path / "kernels-1"
    (kept / "schemas_1").mkdir(parents=True)
    (kept / "schemas_1" / "joined.nbi").write_bytes(b"index")
    for path in (kept / "schemas_1" / "joined.nbi", kept / "schemas_1", kept):
        path.chmod(path.stat().st_mode & 0o555)
    copy = compiled.copied(kept)
    assert (copy / "schemas_1" / "joined.nbi").read_bytes() == b"index"
    assert all(path.stat().st_mode & 0o200 for path in (copy, *copy.rglob("*")))
