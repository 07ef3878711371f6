"""Databases and containers: created, read, listed, replaced and deleted, with the policies that come with them.

They belong to the account, so both regions have them at once. What a container is created with is returned as given:
partition key, indexing policy, unique keys, conflict resolution. The last two and the key never change afterwards.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.cosmos.clock import Clock
from local.cosmos.documents import check_id
from local.cosmos.exceptions import bad_request, conflict, not_found
from local.cosmos.keys import KeyDefinition
from local.cosmos.store import Store

DEFAULT_INDEXING = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": "/*"}],
    "excludedPaths": [{"path": '/"_etag"/?'}],
}
_FIXED = ("partitionKey", "uniqueKeyPolicy", "conflictResolutionPolicy")
_CHILDREN = {
    "_docs": "docs/", "_sprocs": "sprocs/", "_triggers": "triggers/", "_udfs": "udfs/", "_conflicts": "conflicts/"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Container:
    """A container as item operations need it: its rid and the parsed policies of `body`."""

    rid: str
    link: str
    key: KeyDefinition
    body: dict[str, Any]

    @property
    def conflict_path(self) -> str:
        """Where the number is that decides between concurrent writes."""
        return str(self.body["conflictResolutionPolicy"]["conflictResolutionPath"])

    @property
    def unique_keys(self) -> list[list[str]]:
        """The sets of paths whose values are unique within a partition key."""
        return [entry["paths"] for entry in self.body["uniqueKeyPolicy"].get("uniqueKeys", [])]


class Containers:
    """The account's databases and containers."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._parsed: dict[str, Container] = {}

    # -- databases

    def create_database(self, body: Any) -> dict[str, Any]:
        """201, or 409 when the id is taken."""
        identifier = check_id(body.get("id") if isinstance(body, Mapping) else None)
        if self._store.resource("dbs", "", identifier):
            raise conflict()
        with self._store.atomic():
            rid = _rid(self._store.next_number("dbs").to_bytes(4, "little"))
            database = {"id": identifier, **self._system(rid, f"dbs/{rid}/"), "_colls": "colls/", "_users": "users/"}
            self._store.put_resource("dbs", "", database)
        return database

    def database(self, identifier: str) -> dict[str, Any]:
        """The database, or 404."""
        found = self._store.resource("dbs", "", identifier)
        if found is None:
            raise not_found("Owner resource does not exist")
        return found

    def databases(self) -> list[dict[str, Any]]:
        """All of them."""
        return self._store.resources("dbs", "")

    def delete_database(self, identifier: str) -> None:
        """With everything in it; 404 when it is not there."""
        database = self.database(identifier)
        with self._store.atomic():
            self._store.delete_resource("dbs", "", database)
        self._parsed.clear()

    # -- containers

    def create_container(self, database_id: str, body: Any) -> dict[str, Any]:
        """201, 409 when the id is taken, 400 for a definition that cannot be served."""
        database = self.database(database_id)
        if not isinstance(body, Mapping):
            raise bad_request("The input content is invalid because it is not a JSON object.")
        identifier = check_id(body.get("id"))
        policies = _policies(body)
        if self._store.resource("colls", database["_rid"], identifier):
            raise conflict()
        with self._store.atomic():
            number = self._store.next_number("colls") | 0x8000_0000
            rid = _rid(base64.b64decode(database["_rid"].replace("-", "/")) + number.to_bytes(4, "big"))
            container = {
                **body, **policies, **self._system(rid, f"dbs/{database['_rid']}/colls/{rid}/"), **_CHILDREN
            }  # fmt: skip
            self._store.put_resource("colls", database["_rid"], container)
        return container

    def container(self, database_id: str, identifier: str) -> Container:
        """The container ready for item operations, or 404."""
        link = f"dbs/{database_id}/colls/{identifier}"
        if link not in self._parsed:
            body = self._store.resource("colls", self.database(database_id)["_rid"], identifier)
            if body is None:
                raise not_found("Owner resource does not exist")
            self._parsed[link] = Container(body["_rid"], body["_self"], KeyDefinition.of(body["partitionKey"]), body)
        return self._parsed[link]

    def containers(self, database_id: str) -> list[dict[str, Any]]:
        """All of a database."""
        return self._store.resources("colls", self.database(database_id)["_rid"])

    def replace_container(self, database_id: str, identifier: str, body: Any) -> dict[str, Any]:
        """200; 400 when it would change the partition key, the unique keys or the conflict resolution."""
        present = self.container(database_id, identifier).body
        if not isinstance(body, Mapping) or body.get("id") != identifier:
            raise bad_request("The id of a container can't be changed.")
        policies = _policies({"partitionKey": present["partitionKey"], **body})
        for name in _FIXED:
            if name in body and policies[name] != present[name]:
                raise bad_request(f"{name} can't be changed once a container is created.")
        changed = {**body, **policies, **{name: present[name] for name in _FIXED}}
        changed |= {**self._system(present["_rid"], present["_self"]), **_CHILDREN}
        with self._store.atomic():
            self._store.put_resource("colls", self.database(database_id)["_rid"], changed)
        self._parsed.clear()
        return changed

    def delete_container(self, database_id: str, identifier: str) -> None:
        """With its items; 404 when it is not there."""
        body = self.container(database_id, identifier).body
        with self._store.atomic():
            self._store.delete_resource("colls", self.database(database_id)["_rid"], body)
        self._parsed.clear()

    def _system(self, rid: str, link: str) -> dict[str, Any]:
        return {"_rid": rid, "_self": link, "_etag": f'"{uuid.uuid4()}"', "_ts": self._clock.now_ms() // 1000}


def _rid(raw: bytes) -> str:
    return base64.b64encode(raw).decode().replace("/", "-")


def _policies(body: Mapping[str, Any]) -> dict[str, Any]:
    """The policies a container has after its definition was read, defaults filled in; 400 for what cannot be served."""
    KeyDefinition.of(body.get("partitionKey") or {})
    resolution = {
        "mode": "LastWriterWins",
        "conflictResolutionPath": "/_ts",
        "conflictResolutionProcedure": "",
        **(body.get("conflictResolutionPolicy") or {}),
    }
    if resolution["mode"].lower() != "lastwriterwins":
        raise bad_request("The local Cosmos DB resolves conflicts by LastWriterWins only.")
    if not str(resolution["conflictResolutionPath"]).startswith("/"):
        raise bad_request("The conflictResolutionPath must begin with '/'.")
    return {
        "partitionKey": {"kind": "Hash", "version": 2, **body["partitionKey"]},
        "indexingPolicy": body.get("indexingPolicy") or DEFAULT_INDEXING,
        "uniqueKeyPolicy": body.get("uniqueKeyPolicy") or {"uniqueKeys": []},
        "conflictResolutionPolicy": resolution,
        "geospatialConfig": body.get("geospatialConfig") or {"type": "Geography"},
    }
