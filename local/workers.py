"""Worker processes of laptop mode: started, awaited over their own HTTP, ended by pid."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from local.ports import free_port, is_free
from local.process import Child
from local.stack import Stack
from schemas.errors import BrokerError

START_TIMEOUT_S = 90.0
STOP_GRACE_S = 20.0
"""More than a worker allows itself (`streams/start_over.py`, END_S)."""
_ROOT = str(Path(__file__).resolve().parents[1])
_COMPLAINTS = (": alarm ", "CRITICAL")
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class WorkerProcess:
    """One `app.py worker` on a stack. url: where its dashboard and API are. environ: settings that win over the stack's."""

    def __init__(self, stack: Stack, number: int, port: int, environ: Mapping[str, str] | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._stack = stack
        self._port = port
        self._environ = dict(environ or {})
        command = [sys.executable, "-m", "app", "worker"]
        self.process = Child(f"worker {number}", command, log=stack.data_dir / "logs" / f"worker-{number}.log")

    async def start(self) -> None:
        """Start it, once the stack is up and knows its keys and ports; waits for nothing."""
        self.process.environ = {
            **self._stack.environment,
            "METERLINE_WEB_HOST": "127.0.0.1",
            "METERLINE_WEB_PORT": str(self._port),
            "METERLINE_WEB_ADVERTISED_URL": self.url,
            "PYTHONPATH": _ROOT,
            "PYTHONUNBUFFERED": "1",
            **self._environ,
        }
        await self.process.start()

    async def serving(self) -> None:
        """Return once it is ready: in the group, every partition of its own restored. Raises BrokerError with its log."""
        await self.process.until(self._ready, START_TIMEOUT_S)

    async def stop(self) -> None:
        """SIGTERM, so that it leaves a last checkpoint; SIGKILL if that takes too long."""
        await self.process.stop(STOP_GRACE_S)

    async def get(self, path: str) -> Any:
        """The JSON of `GET path`. Raises BrokerError where the worker does not answer or has ended."""
        if not self.process.running:
            raise BrokerError(self.process.obituary())
        try:
            async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(self.url + path) as response:
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BrokerError(f"{self.process.name} does not answer {path}: {type(error).__name__} {error}") from error

    async def _ready(self) -> bool:
        try:
            return (await self.get("/readyz")).get("ready") is True
        except BrokerError:
            return False


class Fleet:
    """The workers of one stack, more or fewer of them. up: those that should be running, in the order they came.

    environ: settings that win over the stack's.
    """

    def __init__(self, stack: Stack, environ: Mapping[str, str] | None = None) -> None:
        self.up: list[WorkerProcess] = []
        self.ever: list[WorkerProcess] = []
        self._stack = stack
        self._environ = environ

    async def scale(self, count: int) -> None:
        """Starts what is lacking, waiting for nothing; ends what is too many, the newest first, in order (SIGTERM)."""
        while len(self.up) < count:
            worker = WorkerProcess(self._stack, len(self.ever) + 1, free_port(), self._environ)
            self.ever.append(worker)
            self.up.append(worker)
            await worker.start()
        leaving, self.up = self.up[count:], self.up[:count]
        await asyncio.gather(*(worker.stop() for worker in leaving))

    async def stop(self) -> None:
        """Ends all that were ever started. Idempotent."""
        await asyncio.gather(*(worker.stop() for worker in self.ever))

    def complaints(self) -> list[str]:
        """Lines of the workers' logs, of every life, that must never be there: alarms, and partitions that stopped."""
        found = []
        for worker in self.ever:
            for line in worker.process.log.read_text(errors="replace").splitlines():
                if any(word in line for word in _COMPLAINTS):
                    found.append(f"{worker.process.name}: {line}")
        return found


def ports(count: int, first: int | None = None) -> list[int]:
    """Free ports for the workers' web servers; `first` for the first one, if it is free."""
    found = [first] if first is not None and is_free(first) else []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found
