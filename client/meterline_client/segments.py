"""One file of the spool: events of one lane, in order, each with its length and checksum.

    "meterline-spool-1\\n", then per event: u32 length, u32 CRC-32 (both little-endian, of what follows),
    u16 length of the subject, the subject (UTF-8), the event (JSON)

A file is only appended to, and removed when nothing in it is needed any more. What a crash left half written at its end
is recognised by length and checksum, and cut off when it is opened again. Damage with whole events behind it is no crash's:
they are read all the same, and the damaged bytes are kept beside the spool.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from meterline_client.errors import SpoolError

log = logging.getLogger("meterline.client")

MAGIC = b"meterline-spool-1\n"
_FRAME = struct.Struct("<II")
_KEY = struct.Struct("<H")


class Stored(NamedTuple):
    """One event as found in a file. start and end: its bytes there, frame included."""

    start: int
    end: int
    key: bytes
    event: bytes


class Segment:
    """A file of one lane. size: its bytes; waiting: how many envelopes in it are not settled yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.waiting = 0
        self.full = False
        self._descriptor: int | None = None

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new file. Raises OSError."""
        segment = cls(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _write(descriptor, MAGIC)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        segment._descriptor = descriptor
        segment.size = len(MAGIC)
        return segment

    def append(self, key: bytes, event: bytes) -> None:
        """Write one event; it is the kernel's when this returns. Raises OSError, and then nothing was written."""
        assert self._descriptor is not None
        body = b"%b%b%b" % (_KEY.pack(len(key)), key, event)
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        try:
            _write(self._descriptor, frame)
        except OSError:
            # A part may be there. Should even cutting fail, the file takes no more: what is torn stays its end.
            self.full = True
            os.ftruncate(self._descriptor, self.size)
            self.full = False
            raise
        self.size += len(frame)

    def read(self, start: int, length: int) -> list[bytes]:
        """The events that lie there. Raises SpoolError where they cannot be read back whole."""
        try:
            data = self._pread(start, length)
        except OSError as error:
            raise SpoolError(f"{self.path} cannot be read: {error.strerror}") from error
        found = [*_events(data, 0)]
        if not found or found[-1].end != length:
            good = start + (found[-1].end if found else 0)
            raise SpoolError(f"{self.path} is damaged at byte {good}: length or checksum do not fit")
        return [stored.event for stored in found]

    def recover(self) -> list[Stored]:
        """Every whole event of a file from before; what is torn behind the last is cut off, with a warning.

        Damaged bytes between whole events are passed over, and said in the log.
        Raises SpoolError for a file that is no segment, and OSError.
        """
        data = self.path.read_bytes()
        if not data.startswith(MAGIC):
            if not MAGIC.startswith(data):
                raise SpoolError(f"{self.path} is no file of a spool", hint="move it away, or name another spool_dir")
            data = b""  # the crash came before the first event
        found: list[Stored] = []
        good = at = min(len(data), len(MAGIC))
        while at < len(data):
            whole = [*_events(data, at)]
            if whole:
                if at > good:
                    self._set_aside(data, good, at)
                found += whole
                good = whole[-1].end
            at = _next_whole(data, whole[-1].end if whole else at)
        if good < len(data):
            log.warning(
                "%s: its last %d bytes are not a whole event (a crash while writing), and are cut off; "
                "%d whole events before them will be sent",
                self.path, len(data) - good, len(found),
            )  # fmt: skip
            os.truncate(self.path, good)
        self.size = good
        self.full = True
        return found

    def _set_aside(self, data: bytes, start: int, end: int) -> None:
        """Bytes that are no event, for somebody to look at: what they were is not known any more."""
        kept = self.path.parent.parent / f"damaged-{self.path.parent.name}-{self.path.stem}-{start}"
        log.error(
            "%s is damaged from byte %d to %d: what was accepted there is lost, since the disk did not keep it; "
            "the events behind it will be sent, and the bytes are kept in %s",
            self.path, start, end, kept,
        )  # fmt: skip
        try:
            kept.write_bytes(data[start:end])
        except OSError as error:
            log.error("%s cannot be written: %s", kept, error.strerror)

    def cut(self, size: int) -> None:
        """Take back what was written behind `size`. Raises OSError; the file takes no more then, and its end stays."""
        assert self._descriptor is not None
        self.full = True
        os.ftruncate(self._descriptor, size)
        self.size = size
        self.full = False

    def remove(self) -> None:
        """Nothing in it is needed: away with it."""
        self.close()
        self.path.unlink()

    def another_descriptor(self) -> int:
        """A descriptor of the file, for a thread to sync and to close. Raises OSError."""
        return os.open(self.path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file. Reading opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _pread(self, start: int, length: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, length, start)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)


def _events(data: bytes, at: int) -> Iterator[Stored]:
    """The whole events of these bytes; it ends at the first that is not whole."""
    view = memoryview(data)
    while len(data) - at >= _FRAME.size + _KEY.size:
        length, checksum = _FRAME.unpack_from(data, at)
        start = at + _FRAME.size
        end = start + length
        if end > len(data) or length < _KEY.size or zlib.crc32(view[start:end]) != checksum:
            return
        middle = start + _KEY.size + _KEY.unpack_from(data, start)[0]
        if middle > end:
            return
        yield Stored(at, end, data[start + _KEY.size : middle], data[middle:end])
        at = end


def _next_whole(data: bytes, at: int) -> int:
    """Where the next whole event begins behind `at`; the end of the data where there is none."""
    if at + _FRAME.size <= len(data):
        # Its length may be right, and its content wrong.
        at_next: int = at + _FRAME.size + _FRAME.unpack_from(data, at)[0]
        if at_next < len(data) and _whole(data, at_next):
            return at_next
    return next((place for place in range(at + 1, len(data)) if _whole(data, place)), len(data))


def _whole(data: bytes, at: int) -> bool:
    return next(_events(data, at), None) is not None


def _write(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):  # a signal or a full disk; the next write says which
        written += os.write(descriptor, data[written:])
