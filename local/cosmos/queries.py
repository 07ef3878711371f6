"""Queries and feeds over one region's items: which items are in scope, page by page.

Scope: one partition key, one physical partition (a partition key range), a range of EPKs (the prefix of a hierarchical
key), or all. A page ends at its item count or at 4 MB; the continuation says where the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from local.cosmos import charges, keys
from local.cosmos.containers import Container
from local.cosmos.evaluate import UNDEFINED, Evaluator
from local.cosmos.exceptions import CosmosError, bad_request
from local.cosmos.plan import plan
from local.cosmos.query import parse
from local.cosmos.replies import Reply
from local.cosmos.store import Store

PAGE_ITEMS = 1000
PAGE_BYTES = 4 * 1024 * 1024
_EVERYTHING = ("", "FF")
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """Which items a query may see. key: one partition key; range_id: one physical partition; epk: min and max."""

    key: Sequence[Any] | None = None
    range_id: str | None = None
    epk: tuple[str, str] | None = None
    cross_partition: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it spans physical partitions."""
        return self.key is None and self.range_id is None and self.epk is None

    def bounds(self) -> tuple[str, str]:
        """The EPKs in scope, min inclusive and max exclusive; 410 for a range that is not there."""
        low, high = self.epk or _EVERYTHING
        if self.range_id is not None:
            found = next(((a, b) for name, a, b in keys.RANGES if name == self.range_id), None)
            if found is None:
                raise CosmosError(410, f"Partition key range {self.range_id[:32]} is gone.", substatus=1002)
            low, high = max(low, found[0]), min(high, found[1])
        return low, high


@dataclass(frozen=True, slots=True)
class Page:
    """How much to return and where to go on. max_items: as x-ms-max-item-count, -1 or None for the server's choice."""

    max_items: int | None = None
    continuation: str | None = None

    @property
    def size(self) -> int:
        """The number of items a page ends at."""
        return PAGE_ITEMS if self.max_items is None or self.max_items < 1 else self.max_items

    def start(self, kind: str) -> int:
        """Where the continuation begins: after a key (`after`) or at a result (`skip`); 400 for one that is not ours."""
        if not self.continuation:
            return 0
        try:
            value = orjson.loads(self.continuation)[kind]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            value = None
        if not isinstance(value, int):
            raise bad_request("Invalid Continuation Token")
        return value


def evaluator_of(request: Any) -> Evaluator:
    """The query of a request body, `{"query": …, "parameters": [{"name": "@p", "value": …}]}`."""
    if not isinstance(request, Mapping) or not isinstance(request.get("query"), str):
        raise bad_request("The query request has no 'query'.")
    parameters = request.get("parameters") or []
    if not isinstance(parameters, list) or not all(isinstance(p, Mapping) and "name" in p for p in parameters):
        raise bad_request("The query's parameters are not a list of name and value.")
    return Evaluator(parse(request["query"]), {p["name"]: p.get("value", UNDEFINED) for p in parameters})


def query_plan(request: Any) -> Reply:
    """The plan by which a client runs a query over all partitions."""
    return Reply.json(200, plan(evaluator_of(request)), charge=charges.CONTROL)


def run_query(store: Store, region: int, container: Container, request: Any, scope: Scope, page: Page) -> Reply:
    """One page of a query; 400/1004 with a plan when it spans partitions and the client has to merge."""
    evaluator = evaluator_of(request)
    if scope.is_whole:
        if not scope.cross_partition:
            raise bad_request(
                "Cross partition query is required but disabled. Please set"
                " x-ms-documentdb-query-enablecrosspartition to true, specify x-ms-documentdb-partitionkey, or revise"
                " your query to avoid this exception."
            )
        if not evaluator.streams:
            raise CosmosError(
                400,
                "The provided cross partition query can not be directly served by the gateway. This is a first chance"
                " (internal) exception that all newer clients will know how to handle gracefully.",
                substatus=1004,
                additional=orjson.dumps(plan(evaluator)).decode(),
            )
    if evaluator.streams:
        return _stream(store, region, container, evaluator, scope, page)
    read = _Meter()
    results = evaluator.run(orjson.loads(body) for _, body in _items(store, region, container, scope, 0, read))
    start = page.start("skip")
    taken = _within_bytes(results[start : start + page.size])
    end = start + len(taken)
    more = f'{{"skip":{end}}}' if end < len(results) else None
    return _reply(container, taken, more, charges.query(read.size_bytes, len(taken)))


def read_feed(store: Store, region: int, container: Container, scope: Scope, page: Page) -> Reply:
    """One page of all items in scope, in the order they came to this region."""
    evaluator = Evaluator(parse("SELECT * FROM c"), {})
    return _stream(store, region, container, evaluator, scope, page)


def query_resources(name: str, resources: list[dict[str, Any]], request: Any) -> Reply:
    """A query over databases or containers."""
    results = evaluator_of(request).run(resources)
    return Reply.json(200, {"_rid": "", name: results, "_count": len(results)}, charge=charges.CONTROL)


class _Meter:
    """How much a query has read."""

    def __init__(self) -> None:
        self.size_bytes = 0


def _items(
    store: Store, region: int, container: Container, scope: Scope, after: int, read: _Meter
) -> Iterator[tuple[int, bytes]]:
    bounds = scope.bounds()
    pk = keys.canonical(scope.key) if scope.key is not None else None
    if pk is not None and len(scope.key or ()) < len(container.key.paths):
        prefix = keys.epk(scope.key or (), container.key.hierarchical)
        bounds, pk = (max(bounds[0], prefix), min(bounds[1], prefix + "FF")), None
    while True:
        rows = store.scan(region, container.rid, pk=pk, epk=bounds, after=after, limit=_CHUNK)
        for key, body in rows:
            read.size_bytes += len(body)
            yield key, body
        if len(rows) < _CHUNK:
            return
        after = rows[-1][0]


def _stream(store: Store, region: int, container: Container, evaluator: Evaluator, scope: Scope, page: Page) -> Reply:
    read = _Meter()
    results: list[Any] = []
    size_bytes, last, more = 0, 0, None
    for key, body in _items(store, region, container, scope, page.start("after"), read):
        if len(results) >= page.size or size_bytes >= PAGE_BYTES:
            more = f'{{"after":{last}}}'
            break
        last = key
        document = orjson.loads(body)
        if evaluator.matches(document) and (result := evaluator.project(document)) is not UNDEFINED:
            results.append(result)
            size_bytes += len(body)
    return _reply(container, results, more, charges.query(read.size_bytes, len(results)))


def _within_bytes(results: list[Any]) -> list[Any]:
    size_bytes = 0
    for index, result in enumerate(results):
        size_bytes += len(orjson.dumps(result))
        if size_bytes > PAGE_BYTES and index:
            return results[:index]
    return results


def _reply(container: Container, results: list[Any], more: str | None, charge: float) -> Reply:
    headers = {"x-ms-item-count": str(len(results))}
    if more is not None:
        headers["x-ms-continuation"] = more
    body = {"_rid": container.rid, "Documents": results, "_count": len(results)}
    return Reply.json(200, body, charge=charge, headers=headers)
