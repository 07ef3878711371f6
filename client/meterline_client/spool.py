"""The spool: what does not fit into memory, on disk, lane by lane, until it is acknowledged.

    spool_dir/lock                                  held while a producer uses the directory
    spool_dir/topic                                 whose events these are
    spool_dir/00000007-<run>/lane-00003-<n>.events  of the seventh producer here, partition 3, from its n-th event on

An event is the kernel's before `append` returns, so it survives the end of the process, `kill -9` too. `sync` brings it
to the disk, which the producer does every `fsync_s`: a machine that loses its power loses at most so much of the spool.
A file is removed when all of it is acknowledged: after a crash what is acknowledged of an unfinished one (SEGMENT_BYTES a
lane at the most) is sent again, with the same ids to the same partition.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from meterline_client.errors import ConfigurationError, SpoolError
from meterline_client.packing import Envelope
from meterline_client.segments import Segment

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("meterline.client")

LOST_FOUND = "lost+found"
"""What a file system keeps at its root."""
_LANE = re.compile(r"lane-(\d+)-\d+\.events")
SEGMENT_BYTES = 4 * 1024 * 1024
"""A file takes no new envelope beyond this."""


class DiskSpan:
    """The events of one envelope: a piece of one segment."""

    __slots__ = ("_length", "_partition", "_segment", "_spool", "_start")

    def __init__(self, spool: Spool, partition: int, segment: Segment, start: int, length: int = 0) -> None:
        self._spool = spool
        self._partition = partition
        self._segment = segment
        self._start = start
        self._length = length
        segment.waiting += 1

    def append(self, key: bytes, event: bytes) -> None:
        """Write one more event behind the others. Raises SpoolError, and then it was not written."""
        before = self._segment.size
        try:
            self._segment.append(key, event)
        except OSError as error:
            raise SpoolError(f"{self._segment.path} cannot be written: {error.strerror}") from error
        self._length += self._segment.size - before
        self._spool.wrote(self._segment, self._segment.size - before)

    @property
    def full(self) -> bool:
        """Whether nothing more can be written here."""
        return self._segment.full

    def read(self) -> list[bytes]:
        """The events, in order. Raises SpoolError."""
        return self._segment.read(self._start, self._length)

    def undo(self) -> None:
        """Not all of them could be written: none of them is here, and no other producer will send them."""
        written = self._segment.size - self._start
        try:
            self._segment.cut(self._start)
        except OSError as error:
            log.error("%s: cannot be cut back: %s; what is in it may be sent", self._segment.path, error.strerror)
        else:
            self._spool.wrote(self._segment, -written)
        self.settled()

    def settled(self) -> None:
        """They are no longer needed; a segment in which nothing is needed is removed."""
        self._segment.waiting -= 1
        if not self._segment.waiting:
            self._spool.drained(self._partition, self._segment)


class Spool:
    """The directory. `open` first, and wait for it; then all calls from one thread, but for `sync`.

    bytes: what is on disk now. max_bytes: beyond it `has_room` says no; None: as much as the disk takes.
    """

    def __init__(self, directory: Path, topic: str, *, max_bytes: int | None = None) -> None:
        self._root = directory
        self._topic = topic
        self._run = ""
        self._max_bytes = max_bytes
        self._lock: int | None = None
        self._home: Path | None = None
        self._number = 1
        self._current: dict[int, Segment] = {}
        self._dirty: set[Segment] = set()
        self._new_home = False
        self.bytes = 0

    def open(self, run: str) -> list[Envelope]:
        """Lock the directory and read what earlier producers left: their envelopes, per lane in order.

        run: this producer's, for its own files. It may take seconds, and may run in a thread.
        Raises SpoolError where another producer uses it, ConfigurationError where it belongs to another topic.
        """
        self._run = run
        self.bytes = 0
        try:
            if not self._root.is_dir():
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
                sync([os.open(self._root.parent, os.O_RDONLY)])
            self._take_lock()
            self._check_topic()
            runs = sorted(path for path in self._root.iterdir() if path.is_dir() and path.name != LOST_FOUND)
            for earlier in runs:
                number, _, rest = earlier.name.partition("-")
                if not number.isdecimal() or not rest:
                    raise SpoolError(f"{earlier} is no part of a spool", hint="move it away, or name another spool_dir")
                self._number = max(self._number, int(number) + 1)
            return [envelope for earlier in runs for envelope in self._recovered(earlier)]
        except OSError as error:
            self.close()
            raise SpoolError(f"{error.filename or self._root} cannot be used: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more stay within the bound."""
        return self._max_bytes is None or self.bytes + size <= self._max_bytes

    def could_have_room(self, size: int) -> bool:
        """Whether so many bytes fit into an empty spool."""
        return self._max_bytes is None or size <= self._max_bytes

    def span(self, partition: int, position: int, *, fresh: bool) -> DiskSpan:
        """Room for a new envelope of that lane, empty. Raises SpoolError.

        position: its first event's, counted per lane: files are read in its order. fresh: it does not follow what was
        last written of this lane, so it begins a file.
        """
        segment = self._current.get(partition)
        if segment is None or fresh or segment.full or segment.size >= SEGMENT_BYTES:
            created = self._created(partition, position)
            if segment is not None:
                segment.full = True
                segment.close()
            segment = self._current[partition] = created
        return DiskSpan(self, partition, segment, segment.size)

    def wrote(self, segment: Segment, size: int) -> None:
        """So many bytes more, and to be synced."""
        self.bytes += size
        self._dirty.add(segment)

    def drained(self, partition: int, segment: Segment) -> None:
        """Nothing in the segment is needed any more."""
        if self._current.get(partition) is segment:
            del self._current[partition]
        self._dirty.discard(segment)
        self.bytes -= segment.size
        segment.remove()
        run = segment.path.parent
        if run != self._home and not any(run.iterdir()):
            run.rmdir()

    def unsynced(self) -> list[int]:
        """Descriptors of what was written since the last call, and of its directory: for `sync`, in a thread."""
        found = [segment.another_descriptor() for segment in self._dirty]
        if found and self._home is not None:
            found.append(os.open(self._home, os.O_RDONLY))
            if self._new_home:
                found.append(os.open(self._root, os.O_RDONLY))
                self._new_home = False
        self._dirty.clear()
        return found

    def close(self) -> None:
        """Bring everything to disk, remove what is not needed, give the directory free. Idempotent."""
        try:
            sync(self.unsynced())
        except OSError as error:
            log.error("%s cannot be synced to disk: %s", self._root, error.strerror)
        for segment in self._current.values():
            segment.close()
        self._current.clear()
        if self._home is not None and not any(self._home.iterdir()):
            self._home.rmdir()
        self._home = None
        if self._lock is not None:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing does not, where a forked child has it, too
            self.disown()

    def disown(self) -> None:
        """For a forked child: the lock is its parent's alone, and ends with that."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        if fcntl is None:
            raise ConfigurationError("a spool needs a POSIX system (file locks)", hint="leave spool_dir out here")
        self._lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(
                f"{self._root} is in use by another producer", hint="give each producer a spool_dir of its own"
            ) from None

    def _check_topic(self) -> None:
        file = self._root / "topic"
        found = file.read_text().strip() if file.exists() else ""
        if not found:  # new, or a full disk took only the name of the file
            aside = self._root / "topic.new"
            aside.write_text(self._topic + "\n")
            aside.replace(file)
            found = self._topic
        if found != self._topic:
            raise ConfigurationError(
                f"{self._root} holds events for topic {found!r}, not for {self._topic!r}",
                hint="name another spool_dir, or start a producer for that topic first, which sends them",
            )

    def _recovered(self, run: Path) -> list[Envelope]:
        envelopes: list[Envelope] = []
        for path in sorted(run.iterdir()):
            if path.name.startswith(".nfs"):  # removed, while somebody had it open
                continue
            lane = _LANE.fullmatch(path.name)
            if lane is None:
                raise SpoolError(f"{path} is no file of a spool", hint="move it away, or name another spool_dir")
            segment = Segment(path)
            envelopes += self._packed(segment, int(lane[1]))
            if segment.waiting:
                self.bytes += segment.size
            else:
                segment.remove()
        if not any(run.iterdir()):
            run.rmdir()
        return envelopes

    def _packed(self, segment: Segment, partition: int) -> list[Envelope]:
        envelopes: list[Envelope] = []
        starts: list[int] = []
        ends: list[int] = []
        for start, end, key, event in segment.recover():
            if not envelopes or not envelopes[-1].fits(event) or start != ends[-1]:  # behind damaged bytes
                envelopes.append(Envelope(partition, key))
                starts.append(start)
                ends.append(end)
            envelopes[-1].count(event)
            ends[-1] = end
        for envelope, start, end in zip(envelopes, starts, ends, strict=True):
            envelope.moved_to(DiskSpan(self, partition, segment, start, end - start))
        return envelopes

    def _created(self, partition: int, position: int) -> Segment:
        try:
            if self._home is None:
                home = self._root / f"{self._number:08d}-{self._run}"
                home.mkdir(mode=0o700)
                self._home, self._new_home = home, True
            segment = Segment.create(self._home / f"lane-{partition:05d}-{position:020d}.events")
        except OSError as error:
            raise SpoolError(f"{error.filename or self._root} cannot be written: {error.strerror}") from error
        self.bytes += segment.size
        return segment


def sync(descriptors: list[int]) -> None:
    """Bring files to the disk, and close these descriptors of theirs. May run in a thread. Raises OSError."""
    failure: OSError | None = None
    for descriptor in descriptors:
        try:
            os.fsync(descriptor)
        except OSError as error:
            failure = error
        finally:
            os.close(descriptor)
    if failure is not None:
        raise failure
