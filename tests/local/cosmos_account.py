"""A local Cosmos DB for a test, and the SDK clients that speak to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from local.cosmos.auth import MasterKey, signed_headers
from local.cosmos.clock import Clock, SystemClock
from local.cosmos.server import CosmosConfig, CosmosServer

KEY = base64.b64encode(b"a key for tests only, 32 bytes..").decode()
OTHER_KEY = base64.b64encode(b"another key, that opens nothing.").decode()
REGIONS = ("West Europe", "North Europe")
NEVER_MS = 3_600_000
"""A replication delay that no test waits for: what crosses, crosses by `drain()`."""


@asynccontextmanager
async def running(data_dir: Path, *, clock: Clock | None = None, **settings: Any) -> AsyncIterator[CosmosServer]:
    """A started server that replicates when told to."""
    settings = {"replication_delay_ms": NEVER_MS, **settings}
    server = CosmosServer(CosmosConfig(data_dir, KEY, **settings), clock=clock)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def client(server: CosmosServer, *, first: int = 0, **settings: Any) -> CosmosClient:
    """An SDK client that prefers region `first` and may write to both; throttled or refused once, it says so or moves on."""
    preferred = [REGIONS[first], REGIONS[1 - first]]
    # 0 would be taken for "not given" (azure-cosmos 4.17.1 `_build_connection_policy`), which means nine tries.
    settings = {"retry_throttle_total": -1, "retry_connect": 0, "preferred_locations": preferred, **settings}
    return CosmosClient(server.endpoints[first], KEY, multiple_write_locations=True, **settings)


async def windows(account: CosmosClient, path: str | list[str] = "/subject", **settings: Any) -> ContainerProxy:
    """The container `meterline/windows`, created as the sink wants it unless told otherwise."""
    lww = {"mode": "LastWriterWins", "conflictResolutionPath": "/revision"}
    database = await account.create_database_if_not_exists("meterline")
    return await database.create_container_if_not_exists(
        "windows", PartitionKey(path), **{"conflict_resolution_policy": lww, **settings}
    )


async def both(server: CosmosServer) -> tuple[CosmosClient, CosmosClient]:
    """One client per region, each pinned to its own."""
    one, other = (
        CosmosClient(
            server.endpoints[region],
            KEY,
            multiple_write_locations=True,
            preferred_locations=[REGIONS[region]],
            excluded_locations=[REGIONS[1 - region]],
            consistency_level="Eventual",
        )
        for region in range(2)
    )
    return one, other


async def request(
    endpoint: str, method: str, path: str, body: Any = None, *, key: str = KEY, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """One signed request without an SDK: status and JSON."""
    headers = signed_headers(MasterKey(key), method, path, SystemClock().now_ms()) | (headers or {})
    async with aiohttp.ClientSession() as session:
        async with session.request(method, endpoint.rstrip("/") + path, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None


class Process:
    """`python -m local.cosmos` as a process."""

    def __init__(self, data_dir: Path, *arguments: str, key: str | None = KEY) -> None:
        self._command = [sys.executable, "-m", "local.cosmos", "--data-dir", str(data_dir), *arguments]
        self._environment = {**os.environ, "METERLINE_LOCAL_COSMOS_KEY": key or ""}
        self.ports: list[int] = []
        self.ready: dict[str, Any] = {}

    async def start(self) -> None:
        """Return when it says that it accepts."""
        self.process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if line:
            self.ready = json.loads(line)
            self.ports = self.ready["ports"]

    @property
    def endpoints(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/" for port in self.ports]

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, bytes, bytes]:
        """Send a signal; exit code, the rest of stdout, and stderr. One that never was ready ends by itself."""
        if self.process.returncode is None and self.ready:
            self.process.send_signal(number)
        out, err = await self.process.communicate()
        return self.process.returncode or 0, out, err
