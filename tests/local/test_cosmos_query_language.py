"""The SQL as it is evaluated on documents, and what it refuses to understand."""

from __future__ import annotations

from typing import Any

import pytest

from local.cosmos.evaluate import Evaluator
from local.cosmos.exceptions import CosmosError
from local.cosmos.plan import FILTER, plan
from local.cosmos.query import parse

ITEMS: list[dict[str, Any]] = [
    {"id": "a", "subject": "acme", "revision": 1, "value": "1.5", "tags": ["x", "y"], "group": {"region": "eu"}},
    {"id": "b", "subject": "acme", "revision": 3, "value": "2.5", "late": True},
    {"id": "c", "subject": "beta", "revision": 2, "value": None, "group": {"region": "us"}},
]


def run(text: str, **parameters: Any) -> list[Any]:
    return Evaluator(parse(text), {f"@{name}": value for name, value in parameters.items()}).run(ITEMS)


def ids(where: str, **parameters: Any) -> str:
    return "".join(run("SELECT VALUE c.id FROM c WHERE " + where, **parameters))  # noqa: S608 - the texts are below


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("c.revision = 2", "c"),
        ("c.revision != 2", "ab"),
        ("c.revision <> 2", "ab"),
        ("c.revision < 3 AND c.subject = 'acme'", "a"),
        ("c.revision >= 2 OR c.id = 'a'", "abc"),
        ("NOT c.revision = 2", "ab"),
        ("NOT (c.revision = 2 OR c.revision = 3)", "a"),
        ("c.id IN ('a', 'c')", "ac"),
        ("c.id NOT IN ('a', 'c')", "b"),
        ("c.revision BETWEEN 2 AND 3", "bc"),
        ("c.revision NOT BETWEEN 2 AND 3", "a"),
        ("IS_DEFINED(c.late)", "b"),
        ("NOT IS_DEFINED(c.group)", "b"),
        ("IS_NULL(c['value'])", "c"),
        ("STARTSWITH(c.subject, 'ac')", "ab"),
        ("startswith(c.subject, 'AC', true)", "ab"),
        ("ENDSWITH(c.subject, 'a')", "c"),
        ("CONTAINS(c.subject, 'et')", "c"),
        ("ARRAY_CONTAINS(c.tags, 'y')", "a"),
        ("c.group.region = 'us'", "c"),
        ('c["group"]["region"] = "eu"', "a"),
        ("c.tags[1] = 'y'", "a"),
        ("c.subject LIKE 'a%'", "ab"),
        ("c.late = true", "b"),
        ("c['value'] != null", "ab"),
        ("c.revision + 1 = 4 AND -c.revision < 0", "b"),
        ("(c.late ?? false) = false", "ac"),
        ("c.subject || '!' = 'beta!'", "c"),
    ],
)
def test_a_condition_selects_what_it_says(where: str, expected: str) -> None:
    assert ids(where) == expected


@pytest.mark.parametrize(
    "where", ["c.nothing < 5", "c.nothing = 5", "NOT c.nothing = 5", "c.subject > 5", "c.late < 1"]
)
def test_what_is_undefined_or_of_another_type_passes_no_condition(where: str) -> None:
    assert ids(where) == ""


def test_parameters_are_values_and_never_text_of_the_query() -> None:
    assert ids("c.id = @id", id="a' OR 'x' = 'x") == ""
    assert ids("c.id IN (@one, @two)", one="a", two="b") == "ab"
    assert ids("ARRAY_CONTAINS(@all, c.id)", all=["b", "c"]) == "bc"


def test_a_projection_keeps_what_is_there() -> None:
    assert run("SELECT c.id, c.late, c.group.region AS region FROM c WHERE c.id != 'c'") == [
        {"id": "a", "region": "eu"},
        {"id": "b", "late": True},
    ]
    assert run("SELECT VALUE {'k': c.id, 'l': [c.revision, c.late]} FROM c WHERE c.id = 'b'") == [
        {"k": "b", "l": [3, True]}
    ]
    assert run("SELECT VALUE c.late FROM c") == [True]
    assert run("SELECT * FROM root r WHERE r.id = 'a'") == [ITEMS[0]]


