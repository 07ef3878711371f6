"""A Cosmos DB account with two write regions at the level of the SDK's calls, in virtual time: the service's side.

A write commits in the region it lands in and travels to the other one later; concurrent versions are resolved by the
container's conflict path, the highest wins, and both regions come to the same (`local.cosmos.regions`, which laptop mode's
Cosmos DB uses too). Conditions are checked where a write lands. A region that is down neither sends nor receives.

Databases and containers are the account's: created in the first region, known in both at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from local.cosmos import documents, regions
from local.cosmos.evaluate import Evaluator
from local.cosmos.exceptions import CosmosError, bad_request, conflict, not_found, session_not_available
from local.cosmos.query import parse
from local.cosmos.regions import Siblings, Version
from simulation.wire import Refused, Unavailable

REPLICATION_S = (0.02, 4.0)
"""The least and the most a write takes to the other region, where both are up."""

Address = tuple[str, str, str]
"""Container, partition key value, item id."""

Down = Literal["refused", "unavailable"]
"""How a region is down: its port refuses connections, or it answers 503."""

Outcome = tuple[Any, tuple[int, ...]]
"""What a request for items is answered with: the result or CosmosError, and the region's progress, which is its session."""


@dataclass(frozen=True, slots=True)
class Write:
    """One change of what a region shows of an item. how: `create`, `replace`, or `replicated` from the other region."""

    at_s: float
    region: str
    container: str
    id: str
    revision: int
    etag: str
    how: str


@dataclass(slots=True)
class ContainerSettings:
    """A container as it was created: the property that is its partition key, and its resource."""

    key_property: str
    conflict_path: str
    resource: dict[str, Any]


@dataclass(slots=True)
class _Road:
    """The writes on their way from one region to the other, in order."""

    origin: int
    target: int
    waiting: deque[tuple[float, Address, Version]] = field(default_factory=deque)
    last_due_s: float = 0.0


class Region:
    """One region: what it holds, and what it answers to a request that arrived there."""

    def __init__(self, account: TwoRegions, index: int, name: str) -> None:
        self.name = name
        self.down: Down | None = None
        self._account = account
        self._index = index
        self._items: dict[Address, Siblings] = {}
        self._progress: dict[str, list[int]] = {}

    def container(self, name: str) -> dict[str, dict[str, Any]]:
        """What a reader sees of a container: the items by id, in the order they came, without system properties."""
        found = {}
        for (container, _, identifier), siblings in self._items.items():
            body = _shown(siblings)
            if container == name and body is not None:
                item = orjson.loads(body)
                found[identifier] = {key: value for key, value in item.items() if not key.startswith("_")}
        return found

    def progress(self, container: str) -> tuple[int, ...]:
        """Per origin, how many of its writes to the container this region has."""
        return tuple(self._progress.get(container, (0,) * regions.REGIONS))

    def check_up(self) -> None:
        """Raises Refused or Unavailable while the region is down."""
        if self.down == "refused":
            raise Refused(f"{self.name} is down")
        if self.down == "unavailable":
            raise Unavailable(f"{self.name} answers 503")

    def answer(self, container: str, session: tuple[int, ...], request: Callable[[Region], Any]) -> Outcome:
        """The answer to a request for items. session: what the caller has seen; a read of less is refused with 404/1002."""
        self.check_up()
        try:
            if container not in self._account.containers:
                raise not_found("Owner resource does not exist")
            if any(have < seen for have, seen in zip(self.progress(container), session, strict=False)):
                raise session_not_available()
            return request(self), self.progress(container)
        except CosmosError as error:
            return error, self.progress(container)

    # -- requests; each raises CosmosError

    def create(self, container: str, raw: bytes) -> bytes:
        """The item as stored; 409 where there is one."""
        document = documents.check_document(documents.decode(raw))
        address = self._address(container, document)
        if _shown(self._items.get(address, ())) is not None:
            raise conflict()
        return self._write(address, document, "create")

    def read(self, container: str, key: str, identifier: str) -> bytes:
        """The item as stored; 404."""
        body = _shown(self._items.get((container, key, identifier), ()))
        if body is None:
            raise not_found()
        return body

    def replace(self, container: str, identifier: str, raw: bytes, if_match: str | None) -> bytes:
        """The item as stored now; 404, or 412 unless its etag is `if_match`."""
        document = documents.check_document(documents.decode(raw))
        if document["id"] != identifier:
            raise bad_request("The id of the document is not the one it is sent to.")
        address = self._address(container, document)
        body = _shown(self._items.get(address, ()))
        if body is None:
            raise not_found()
        documents.check_match(orjson.loads(body), if_match, None)
        return self._write(address, document, "replace")

    def query(self, container: str, text: str, parameters: Mapping[str, Any], key: str | None) -> list[dict[str, Any]]:
        """What the query finds in one partition, or in all."""
        evaluator = Evaluator(parse(text), parameters)
        bodies = (
            _shown(siblings)
            for (name, partition, _), siblings in self._items.items()
            if name == container and key in (None, partition)
        )
        return evaluator.run(orjson.loads(body) for body in bodies if body is not None)

    # -- writing and receiving

    def receive(self, address: Address, version: Version) -> None:
        """Takes in a version from the other region."""
        before = self._items.get(address, ())
        after = regions.receive(before, version)
        self._items[address] = after
        self._advance(address[0], version.origin, version.clock[version.origin])
        shown = _shown(after)
        if shown is not None and shown != _shown(before):
            self._account.note(self.name, address, orjson.loads(shown), "replicated")

    def _write(self, address: Address, document: dict[str, Any], how: str) -> bytes:
        container = address[0]
        sequence = self.progress(container)[self._index] + 1
        etag, ts = self._account.next_etag(), int(asyncio.get_running_loop().time())
        item = documents.stamped(document, rid=etag, link="", etag=etag, ts=ts)
        body = orjson.dumps(item)
        priority = documents.priority(document, self._account.containers[container].conflict_path)
        before = self._items.get(address, ())
        self._items[address], version = regions.write(
            before, self._index, sequence, priority=priority, ts=ts, body=body
        )
        self._advance(container, self._index, sequence)
        self._account.note(self.name, address, item, how)
        self._account.replicate(self._index, address, version)
        return body

    def _advance(self, container: str, origin: int, sequence: int) -> None:
        progress = self._progress.setdefault(container, [0] * regions.REGIONS)
        progress[origin] = max(progress[origin], sequence)

    def _address(self, container: str, document: Mapping[str, Any]) -> Address:
        key = document.get(self._account.containers[container].key_property)
        if not isinstance(key, str):
            raise bad_request("PartitionKey extracted from document doesn't match the one specified in the header.")
        return container, key, document["id"]


