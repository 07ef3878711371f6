"""Functions over arrays that are compiled for this machine when they are first called (numba).

A *kernel* is plain Python over numpy arrays and numbers: with NUMBA_DISABLE_JIT=1 it runs as it is written, to be stepped
through or measured line by line, and comes to the same. Kernels live in files named `kernels.py` or `…_kernels.py`, nowhere
else: what was compiled is kept under a digest of all of those files, since numba itself would not notice that a kernel that
another one calls has changed.
"""

from __future__ import annotations

import hashlib
import shutil
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
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def part(function: F) -> F:
    """A piece of kernels, compiled into each loop that calls it: a loop with a call in it is not done several rows at a time."""
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled


def _keep() -> None:
    """Says where compiled kernels are kept: beside this file, or where numba keeps them if that cannot be written."""
    found = hashlib.blake2b(digest_size=8)
    for room in _ROOMS:
        for file in sorted((_HOUSE / room).glob("*kernels.py")):
            found.update(file.read_bytes())
    here = Path(__file__).resolve().parent / "__pycache__"
    kept = here / f"kernels-{found.hexdigest()}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        for older in here.glob("kernels-*"):
            if older != kept:
                shutil.rmtree(older, ignore_errors=True)
    except OSError:
        return
    numba.config.CACHE_DIR = str(kept)


_keep()
