"""Query plans: what a client must do itself when a query spans physical partitions.

The gateway serves a filter and a projection on its own. Order, aggregates, distinct, top and offset it hands back as a
plan: a rewritten query for each partition, and how to merge what they return. Shape as azure-cosmos 4.17.1 reads it
(`_execution_context/query_execution_info.py`).
"""

from __future__ import annotations

from typing import Any

from local.cosmos.evaluate import Evaluator
from local.cosmos.exceptions import bad_request
from local.cosmos.query import AGGREGATES, Query

FILTER = "{documentdb-formattableorderbyquery-filter}"
"""Where a client puts its resume condition; azure-cosmos writes `true`."""


def plan(evaluator: Evaluator) -> dict[str, Any]:
    """The plan of a query, all partitions in its ranges."""
    query = evaluator.query
    return {
        "partitionedQueryExecutionInfoVersion": 2,
        "queryInfo": {
            "distinctType": "Unordered" if query.distinct else "None",
            "top": evaluator.top,
            "offset": evaluator.offset,
            "limit": evaluator.limit,
            "orderBy": ["Descending" if descending else "Ascending" for _, descending in query.order_by],
            "orderByExpressions": query.order_texts,
            "groupByExpressions": [],
            "groupByAliases": [],
            "aggregates": [AGGREGATES[name] for name in query.aggregates],
            "groupByAliasToAggregateType": {},
            "rewrittenQuery": _rewritten(evaluator),
            "hasSelectValue": query.value,
            "hasNonStreamingOrderBy": False,
        },
        "queryRanges": [{"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}],
    }


def _rewritten(evaluator: Evaluator) -> str:
    query = evaluator.query
    if query.aggregates:
        return _aggregate(query) if query.value else ""
    where = f"({query.where_text}) AND ({FILTER})" if query.where_text else f"({FILTER})"
    head = ("DISTINCT " if query.distinct else "") + (f"TOP {evaluator.top} " if evaluator.top is not None else "")
    tail = ""
    if evaluator.offset is not None and evaluator.limit is not None:
        # Each partition may hold all of the skipped ones, or none.
        tail = f" OFFSET 0 LIMIT {evaluator.offset + evaluator.limit}"
    if not query.order_by:
        selected = ("VALUE " if query.value else "") + query.select_text
        return f"SELECT {head}{selected} FROM {query.from_text} WHERE {where}{tail}" if head or tail else ""  # noqa: S608 - a plan
    if query.value and query.select:
        # A row without payload is no row.
        where += f" AND IS_DEFINED({query.select[0].text})"
    items = ", ".join(f'{{"item": {text}}}' for text in query.order_texts)
    order = ", ".join(
        f"{text} {'DESC' if descending else 'ASC'}"
        for text, (_, descending) in zip(query.order_texts, query.order_by, strict=True)
    )
    # Distinct is the client's alone here: with the order's items in each row, no two rows are equal.
    head = "" if query.distinct else head
    tail = "" if query.distinct else tail
    selected = f"{query.alias}._rid, [{items}] AS orderByItems, {_payload(query)} AS payload"
    return f"SELECT {head}{selected} FROM {query.from_text} WHERE {where} ORDER BY {order}{tail}"  # noqa: S608 - a plan


def _payload(query: Query) -> str:
    if query.select is None:
        return query.alias
    if query.value:
        return query.select[0].text
    return "{" + ", ".join(f'"{selected.name}": {selected.text}' for selected in query.select) + "}"


def _aggregate(query: Query) -> str:
    assert query.select is not None, "an aggregate is in a SELECT list"
    expression, text = query.select[0].expression, query.select[0].text
    if expression[0] != "call" or expression[1] not in AGGREGATES or query.order_by:
        raise bad_request("Across partitions, an aggregate has to be all that is selected.")
    if expression[1] == "AVG":
        argument = text[text.index("(") :]
        item = f'{{"sum": SUM{argument}, "count": COUNT{argument}}}'
    else:
        item = text
    where = f" WHERE {query.where_text}" if query.where_text else ""
    return f'SELECT VALUE [{{"item": {item}}}] FROM {query.from_text}{where}'  # noqa: S608 - a plan
