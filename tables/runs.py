"""Ids on disk: what a worker's memory has no room for, in sorted files of its own.

They are a cache, never the truth: the changelog has every id, so a new owner begins without files, and what a process leaves
behind when it dies is removed when the next one starts. An id is looked for on disk only where a filter in memory says that
it may be there. Files are read and written by calls that can fail, not mapped into memory: a disk that is full or broken is
an error that says so, and neither a signal that ends the worker nor a wrong answer.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.errors import DiskFailed
from schemas.ids import Integers, Words
from tables.id_kernels import fill_filter, mixes_of, pass_filter

log = logging.getLogger("meterline.disk")

_ROW = np.dtype([("first", "<u8"), ("last", "<u8"), ("bucket", "<i8")])
_PAGE = 170
"""Rows that are read together: 4 KB."""
_FILTER_BITS = 12
"""Of an id."""
_LINE_BITS = 512
_LOCK = "lock"

SALT = np.array([secrets.randbits(64) | 1 for _ in range(2)], np.uint64)
"""Where an id goes is this process's secret: nobody can make up ids that crowd together."""


class Found(NamedTuple):
    """Ids. words: (2, n), as in `schemas.ids`. buckets: of each its bucket of event time."""

    words: Words
    buckets: Integers

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """All of them."""
        if len(parts) == 1:
            return parts[0]
        words = [part.words for part in parts] or [np.empty((2, 0), np.uint64)]
        buckets = [part.buckets for part in parts] or [np.empty(0, np.int64)]
        return cls(np.concatenate(words, 1), np.concatenate(buckets))

    def only(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Found:
        """Some of them."""
        return Found(np.ascontiguousarray(self.words[:, rows]), self.buckets[rows])


def mixed(words: Words) -> Words:
    """Of each id the salted hash that it has its place by."""
    mixes = np.empty(words.shape[1], np.uint64)
    mixes_of(np.ascontiguousarray(words), SALT[0], SALT[1], mixes)
    return mixes


class Disk:
    """A directory of this process for its known ids, and how much memory they may take before they go there.

    The memory is shared equally by the partitions that the process owns.
    """

    def __init__(self, directory: Path, budget_bytes: int) -> None:
        """directory: for the files of all processes on this machine. Nothing is made there before the first is needed."""
        self._directory = directory
        self._budget_bytes = budget_bytes
        self._own: Path | None = None
        self._lock = -1
        self._numbers = 0
        self._sharers: weakref.WeakSet[object] = weakref.WeakSet()

    def join(self, sharer: object) -> None:
        """One more that shares the memory, as long as it lives."""
        self._sharers.add(sharer)

    @property
    def share_bytes(self) -> int:
        """Memory that each may take."""
        return self._budget_bytes // max(1, len(self._sharers))

    def clear(self) -> None:
        """Removes what processes left behind that are dead: the lock in a directory is free once its process is gone."""
        for left in self._directory.glob("ids-" + 16 * "[0-9a-f]"):  # as `_home` names them, and nobody else
            try:
                lock = os.open(left / _LOCK, os.O_RDWR)
            except OSError:
                continue  # just made, or just removed by another
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                pass
            except OSError as error:  # a network's file system without locks: whose it is cannot be known there
                log.warning("%s is left as it is: it cannot be locked (%s)", left, error.strerror or error)
            finally:
                os.close(lock)

    def remove(self) -> None:
        """Removes what this process has there; nothing of it is asked for any more."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own = None

    def write(self, ids: Found) -> Run:
        """Ids as a run. Raises DiskFailed; then there is none."""
        mixes = mixed(ids.words)
        order = np.argsort(mixes)
        mixes, ids = mixes[order], ids.only(order)
        rows = np.empty(len(mixes), _ROW)
        rows["first"], rows["last"], rows["bucket"] = ids.words[0], ids.words[1], ids.buckets
        path: Path | None = None
        try:
            path = self._home() / f"{self._numbers}.run"
            self._numbers += 1
            with path.open("xb") as file:
                file.write(rows.tobytes())
        except OSError as error:
            if path is not None:
                path.unlink(missing_ok=True)
            raise _failed("write", path or self._directory, error) from error
        return Run(path, ids, mixes)

    def _home(self) -> Path:
        """This process's own directory."""
        if self._own is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            own = self._directory / f"ids-{secrets.token_hex(8)}"
            own.mkdir(mode=0o700)
            lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the process ends, however it ends
            self._own, self._lock = own, lock
        return self._own


class Run:
    """Ids in one file, in the order of their mixes. oldest, newest: their buckets. The file goes when the run does."""

    def __init__(self, path: Path, ids: Found, mixes: Words) -> None:
        """ids: what is in the file, in its order. mixes: of them."""
        self.path = path
        self.many = len(mixes)
        self.newest = int(ids.buckets.max())
        self._fence = mixes[::_PAGE].copy()
        self._bits = np.zeros((max(1, self.many * _FILTER_BITS // _LINE_BITS), _LINE_BITS // 64), np.uint64)
        fill_filter(self._bits, mixes, ids.words[1])
        weakref.finalize(self, _remove, path)

    @property
    def size_bytes(self) -> int:
        """Memory of it."""
        return self._fence.nbytes + self._bits.nbytes

    def find(self, rows: Integers, words: Words, mixes: Words, found: Integers) -> None:
        """Raises of each of `rows` what is found to the bucket it has here. Raises DiskFailed."""
        passed = np.empty(len(rows), np.int64)
        rows = passed[: pass_filter(self._bits, rows, mixes, words, passed)]
        if not len(rows):
            return
        begins = np.maximum(np.searchsorted(self._fence, mixes[rows], "left") - 1, 0).tolist()
        ends = np.searchsorted(self._fence, mixes[rows], "right").tolist()
        pages: dict[int, npt.NDArray[np.void]] = {}
        with self._opened() as file:
            for row, begin, end in zip(rows.tolist(), begins, ends, strict=True):
                for number in range(begin, end):
                    page = pages.get(number)
                    if page is None:
                        page = pages[number] = self._rows(file, number * _PAGE, (number + 1) * _PAGE)
                    same = (page["first"] == words[0, row]) & (page["last"] == words[1, row])
                    for bucket in page["bucket"][same].tolist():
                        found[row] = max(int(found[row]), bucket)

    def read(self, low: int, end: int) -> Found:
        """The ids whose mixes' upper 32 bits lie in a range. Raises DiskFailed."""
        bounds = np.array([low << 32, min(end << 32, (1 << 64) - 1)], np.uint64)
        begin = max(0, int(np.searchsorted(self._fence, bounds[0], "left")) - 1) * _PAGE
        stop = int(np.searchsorted(self._fence, bounds[1], "right")) * _PAGE
        with self._opened() as file:
            rows = self._rows(file, begin, stop)
        words = np.array((rows["first"], rows["last"]), np.uint64)
        upper = mixed(words) >> np.uint64(32)
        return Found(words, rows["bucket"].astype(np.int64)).only((upper >= low) & (upper < end))

    def _opened(self) -> _Opened:
        return _Opened(self.path)

    def _rows(self, file: int, begin: int, end: int) -> npt.NDArray[np.void]:
        end = min(end, self.many)
        wanted = max(0, end - begin) * _ROW.itemsize
        try:
            raw = os.pread(file, wanted, begin * _ROW.itemsize)
        except OSError as error:
            raise _failed("read", self.path, error) from error
        if len(raw) != wanted:
            raise _failed("read", self.path, OSError(f"it ends after {begin * _ROW.itemsize + len(raw)} bytes"))
        return np.frombuffer(raw, _ROW)


class _Opened:
    """A file for reading, as a descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise _failed("read", self._path, error) from error
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _failed(verb: str, path: Path, error: OSError) -> DiskFailed:
    return DiskFailed(
        f"cannot {verb} known ids at {path}: {error.strerror or error}",
        hint="give METERLINE_DATA_DIR a disk with room (24 bytes for every id that is remembered), or the ids more memory with "
        "METERLINE_IDS_MEMORY_MB; then restart this worker: nothing is lost, its state is in the changelog "
        "(docs/mending.md#a-disk-that-known-ids-do-not-fit-on)",
    )
