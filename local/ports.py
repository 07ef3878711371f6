"""Ports of 127.0.0.1, for servers that are started a moment after their port was chosen.

In that moment nobody listens there, so that another process could choose the same one. So each process chooses from a block
of ports that is its own: it holds the block's first port, on which nobody listens, and which ends with the process.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

from schemas.errors import BrokerError

PORTS = range(20_000, 32_768)
"""Below what kernels give to outgoing connections: from 32768 on Linux (ip_local_port_range), 49152 elsewhere."""
BLOCK = 64


class Blocks:
    """Blocks of ports, each of one process at a time."""

    def __init__(self, ports: range = PORTS) -> None:
        self._ports = ports
        self._pid = 0
        self._held: list[socket.socket] = []
        self._left: Iterator[int] = iter(())
        self._next: list[int] = []

    def free_port(self) -> int:
        """A port on 127.0.0.1 that nobody listens on now, that no other process is given, and no outgoing connection.

        Raises BrokerError where there is none.
        """
        if self._pid != os.getpid():  # after a fork the blocks are the parent's
            self._pid, self._held, self._left = os.getpid(), [], iter(())
        for _ in range(2 * len(self._ports) // BLOCK + 2):  # what is left of one turn, and a whole one
            for port in self._left:
                if is_free(port):
                    return port
            self._left = iter(self._another_block())
        raise self._exhausted()

    def close(self) -> None:
        """Leave all blocks to others."""
        for held in self._held:
            held.close()
        self._held, self._left = [], iter(())

    def _another_block(self) -> range:
        """The one before it stays ours as well: its last port may not be listened on yet."""
        begins = self._ports[::BLOCK]
        for _ in begins:
            if not self._next:
                self._next = random.sample(begins, len(begins))
            begin = self._next.pop()
            first = socket.socket()
            try:
                first.bind(("127.0.0.1", begin))  # not to be shared: SO_REUSEADDR is not set
            except OSError:
                first.close()
                continue
            for earlier in self._held[:-1]:
                earlier.close()
            self._held = [*self._held[-1:], first]
            return range(begin + 1, min(begin + BLOCK, self._ports.stop))
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


free_port = Blocks().free_port