def test_order_offset_limit_top_and_distinct() -> None:
    assert run("SELECT VALUE c.id FROM c ORDER BY c.revision DESC") == ["b", "c", "a"]
    assert run("SELECT VALUE c.id FROM c ORDER BY c.subject ASC, c.revision DESC") == ["b", "a", "c"]
    assert run("SELECT VALUE c.id FROM c ORDER BY c.id OFFSET 1 LIMIT 1") == ["b"]
    assert run("SELECT TOP @n VALUE c.id FROM c", n=2) == ["a", "b"]
    assert run("SELECT DISTINCT VALUE c.subject FROM c") == ["acme", "beta"]


def test_values_of_different_types_have_an_order() -> None:
    mixed = [{"v": "x"}, {"v": 1}, {}, {"v": None}, {"v": False}]
    ordered = Evaluator(parse("SELECT * FROM c ORDER BY c.v"), {}).run(mixed)
    assert ordered == [{}, {"v": None}, {"v": False}, {"v": 1}, {"v": "x"}]


def test_aggregates() -> None:
    assert run("SELECT VALUE COUNT(1) FROM c") == [3]
    assert run("SELECT VALUE COUNT(c.late) FROM c") == [1]
    assert run("SELECT VALUE SUM(c.revision) FROM c WHERE c.subject = 'acme'") == [4]
    assert run("SELECT VALUE MAX(c.revision) FROM c") == [3]
    assert run("SELECT VALUE MIN(c.subject) FROM c") == ["acme"]
    assert run("SELECT COUNT(1) AS n, AVG(c.revision) AS mean FROM c") == [{"n": 3, "mean": 2.0}]
    assert run("SELECT VALUE MAX(c.revision) FROM c WHERE c.id = 'none'") == []
    assert run("SELECT VALUE COUNT(1) FROM c WHERE c.id = 'none'") == [0]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT",
        "SELECT * FROM c WHERE",
        "SELECT * FROM c WHERE c.id = ",
        "SELECT * FROM c WHERE c.id == 'a'",
        "SELECT * FROM c; DROP TABLE items",
        "SELECT * FROM c JOIN t IN c.tags",
        "SELECT c.subject FROM c GROUP BY c.subject",
        "SELECT * FROM c WHERE c.id = 'open",
        "SELECT TOP -1 * FROM c",
        "SELECT TOP 1.5 * FROM c",
        "UPDATE c SET x = 1",
        "SELECT * FROM c OFFSET 1",
    ],
)
def test_what_is_not_understood_is_a_400_and_never_an_answer(text: str) -> None:
    with pytest.raises(CosmosError) as refused:
        run(text)
    assert refused.value.status == 400
    assert "SC1001" in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM c WHERE d.id = 'a'",
        "SELECT * FROM c WHERE SLEEP(c.id)",
        "SELECT * FROM c WHERE c.id = @missing",
        "SELECT * FROM c WHERE IS_DEFINED()",
        "SELECT TOP @n * FROM c",
    ],
)
def test_an_unknown_name_function_or_parameter_is_a_400(text: str) -> None:
    with pytest.raises(CosmosError) as refused:
        run(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM c WHERE c.subject = 'acme' OR c.id = 'c' ORDER BY c.revision DESC, c.id",
        "SELECT c.id, c.revision AS n FROM c ORDER BY c.revision",
        "SELECT VALUE c.late FROM c ORDER BY c.id",
        "SELECT TOP 2 * FROM c ORDER BY c.id",
        "SELECT VALUE c.id FROM c ORDER BY c.id OFFSET 1 LIMIT 1",
    ],
)
def test_the_rewritten_query_of_a_plan_orders_its_payloads_as_the_query_would(text: str) -> None:
    made = plan(Evaluator(parse(text), {}))["queryInfo"]
    rows = run(made["rewrittenQuery"].replace(FILTER, "true"))
    assert all(len(row["orderByItems"]) == len(made["orderBy"]) for row in rows)
    payloads = [row["payload"] for row in rows]
    assert payloads[(made["offset"] or 0) :] == run(text)


def test_the_rewritten_aggregates_of_a_plan_carry_items() -> None:
    def rewritten(text: str) -> list[Any]:
        return run(plan(Evaluator(parse(text), {}))["queryInfo"]["rewrittenQuery"])

    assert rewritten("SELECT VALUE COUNT(1) FROM c WHERE c.revision > 1") == [[{"item": 2}]]
    assert rewritten("SELECT VALUE AVG(c.revision) FROM c") == [[{"item": {"sum": 6, "count": 3}}]]
    with pytest.raises(CosmosError):
        rewritten("SELECT VALUE COUNT(1) + 1 FROM c")
