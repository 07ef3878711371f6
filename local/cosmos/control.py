"""The control endpoints, signed with the account key like everything else.

``POST /_local/faults`` one fault or a list of them (fields of `faults.Fault`); ``DELETE /_local/faults`` forgets all ·
``POST /_local/regions/{name}`` ``{"up": false, "how": "refused" | "unavailable"}`` · ``POST /_local/drain`` applies all
that waits · ``GET /_local/state`` regions, queues, faults and items per container.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from local.cosmos.containers import Containers
from local.cosmos.exceptions import CosmosError, bad_request
from local.cosmos.faults import Faults
from local.cosmos.replication import Regions
from local.cosmos.store import Store


class Control:
    """Handles `/_local/…` once the signature is checked."""

    def __init__(self, store: Store, containers: Containers, regions: Regions, faults: Faults) -> None:
        self._store = store
        self._containers = containers
        self._regions = regions
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.Request, parts: Sequence[str]) -> web.StreamResponse:
        """Answer one request; `parts` is the path below `_local`."""
        match (request.method, *parts):
            case ("GET", "state"):
                return _json(self.state())
            case ("POST", "faults"):
                return await self._add_faults(request)
            case ("DELETE", "faults"):
                self._faults.clear()
                return _json(self.state())
            case ("POST", "drain"):
                await self._regions.drain()
                return _json(self.state())
            case ("POST", "regions", name):
                return await self._switch(request, name)
        raise CosmosError(404, "There is no such control endpoint.")

    def state(self) -> dict[str, Any]:
        """What `/_local/state` shows. No secret is in it."""
        queued = self._regions.queued()
        return {
            "regions": [
                {"name": name, "up": self._regions.is_up(name), "queued": queued[name], "items": self._items(index)}
                for index, name in enumerate(self._regions.names)
            ],
            "faults": self._faults.waiting(),
        }

    def _items(self, region: int) -> dict[str, int]:
        return {
            f"{database['id']}/{container['id']}": self._store.count(region, container["_rid"])
            for database in self._containers.databases()
            for container in self._containers.containers(database["id"])
        }

    async def _add_faults(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        try:
            for fields in body if isinstance(body, list) else [body]:
                if not isinstance(fields, Mapping):
                    raise ValueError("a fault is an object")
                self._faults.add_json(fields)
        except ValueError as error:
            raise bad_request(str(error)) from None
        return _json(self.state())

    async def _switch(self, request: web.Request, name: str) -> web.StreamResponse:
        body = await _body(request)
        up = body.get("up") if isinstance(body, Mapping) else None
        how = body.get("how", "refused") if isinstance(body, Mapping) else None
        if not isinstance(up, bool) or how not in ("refused", "unavailable"):
            raise bad_request('Expected {"up": true} or {"up": false, "how": "refused" or "unavailable"}.')
        try:
            region = self._regions.index(name)
        except ValueError as error:
            raise CosmosError(404, str(error)) from None
        if up:
            await self._regions.bring_up(name)
            return _json(self.state())
        others = [self._regions.down(other) for other in range(len(self._regions.names)) if other != region]
        if how == "refused" and all(down == "refused" for down in others):
            raise bad_request('No port would be left to bring it up again; use "how": "unavailable".')
        # The answer goes first: the port that closes may be the one it came in by.
        response = _json({"region": name, "up": False})
        await response.prepare(request)
        await response.write_eof()
        task = asyncio.create_task(self._regions.take_down(name, how))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return response


async def _body(request: web.Request) -> Any:
    try:
        return orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise bad_request("The body is not JSON.") from None


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
