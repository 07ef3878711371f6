"""Ports of 127.0.0.1, for servers that are started a moment after their port was chosen.

In that moment nobody listens there, so that another process could choose the same one. So each process chooses from a block
of ports that is its own, by a lock on a file, which ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import BrokerError

PORTS = range(20_000, 32_768)
"""Below what kernels give to outgoing connections: from 32768 on Linux (ip_local_port_range), 49152 elsewhere."""
BLOCK = 64


class Blocks:
    """Blocks of ports, each of one process at a time. directory: where the locks are; all who share ports share it."""

    def __init__(self, directory: Path, ports: range = PORTS) -> None:
        self._directory = directory
        self._ports = ports
        self._pid = 0
        self._locks: list[int] = []
        self._left: Iterator[int] = iter(())

    def free_port(self) -> int:
        """A port on 127.0.0.1 that nobody listens on now, that no other process is given, and no outgoing connection.

        Raises BrokerError where there is none.
        """
        if self._pid != os.getpid():  # after a fork the blocks are the parent's
            self._pid, self._locks, self._left = os.getpid(), [], iter(())
        for _ in range(len(self._ports) // BLOCK + 2):
            for port in self._left:
                if is_free(port):
                    return port
            self._left = iter(self._another_block())
        raise self._exhausted()

    def close(self) -> None:
        """Leave all blocks to others."""
        for lock in self._locks:
            os.close(lock)
        self._locks, self._left = [], iter(())

    def _another_block(self) -> range:
        """The one before it stays ours as well: its last port may not be listened on yet."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        begins = self._ports[::BLOCK]
        for begin in random.sample(begins, len(begins)):
            lock = os.open(self._directory / str(begin), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            for earlier in self._locks[:-1]:
                os.close(earlier)
            self._locks = [*self._locks[-1:], lock]
            return range(begin, min(begin + BLOCK, self._ports.stop))
        raise self._exhausted()

    def _exhausted(self) -> BrokerError:
        return BrokerError(
            f"other processes have all ports from {self._ports.start} to {self._ports.stop - 1}",
            hint="end some of the servers that run on this machine",
        )


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


free_port = Blocks(Path(tempfile.gettempdir()) / f"meterline-ports-{os.getuid()}").free_port
