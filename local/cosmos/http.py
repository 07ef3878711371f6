"""The REST face: a request in, its headers read, one operation run, its answer out.

The order for every request:

1. the region's state: one that is down answers nothing, or 503;
2. the signature, on `/_local` too;
3. a waiting fault that strikes before;
4. the container's request units of this second, 429 when they are spent;
5. the operation, and the transaction it shares on disk;
6. a waiting fault that strikes after;
7. the answer.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from local.cosmos import auth, charges, documents, keys, queries
from local.cosmos.charges import Budget
from local.cosmos.clock import Clock
from local.cosmos.containers import Container, Containers
from local.cosmos.exceptions import CosmosError, bad_request, session_not_available, throttled, too_large, unavailable
from local.cosmos.faults import Fault, Faults
from local.cosmos.items import Conditions, Items
from local.cosmos.queries import Page, Scope
from local.cosmos.replication import Regions
from local.cosmos.replies import Reply
from local.cosmos.store import Store

logger = logging.getLogger(__name__)

BODY_MAX_BYTES = 16 * 1024 * 1024
"""Above every limit of the service, so that the limit that answers is the service's own (an escaped body is longer)."""

_WRITES = frozenset({"create", "upsert", "replace", "patch", "delete", "batch"})
_SESSION_READS = frozenset({"read", "query", "feed"})
_ITEM_OPERATIONS = _WRITES | _SESSION_READS
_ON_ITEM = {"GET": "read", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}
_ON_CONTAINER = {"GET": "read_container", "PUT": "replace_container", "DELETE": "delete_container"}


