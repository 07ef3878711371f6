"""Items of one region: create, upsert, read, replace, patch, delete and the transactional batch.

Every write is, in one transaction: the item in this region, its place in the queue to the other, and the region's own
progress. So what a client was told is replicated sooner or later, whatever happens in between.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from local.cosmos import charges, documents, keys, regions
from local.cosmos.clock import Clock
from local.cosmos.containers import Container
from local.cosmos.evaluate import condition
from local.cosmos.exceptions import CosmosError, bad_request, conflict, not_found, precondition_failed, too_large
from local.cosmos.query import parse_condition
from local.cosmos.replies import Reply
from local.cosmos.store import Address, Store

BATCH_MAX_OPERATIONS = 100


@dataclass(frozen=True, slots=True)
class Conditions:
    """The preconditions of a request, as its headers give them."""

    if_match: str | None = None
    if_none_match: str | None = None


class Items:
    """Item operations as one region's clients see them. `key`: the partition key of the header, None without one."""

    def __init__(self, region: int, store: Store, clock: Clock) -> None:
        self._region = region
        self._store = store
        self._clock = clock

    def create(self, container: Container, key: Sequence[Any] | None, document: Any) -> Reply:
        """201, or 409 when the id is taken within its key."""
        document = documents.check_document(document)
        address = self._address(container, key, document)
        if self._current(address) is not None:
            raise conflict()
        return self._write(container, address, document, None, 201)

    def upsert(self, container: Container, key: Sequence[Any] | None, document: Any, given: Conditions) -> Reply:
        """201 for a new item, 200 for one that was there."""
        document = documents.check_document(document)
        address = self._address(container, key, document)
        current = self._current(address)
        if current is not None or given.if_match is not None:
            documents.check_match(current, given.if_match, given.if_none_match)
        return self._write(container, address, document, current, 201 if current is None else 200)

    def read(self, container: Container, key: Sequence[Any] | None, identifier: str, given: Conditions) -> Reply:
        """200 with the item, 304 when If-None-Match has its etag, 404."""
        body = self._store.body(self._region, container.rid, keys.canonical(_required(key, container)), identifier)
        if body is None:
            raise not_found()
        etag = orjson.loads(body)["_etag"]
        if given.if_none_match in (etag, "*"):
            raise CosmosError(304, "", headers={"etag": etag})
        return Reply(200, body, charges.read(len(body)), {"etag": etag})

    def replace(
        self, container: Container, key: Sequence[Any] | None, identifier: str, document: Any, given: Conditions
    ) -> Reply:
        """200; 404 when there is none, 412 when the preconditions do not hold, 400 for another id."""
        document = documents.check_document(document)
        if document["id"] != identifier:
            raise bad_request("Replacing the id of an item is not allowed; delete it and create another.")
        address = self._address(container, key, document)
        current = self._existing(address)
        documents.check_match(current, given.if_match, given.if_none_match)
        return self._write(container, address, document, current, 200)

    def patch(
        self, container: Container, key: Sequence[Any] | None, identifier: str, change: Any, given: Conditions
    ) -> Reply:
        """200 with the patched item; 412 also when the filter predicate is not true."""
        if isinstance(change, list):
            change = {"operations": change}
        if not isinstance(change, Mapping):
            raise bad_request("A patch is an object with 'operations'.")
        components = _required(key, container)
        address = Address(
            container.rid, keys.canonical(components), identifier, keys.epk(components, container.key.hierarchical)
        )
        current = self._existing(address)
        documents.check_match(current, given.if_match, given.if_none_match)
        if change.get("condition"):
            alias, where = parse_condition(str(change["condition"]))
            if not condition(alias, where, current):
                raise precondition_failed()
        operations: Any = change.get("operations")
        document = documents.check_document(documents.patched(current, operations, container.key.paths))
        reply = self._write(container, address, document, current, 200)
        terms = charges.indexed_terms(document, container.body["indexingPolicy"])
        reply.charge = charges.patch(len(reply.body or b""), terms, len(operations))
        return reply

    def delete(self, container: Container, key: Sequence[Any] | None, identifier: str, given: Conditions) -> Reply:
        """204, or 404 when there is none."""
        components = _required(key, container)
        address = Address(
            container.rid, keys.canonical(components), identifier, keys.epk(components, container.key.hierarchical)
        )
        current = self._existing(address)
        documents.check_match(current, given.if_match, given.if_none_match)
        self._commit(container, address, current, None)
        size = len(orjson.dumps(current))
        return Reply(204, None, charges.replace(size, self._terms(container, current)))

    def batch(self, container: Container, key: Sequence[Any] | None, operations: Any, size_bytes: int) -> Reply:
        """200 with every result, or 207: the one that failed, 424 for the others, and nothing changed."""
        if not isinstance(operations, list) or not operations:
            raise bad_request("Batch request has no operations.")
        if len(operations) > BATCH_MAX_OPERATIONS:
            raise bad_request(f"Batch request has more operations than what is supported ({BATCH_MAX_OPERATIONS}).")
        if size_bytes > documents.ITEM_MAX_BYTES:
            raise too_large()
        _required(key, container)
        results: list[dict[str, Any]] = []
        charge = 0.0
        failed: CosmosError | None = None
        try:
            with self._store.atomic():
                for operation in operations:
                    reply = self._one_of_batch(container, key, operation)
                    charge += reply.charge
                    results.append(_batch_result(reply))
        except CosmosError as error:
            failed = error
        if failed is None:
            return Reply.json(200, results, charge=round(charge, 2))
        dependents = {"statusCode": 424, "requestCharge": 0.0}
        first = {"statusCode": failed.status, "subStatusCode": failed.substatus, "requestCharge": failed.charge}
        after = len(operations) - len(results) - 1
        outcome = [dict(dependents) for _ in results] + [first] + [dict(dependents) for _ in range(after)]
        return Reply.json(207, outcome, charge=round(charge + failed.charge, 2))

    def _one_of_batch(self, container: Container, key: Sequence[Any] | None, operation: Any) -> Reply:
        if not isinstance(operation, Mapping):
            raise bad_request("A batch operation is an object.")
        given = Conditions(operation.get("ifMatch"), operation.get("ifNoneMatch"))
        identifier, body = operation.get("id", ""), operation.get("resourceBody")
        match operation.get("operationType"):
            case "Create":
                return self.create(container, key, body)
            case "Upsert":
                return self.upsert(container, key, body, given)
            case "Read":
                return self.read(container, key, identifier, given)
            case "Replace":
                return self.replace(container, key, identifier, body, given)
            case "Patch":
                return self.patch(container, key, identifier, body, given)
            case "Delete":
                return self.delete(container, key, identifier, given)
        raise bad_request(f"Unknown batch operation {str(operation.get('operationType'))[:32]!r}.")

    # -- storing

    def _address(self, container: Container, key: Sequence[Any] | None, document: Mapping[str, Any]) -> Address:
        extracted = container.key.extract(document)
        documents.check_key(extracted, key)
        epk = keys.epk(extracted, container.key.hierarchical)
        return Address(container.rid, keys.canonical(extracted), document["id"], epk)

    def _current(self, address: Address) -> dict[str, Any] | None:
        body = self._store.body(self._region, address.container, address.pk, address.id)
        return None if body is None else orjson.loads(body)

    def _existing(self, address: Address) -> dict[str, Any]:
        current = self._current(address)
        if current is None:
            raise not_found()
        return current

    def _write(
        self,
        container: Container,
        address: Address,
        document: Mapping[str, Any],
        current: Mapping[str, Any] | None,
        status: int,
    ) -> Reply:
        if container.unique_keys:
            self._check_unique(container, address, document)
        with self._store.atomic():
            rid = current["_rid"] if current is not None else self._next_rid(container)
            stored = documents.stamped(
                document,
                rid=rid,
                link=f"{container.link}docs/{rid}/",
                etag=f'"{uuid.uuid4()}"',
                ts=self._clock.now_ms() // 1000,
            )
            body = orjson.dumps(stored)
            self._commit(container, address, stored, body)
        terms = self._terms(container, stored)
        charge = charges.create(len(body), terms) if current is None else charges.replace(len(body), terms)
        return Reply(status, body, charge, {"etag": stored["_etag"]})

    def _commit(self, container: Container, address: Address, stored: Mapping[str, Any], body: bytes | None) -> None:
        """Store one write: item, progress and queue together. body: None deletes."""
        now_ms = self._clock.now_ms()
        with self._store.atomic():
            sequence = self._store.progress(self._region, container.rid)[self._region] + 1
            siblings, version = regions.write(
                self._store.siblings(self._region, address),
                self._region,
                sequence,
                priority=documents.priority(stored, container.conflict_path),
                ts=now_ms // 1000,
                body=body,
            )
            self._store.put(self._region, address, siblings)
            self._store.advance(self._region, container.rid, self._region, sequence)
            self._store.queue(self._region, address, version, now_ms)

    def _next_rid(self, container: Container) -> str:
        number = self._store.next_number("docs") * regions.REGIONS + self._region
        return keys.rid_of(container.rid, number)

    def _terms(self, container: Container, document: Mapping[str, Any]) -> int:
        return charges.indexed_terms(document, container.body["indexingPolicy"])

    def _check_unique(self, container: Container, address: Address, document: Mapping[str, Any]) -> None:
        for _, body in self._store.scan(
            self._region, container.rid, pk=address.pk, epk=("", "FF"), after=0, limit=1_000_000
        ):
            other = orjson.loads(body)
            if other["id"] == address.id:
                continue
            for paths in container.unique_keys:
                if all(_at(other, path) == _at(document, path) for path in paths):
                    raise conflict("Unique index constraint violation.")


def _at(document: Any, path: str) -> Any:
    for name in path.strip("/").split("/"):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _required(key: Sequence[Any] | None, container: Container) -> Sequence[Any]:
    if key is None:
        raise bad_request("PartitionKey value must be supplied for this operation.")
    if len(key) != len(container.key.paths):
        raise bad_request(
            "Partition key provided either doesn't correspond to definition in the collection or doesn't match partition"
            " key field values specified in the document.",
            substatus=1001,
        )
    return key


def _batch_result(reply: Reply) -> dict[str, Any]:
    result: dict[str, Any] = {"statusCode": reply.status, "requestCharge": reply.charge}
    if "etag" in reply.headers:
        result["eTag"] = reply.headers["etag"]
    if reply.body is not None:
        result["resourceBody"] = orjson.loads(reply.body)
    return result
