"""Functions over arrays that are compiled for this machine when they are first called (numba).

A *kernel* is plain Python over numpy arrays and numbers: with NUMBA_DISABLE_JIT=1 it runs as it is written, to be stepped
through or measured line by line, and comes to the same. Kernels live in files named `kernels.py` or `…_kernels.py`, nowhere
else: what was compiled is kept under a digest of all of those files, since numba itself would not notice that a kernel that
another one calls has changed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

_HOUSE = Path(__file__).resolve().parent.parent
_ROOMS = ("schemas", "tables", "streams", "transport")


def kernel(function: F) -> F:
    """Compiles a function for the types it is first called with. Without the interpreter's lock; errors as numpy has them.

    Nothing checks that an index is inside: that is the caller's promise.
    """
    return _compiled(function)


def part(function: F) -> F:
    """A piece of kernels, compiled into each loop that calls it: a loop with a call in it is not done several rows at a time."""
    return _compiled(function, forceinline=True)


def _compiled(function: F, **options: bool) -> F:
    try:
        compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:  # there is no place that can be written: it is compiled anew in every process
        compiled = numba.njit(nogil=True, error_model="numpy", **options)(function)
    return compiled


def _keep() -> None:
    """Says where compiled kernels are kept: beside this file; where that cannot be written, in a copy of this process's own.

    (A cache that cannot be written is none to numba, whatever is in it.) Where no copy can be made, they are kept where numba
    keeps them, if at all.
    """
    found = hashlib.blake2b(digest_size=8)
    for room in _ROOMS:
        for file in sorted((_HOUSE / room).glob("*kernels.py")):
            found.update(file.read_bytes())
    here = Path(__file__).resolve().parent / "__pycache__"
    kept = here / f"kernels-{found.hexdigest()}"
    with contextlib.suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
    try:
        if not os.access(kept, os.W_OK):
            kept = copied(kept)
    except OSError:
        return
    numba.config.CACHE_DIR = str(kept)
    for older in here.glob("kernels-*"):
        if older.name != f"kernels-{found.hexdigest()}":
            shutil.rmtree(older, ignore_errors=True)


def copied(kept: Path) -> Path:
    """A directory with the same files, to be written, as long as this process lives. Raises OSError."""
    copy = Path(tempfile.mkdtemp(prefix="meterline-kernels-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for file in kept.glob("*/*"):
        into = copy / file.parent.name / file.name
        into.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, into)
    return copy


_keep()