class Face:
    """One region's HTTP handler."""

    def __init__(
        self,
        region: int,
        *,
        key: auth.MasterKey,
        store: Store,
        clock: Clock,
        containers: Containers,
        regions: Regions,
        faults: Faults,
        throughput_rus: int | None,
        account: Callable[[], dict[str, Any]],
        control: Callable[[web.Request, Sequence[str]], Awaitable[web.StreamResponse]],
        closing: asyncio.Event,
    ) -> None:
        self._region = region
        self._key = key
        self._store = store
        self._clock = clock
        self._containers = containers
        self._regions = regions
        self._faults = faults
        self._throughput_rus = throughput_rus
        self._account = account
        self._control = control
        self._closing = closing
        self._items = Items(region, store, clock)
        self._budgets: dict[str, Budget] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        activity_id = request.headers.get("x-ms-activity-id") or str(uuid.uuid4())
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/") if part]
        try:
            if parts[:1] == ["_local"]:
                auth.verify(self._key, request.method, parts, request.headers, self._clock.now_ms())
                return await self._control(request, parts[1:])
            if self._regions.down(self._region) is not None:
                raise unavailable()
            auth.verify(self._key, request.method, parts, request.headers, self._clock.now_ms())
            operation = _operation(request, parts)
            fault = self._faults.take(self._regions.names[self._region], operation)
            if fault is not None and not fault.after:
                return await self._strike(fault, request)
            raw = await self._body(request)
            try:
                reply = self._run(operation, parts, request, raw)
            finally:
                # Also when it refuses: what it saw may be in the transaction that is still open.
                await self._store.committed()
            if operation in _WRITES:
                self._regions.notify()
            if fault is not None:
                return await self._strike(fault, request)
        except CosmosError as error:
            reply = Reply.error(error, activity_id)
        except web.HTTPRequestEntityTooLarge:
            reply = Reply.error(too_large(), activity_id)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("request failed: %s %s", request.method, "/".join(parts[:4]))
            reply = Reply.error(
                CosmosError(500, "Unknown server error occurred when processing this request."), activity_id
            )
        return _response(reply, request, activity_id)

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await request.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            raise bad_request("The request body ended early.") from None

    async def _strike(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        if fault.kind == "throttle":
            raise throttled(fault.retry_after_ms)
        if fault.kind == "unavailable":
            raise unavailable()
        if fault.kind == "status":
            raise CosmosError(fault.status, "A fault was injected here.", substatus=fault.substatus)
        if fault.kind.startswith("timeout"):
            # The handler is cancelled when the client gives up; closing the server ends it as well.
            await self._closing.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    # -- operations

    def _run(self, operation: str, parts: Sequence[str], request: web.Request, raw: bytes) -> Reply:
        if operation == "account":
            return Reply.json(200, self._account(), charge=0.0)
        if len(parts) < 5:
            return self._manage(operation, parts, request, raw)
        container = self._containers.container(parts[1], parts[3])
        self._check_intended(container, request)
        if operation == "pkranges":
            return _ranges(container, request)
        if operation == "query_plan":
            return queries.query_plan(documents.decode(raw))
        now_ms = self._clock.now_ms()
        budget = self._budget(container)
        wait_ms = budget.wait_ms(now_ms) if budget is not None else 0
        if wait_ms:
            raise throttled(wait_ms)
        if operation in _SESSION_READS:
            self._check_session(container, request)
        try:
            reply = self._on_items(operation, container, parts, request, raw)
        except CosmosError as error:
            error.headers.setdefault("x-ms-session-token", self._session(container, request))
            if budget is not None:
                budget.spend(error.charge, now_ms)
            raise
        if budget is not None:
            budget.spend(reply.charge, now_ms)
        reply.headers.setdefault("x-ms-session-token", self._session(container, request))
        if operation in _WRITES and operation != "batch" and request.headers.get("prefer", "") == "return=minimal":
            reply.body = None
        return reply

    def _manage(self, operation: str, parts: Sequence[str], request: web.Request, raw: bytes) -> Reply:
        containers, control = self._containers, charges.CONTROL
        match operation:
            case "create_database":
                return Reply.json(201, containers.create_database(documents.decode(raw)), charge=control)
            case "read_database":
                return Reply.json(200, containers.database(parts[1]), charge=control)
            case "delete_database":
                containers.delete_database(parts[1])
                return Reply(204, charge=control)
            case "list_databases":
                return _listed("Databases", containers.databases(), request, raw)
            case "create_container":
                return Reply.json(201, containers.create_container(parts[1], documents.decode(raw)), charge=control)
            case "read_container":
                return Reply.json(200, containers.container(parts[1], parts[3]).body, charge=control)
            case "replace_container":
                body = containers.replace_container(parts[1], parts[3], documents.decode(raw))
                return Reply.json(200, body, charge=control)
            case "delete_container":
                containers.delete_container(parts[1], parts[3])
                return Reply(204, charge=control)
            case "list_containers":
                return _listed("DocumentCollections", containers.containers(parts[1]), request, raw)
        raise AssertionError(f"no such operation: {operation}")

    def _on_items(
        self, operation: str, container: Container, parts: Sequence[str], request: web.Request, raw: bytes
    ) -> Reply:
        headers = request.headers
        key_text = headers.get("x-ms-documentdb-partitionkey")
        key = keys.parse_header(key_text) if key_text is not None else None
        given = Conditions(headers.get("if-match"), headers.get("if-none-match"))
        match operation:
            case "create":
                return self._items.create(container, key, documents.decode(raw))
            case "upsert":
                return self._items.upsert(container, key, documents.decode(raw), given)
            case "read":
                return self._items.read(container, key, parts[5], given)
            case "replace":
                return self._items.replace(container, key, parts[5], documents.decode(raw), given)
            case "patch":
                return self._items.patch(container, key, parts[5], documents.decode(raw), given)
            case "delete":
                return self._items.delete(container, key, parts[5], given)
            case "batch":
                return self._items.batch(container, key, documents.decode(raw), len(raw))
        scope, page = _scope(request, key), _page(request)
        if operation == "query":
            return queries.run_query(self._store, self._region, container, documents.decode(raw), scope, page)
        if "a-im" in headers:
            raise bad_request("The local Cosmos DB has no change feed.")
        return queries.read_feed(self._store, self._region, container, scope, page)

    # -- sessions and units

    def _session(self, container: Container, request: web.Request) -> str:
        """`range:version#total#region=n…` for the partition the request was for, or for all of them."""
        progress = self._store.progress(self._region, container.rid)
        vector = f"1#{sum(progress)}" + "".join(f"#{region}={n}" for region, n in enumerate(progress))
        given = request.headers.get("x-ms-documentdb-partitionkeyrangeid")
        key_text = request.headers.get("x-ms-documentdb-partitionkey")
        if given is None and key_text is not None:
            key = keys.parse_header(key_text)
            if len(key) == len(container.key.paths):
                given = keys.range_of(keys.epk(key, container.key.hierarchical))
        names = [given] if given is not None else [name for name, _, _ in keys.RANGES]
        return ",".join(f"{name}:{vector}" for name in names)

    def _check_session(self, container: Container, request: web.Request) -> None:
        token = request.headers.get("x-ms-session-token", "")
        if request.headers.get("x-ms-consistency-level", "Session") != "Session":
            return
        progress = self._store.progress(self._region, container.rid)
        for part in token.split(","):
            for segment in part.split("#")[2:]:
                region, _, sequence = segment.partition("=")
                if not (region.isdigit() and sequence.isdigit() and int(region) < len(progress)):
                    raise bad_request("Invalid session token")
                if progress[int(region)] < int(sequence):
                    raise session_not_available()

    def _check_intended(self, container: Container, request: web.Request) -> None:
        intended = request.headers.get("x-ms-cosmos-intended-collection-rid")
        if intended is not None and intended != container.rid:
            raise bad_request("Collection rid mismatch: the container was recreated.", substatus=1024)

    def _budget(self, container: Container) -> Budget | None:
        if self._throughput_rus is None:
            return None
        return self._budgets.setdefault(container.rid, Budget(self._throughput_rus))


def _operation(request: web.Request, parts: Sequence[str]) -> str:
    """Which of `faults.OPERATIONS` a request is; 404 or 405 for what is none."""
    method, headers = request.method, request.headers
    if not parts and method == "GET":
        return "account"
    kinds = tuple(parts[::2])
    if kinds == ("dbs",) or kinds == ("dbs", "colls"):
        kind = "database" if kinds == ("dbs",) else "container"
        if len(parts) == len(kinds) * 2 - 1:
            if method == "GET" or (method == "POST" and _is_query(request)):
                return f"list_{kind}s"
            if method == "POST":
                return f"create_{kind}"
        elif method in _ON_CONTAINER and (kind == "container" or method != "PUT"):
            return _ON_CONTAINER[method].replace("container", kind)
    elif kinds == ("dbs", "colls", "pkranges") and method == "GET":
        return "pkranges"
    elif kinds == ("dbs", "colls", "docs"):
        if len(parts) == 6 and method in _ON_ITEM:
            return _ON_ITEM[method]
        if len(parts) == 5 and method == "GET":
            return "feed"
        if len(parts) == 5 and method == "POST":
            if _flag(headers.get("x-ms-cosmos-is-batch-request")):
                return "batch"
            if _flag(headers.get("x-ms-cosmos-is-query-plan-request")):
                return "query_plan"
            if _is_query(request):
                return "query"
            return "upsert" if _flag(headers.get("x-ms-documentdb-is-upsert")) else "create"
    else:
        raise CosmosError(404, "The local Cosmos DB has no such resource.")
    raise CosmosError(405, f"{method} is not a method of this resource.")


def _flag(text: str | None) -> bool:
    return text is not None and text.lower() == "true"


def _is_query(request: web.Request) -> bool:
    return _flag(request.headers.get("x-ms-documentdb-isquery")) or request.content_type == "application/query+json"


def _scope(request: web.Request, key: Sequence[Any] | None) -> Scope:
    headers = request.headers
    low, high = headers.get("x-ms-start-epk"), headers.get("x-ms-end-epk")
    return Scope(
        key=key,
        range_id=headers.get("x-ms-documentdb-partitionkeyrangeid"),
        epk=(low, high) if low is not None and high is not None else None,
        cross_partition=_flag(headers.get("x-ms-documentdb-query-enablecrosspartition")),
    )


def _page(request: web.Request) -> Page:
    text = request.headers.get("x-ms-max-item-count")
    if text is not None and not text.lstrip("-").isdigit():
        raise bad_request("x-ms-max-item-count is not a number.")
    return Page(int(text) if text is not None else None, request.headers.get("x-ms-continuation"))


def _listed(name: str, resources: list[dict[str, Any]], request: web.Request, raw: bytes) -> Reply:
    if request.method == "POST":
        return queries.query_resources(name, resources, documents.decode(raw))
    return Reply.json(200, {"_rid": "", name: resources, "_count": len(resources)}, charge=charges.CONTROL)


def _ranges(container: Container, request: web.Request) -> Reply:
    """The physical partitions; 304 when the client has them, which is how a client knows that it has all."""
    etag = f'"{container.rid}"'
    if request.headers.get("if-none-match") == etag:
        raise CosmosError(304, "", headers={"etag": etag})
    found = [
        {
            "id": name,
            "_rid": f"{container.rid}-{name}",
            "_self": f"{container.link}pkranges/{name}/",
            "_etag": etag,
            "_ts": container.body["_ts"],
            "minInclusive": low,
            "maxExclusive": high,
            "ridPrefix": int(name),
            "throughputFraction": 1 / len(keys.RANGES),
            "status": "online",
            "parents": [],
        }
        for name, low, high in keys.RANGES
    ]
    body = {"_rid": container.rid, "PartitionKeyRanges": found, "_count": len(found)}
    return Reply.json(200, body, charge=charges.CONTROL, headers={"etag": etag})


def _response(reply: Reply, request: web.Request, activity_id: str) -> web.Response:
    headers = {
        "x-ms-request-charge": f"{reply.charge:g}",
        "x-ms-activity-id": activity_id,
        "x-ms-version": request.headers.get("x-ms-version", "2020-07-15"),
        "x-ms-gatewayversion": "version=2.14.0",
        **reply.headers,
    }
    if reply.body is None:
        return web.Response(status=reply.status, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers, content_type="application/json")
