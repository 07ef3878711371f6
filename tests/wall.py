"""A way to a server on this machine that can be cut, or fall silent."""

from __future__ import annotations

import asyncio
import contextlib


class Wall:
    """`async with Wall(port) as wall`: a way to a server on this machine. silent: new connections are taken, and hear nothing."""

    def __init__(self, behind: int) -> None:
        self.silent = False
        self.port = 0
        self._behind = behind
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Wall:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    @property
    def connections(self) -> int:
        """How many have come since the last cut, or go on behind."""
        return len(self._writers)

    def cut(self) -> None:
        """Whoever is connected is not any more."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.silent:
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._writers.append(inner_writer)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