class TwoRegions:
    """The account. regions: by name, in the account's own order. history: every change of what a region shows.

    replication_s: the least and the most a write takes to the other region. sessions: whether its consistency is Session,
    Azure's default: a client reads what it wrote, or is told 404/1002; else it is Eventual.
    """

    def __init__(
        self,
        rng: random.Random,
        names: tuple[str, str] = ("North Europe", "West Europe"),
        replication_s: tuple[float, float] = REPLICATION_S,
        *,
        sessions: bool = True,
    ) -> None:
        self.sessions = sessions
        self.regions = {name: Region(self, index, name) for index, name in enumerate(names)}
        self.databases: set[str] = set()
        self.containers: dict[str, ContainerSettings] = {}
        self.history: list[Write] = []
        self._rng = rng
        self._replication_s = replication_s
        self._etag = 0
        self._order = list(self.regions.values())
        self._roads = [_Road(0, 1), _Road(1, 0)]

    @property
    def first(self) -> Region:
        """The region that keeps the account's own things: what its global endpoint and new containers depend on."""
        return self._order[0]

    def take_down(self, name: str, how: Down = "refused") -> None:
        """The region serves nobody, and what is on its roads waits."""
        self.regions[name].down = how

    def bring_up(self, name: str) -> None:
        """It serves again, and what waited on its roads arrives after a while."""
        self.regions[name].down = None
        loop = asyncio.get_running_loop()
        for road in self._roads:
            loop.call_later(self._rng.uniform(*self._replication_s), self._arrive, road, context=Context())

    def converged(self) -> bool:
        """Whether nothing is on its way and both regions show the same."""
        one, other = (
            {address: _shown(siblings) for address, siblings in region._items.items()} for region in self._order
        )
        return not any(road.waiting for road in self._roads) and one == other

    # -- databases and containers

    def create_container(self, name: str, resource: dict[str, Any]) -> None:
        """409 where it exists."""
        if name in self.containers:
            raise conflict("Resource with specified id or name already exists.")
        (path,) = resource["partitionKey"]["paths"]
        policy = resource["conflictResolutionPolicy"]
        assert policy["mode"] == "LastWriterWins", "no other policy is in here"
        self.containers[name] = ContainerSettings(path[1:], policy["conflictResolutionPath"], resource)

    # -- what its regions need of it

    def next_etag(self) -> str:
        """Never given twice, in no region."""
        self._etag += 1
        return f'"{self._etag:08x}"'

    def note(self, region: str, address: Address, item: Mapping[str, Any], how: str) -> None:
        """Keeps a change for the judge: what the region shows now of the item."""
        now_s = asyncio.get_running_loop().time()
        self.history.append(Write(now_s, region, address[0], address[2], int(item["revision"]), item["_etag"], how))

    def replicate(self, origin: int, address: Address, version: Version) -> None:
        """Sends a write to the other region; the writes of one region arrive in their order."""
        loop = asyncio.get_running_loop()
        road = self._roads[origin]
        road.last_due_s = max(road.last_due_s, loop.time() + self._rng.uniform(*self._replication_s))
        road.waiting.append((road.last_due_s, address, version))
        loop.call_at(road.last_due_s, self._arrive, road, context=Context())

    def _arrive(self, road: _Road) -> None:
        """Everything that is due on a road; nothing while one of its ends is down."""
        origin, target = self._order[road.origin], self._order[road.target]
        if origin.down or target.down:
            return
        now_s = asyncio.get_running_loop().time()
        while road.waiting and road.waiting[0][0] <= now_s:
            _, address, version = road.waiting.popleft()
            target.receive(address, version)


def _shown(siblings: Siblings) -> bytes | None:
    if len(siblings) == 1:
        return siblings[0].body
    version = regions.winner(siblings)
    return version.body if version else None
