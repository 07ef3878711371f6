"""The local Cosmos DB as one object: configure, start, use, close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from local.cosmos.auth import MasterKey
from local.cosmos.clock import Clock, SystemClock
from local.cosmos.containers import Containers
from local.cosmos.control import Control
from local.cosmos.faults import Faults
from local.cosmos.http import BODY_MAX_BYTES, Face
from local.cosmos.replication import Down, Regions
from local.cosmos.store import Store

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class CosmosConfig:
    """data_dir: where everything is kept. key: the account key, base64. host: a loopback address only.

    ports: one per region, 0 for any free one. regions: two different names. replication_delay_ms: the age at which a
    write reaches the other region. throughput_rus: request units per second, container and region; None for no limit.
    """

    data_dir: Path
    key: str = field(repr=False)
    host: str = "127.0.0.1"
    ports: tuple[int, int] = (0, 0)
    regions: tuple[str, str] = ("West Europe", "North Europe")
    replication_delay_ms: int = 50
    throughput_rus: int | None = None

    def __post_init__(self) -> None:
        if self.host not in _LOOPBACK:
            raise ValueError(f"the local Cosmos DB serves this machine only: host is one of {', '.join(_LOOPBACK)}")
        if len(self.regions) != 2 or self.regions[0] == self.regions[1]:
            raise ValueError("exactly two regions with different names are needed")
        if self.replication_delay_ms < 0:
            raise ValueError("replication_delay_ms is not negative")
        if self.throughput_rus is not None and self.throughput_rus <= 0:
            raise ValueError("throughput_rus is positive, or None for no limit")
        MasterKey(self.key)


class CosmosServer:
    """Two regions on two ports. `start()` before anything else, `close()` at the end; both are idempotent.

    faults: what to do to which requests (`faults.Fault`). regions: up, down and replication (`replication.Regions`).
    """

    faults: Faults
    regions: Regions

    def __init__(self, config: CosmosConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self.faults = Faults(config.regions)
        self._sockets: list[socket.socket] = []
        self._ports: list[int] = []
        self._runners: list[web.AppRunner | None] = [None, None]
        self._store: Store | None = None
        self._replicating: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URL of each region, the first write region first."""
        return tuple(f"http://{_bracketed(self._config.host)}:{port}/" for port in self._ports)

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of each region, once started."""
        return tuple(self._ports)

    async def start(self) -> None:
        """Open the store and both ports, and go on replicating what waits from last time.

        RuntimeError when the data directory is in use, OSError when a port is.
        """
        if self._store is not None:
            return
        self._closing.clear()
        self._store = store = Store(self._config.data_dir)
        containers = Containers(store, self._clock)
        self.regions = Regions(
            self._config.regions, store, self._clock, self._config.replication_delay_ms, self._switch_region
        )
        control = Control(store, containers, self.regions, self.faults)
        self._faces = [
            Face(
                region,
                key=MasterKey(self._config.key),
                store=store,
                clock=self._clock,
                containers=containers,
                regions=self.regions,
                faults=self.faults,
                throughput_rus=self._config.throughput_rus,
                account=self._account,
                control=control.handle,
                closing=self._closing,
            )
            for region in range(len(self._config.regions))
        ]
        try:
            for port in self._config.ports:
                self._sockets.append(_bound(self._config.host, port))
            self._ports = [bound.getsockname()[1] for bound in self._sockets]
            for region in range(len(self._sockets)):
                await self._open(region)
        except OSError:
            await self.close()
            raise
        self._replicating = asyncio.create_task(self.regions.run())

    async def drain(self) -> None:
        """Apply every change that waits between regions that are up; both then show the same."""
        await self.regions.drain()

    async def close(self) -> None:
        """Stop serving and let go of the data directory. What waits for the other region waits on in it."""
        self._closing.set()
        if self._replicating is not None:
            self._replicating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._replicating
            self._replicating = None
        for region in range(len(self._runners)):
            await self._shut(region)
        for bound in self._sockets:
            bound.close()
        self._sockets.clear()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _account(self) -> dict[str, Any]:
        """What `GET /` tells: both regions, both writable."""
        locations = [
            {"name": name, "databaseAccountEndpoint": endpoint}
            for name, endpoint in zip(self._config.regions, self.endpoints, strict=True)
        ]
        replication = {"minReplicaSetSize": 1, "maxReplicasetSize": 4}
        return {
            "id": "local",
            "_self": "",
            "_rid": "local.cosmos",
            "media": "//media/",
            "addresses": "//addresses/",
            "_dbs": "//dbs/",
            "writableLocations": locations,
            "readableLocations": locations,
            "enableMultipleWriteLocations": True,
            "continuousBackupEnabled": False,
            "enableNRegionSynchronousCommit": False,
            "enablePerPartitionFailoverBehavior": False,
            "userReplicationPolicy": {"asyncReplication": False, **replication},
            "systemReplicationPolicy": replication,
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
            "queryEngineConfiguration": "{}",
        }

    async def _switch_region(self, region: int, down: Down | None) -> None:
        if down == "refused":
            await self._shut(region)
        elif self._runners[region] is None:
            await self._open(region)

    async def _open(self, region: int) -> None:
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app.router.add_route("*", "/{path:.*}", self._faces[region].handle)
        # A handler that hangs on purpose ends when its client gives up.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, self._sockets[region], backlog=512).start()
        self._runners[region] = runner

    async def _shut(self, region: int) -> None:
        runner, self._runners[region] = self._runners[region], None
        if runner is None:
            return
        await runner.cleanup()
        if not self._closing.is_set():
            # A bound socket that does not listen refuses connections and keeps the port for when the region is back.
            self._sockets[region] = _bound(self._config.host, self._ports[region])


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
