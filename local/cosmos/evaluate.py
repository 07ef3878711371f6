"""What a parsed query says about documents. Pure: a condition, a projection, an order, an aggregate.

Values are JSON values, or `UNDEFINED` where a path leads nowhere. As in Cosmos, a comparison of order between different
types is undefined, and only what is exactly true passes a WHERE (learn.microsoft.com/azure/cosmos-db/nosql/query).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from local.cosmos.exceptions import bad_request
from local.cosmos.query import AGGREGATES, Expression, Query


class _Undefined:
    __slots__ = ()

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False


UNDEFINED = _Undefined()

Compiled = Callable[[Any], Any]


class Evaluator:
    """A query made ready to run with its parameters; 400 for an unknown name, function or parameter."""

    def __init__(self, query: Query, parameters: Mapping[str, Any]) -> None:
        self._compiler = _Compiler(query.alias, parameters)
        self.query = query
        self._where = self._compiler.compile(query.where) if query.where is not None else None
        self._order = [(self._compiler.compile(expression), descending) for expression, descending in query.order_by]
        self._select = (
            None
            if query.select is None
            else [(selected.name, self._compiler.compile(selected.expression)) for selected in query.select]
        )
        self._accumulators = self._compiler.accumulators
        self.top = self._count(query.top)
        self.offset = self._count(query.offset)
        self.limit = self._count(query.limit)

    @property
    def streams(self) -> bool:
        """Whether results can be given out while documents are read: no order, aggregate, distinct, top or offset."""
        query = self.query
        whole = query.order_by or query.distinct or self._accumulators
        return not whole and self.top is None and self.offset is None

    def matches(self, document: Any) -> bool:
        """Whether a document passes the WHERE."""
        return self._where is None or self._where(document) is True

    def project(self, document: Any) -> Any:
        """What is selected of a document; UNDEFINED for a VALUE that is not there."""
        if self._select is None:
            return document
        if self.query.value:
            return self._select[0][1](document)
        values = ((name, compiled(document)) for name, compiled in self._select)
        return {name: value for name, value in values if value is not UNDEFINED}

    def run(self, documents: Iterable[Any]) -> list[Any]:
        """All results, in order."""
        passed: Iterable[Any] = (document for document in documents if self.matches(document))
        if self._accumulators:
            for document in passed:
                for accumulator in self._accumulators:
                    accumulator.add(document)
            result = self.project(None)
            return [] if result is UNDEFINED else [result]
        for compiled, descending in reversed(self._order):
            passed = sorted(passed, key=_sort_key(compiled), reverse=descending)
        results: Iterable[Any] = (result for result in map(self.project, passed) if result is not UNDEFINED)
        if self.query.distinct:
            results = _distinct(results)
        if self.top is not None:
            return _take(results, 0, self.top)
        return _take(results, self.offset or 0, self.limit)

    def _count(self, expression: Expression | None) -> int | None:
        if expression is None:
            return None
        value = self._compiler.compile(expression)(None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise bad_request("TOP, OFFSET and LIMIT take a non-negative integer.")
        return value


def condition(alias: str, where: Expression | None, document: Any) -> bool:
    """Whether a patch's filter predicate holds for the item as it stands."""
    return where is None or _Compiler(alias, {}).compile(where)(document) is True


def order_key(value: Any) -> tuple[int, Any]:
    """Sorts any JSON value: undefined < null < boolean < number < string < array < object."""
    if value is UNDEFINED:
        return 0, 0
    if value is None:
        return 1, 0
    if isinstance(value, bool):
        return 2, value
    if isinstance(value, int | float):
        return 3, value
    if isinstance(value, str):
        return 4, value
    return (5, [order_key(part) for part in value]) if isinstance(value, list) else (6, str(sorted(value.items())))


def _sort_key(compiled: Compiled) -> Callable[[Any], tuple[int, Any]]:
    return lambda document: order_key(compiled(document))


def _take(results: Iterable[Any], skip: int, limit: int | None) -> list[Any]:
    taken: list[Any] = []
    for index, result in enumerate(results):
        if limit is not None and len(taken) >= limit:
            break
        if index >= skip:
            taken.append(result)
    return taken


def _distinct(results: Iterable[Any]) -> Iterator[Any]:
    seen: set[str] = set()
    for result in results:
        text = repr(order_key(result))
        if text not in seen:
            seen.add(text)
            yield result


class _Accumulator:
    """One aggregate function on its way through the documents."""

    def __init__(self, function: str, argument: Compiled) -> None:
        self._function = function
        self._argument = argument
        self._count = 0
        self._sum: Any = 0
        self._best: Any = UNDEFINED
        self._numeric = True

    def add(self, document: Any) -> None:
        value = self._argument(document)
        if value is UNDEFINED:
            return
        self._count += 1
        if self._function in ("SUM", "AVG"):
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._sum += value
            else:
                self._numeric = False
        elif self._function in ("MIN", "MAX"):
            keys = (order_key(value), order_key(self._best))
            better = keys[0] < keys[1] if self._function == "MIN" else keys[0] > keys[1]
            if self._best is UNDEFINED or better:
                self._best = value

    def result(self, _: Any) -> Any:
        if self._function == "COUNT":
            return self._count
        if self._function in ("MIN", "MAX"):
            return self._best
        if not self._numeric or (self._function == "AVG" and not self._count):
            return UNDEFINED
        return self._sum / self._count if self._function == "AVG" else self._sum


class _Compiler:
    """Expressions into functions of a document."""

    def __init__(self, alias: str, parameters: Mapping[str, Any]) -> None:
        self._alias = alias
        self._parameters = parameters
        self.accumulators: list[_Accumulator] = []

    def compile(self, expression: Expression) -> Compiled:
        kind = expression[0]
        if kind == "literal":
            literal = expression[1]
            return lambda _: literal
        if kind == "undefined":
            return lambda _: UNDEFINED
        if kind == "parameter":
            if expression[1] not in self._parameters:
                raise bad_request(f"The parameter {expression[1]} is not among the query's parameters.")
            given = self._parameters[expression[1]]
            return lambda _: given
        if kind == "name":
            if expression[1] != self._alias:
                raise bad_request(f"Identifier '{expression[1]}' could not be resolved.")
            return lambda document: document
        if kind == "member":
            parent, name = self.compile(expression[1]), expression[2]
            return lambda document: _member(parent(document), name)
        if kind == "index":
            parent, key = self.compile(expression[1]), self.compile(expression[2])
            return lambda document: _member(parent(document), key(document))
        if kind == "array":
            parts = [self.compile(part) for part in expression[1]]
            return lambda document: [v for part in parts if (v := part(document)) is not UNDEFINED]
        if kind == "object":
            members = [(name, self.compile(part)) for name, part in expression[1]]
            return lambda document: {n: v for n, part in members if (v := part(document)) is not UNDEFINED}
        if kind == "in":
            needle, choices = self.compile(expression[1]), [self.compile(part) for part in expression[2]]
            return lambda document: _any_equal(needle(document), (choice(document) for choice in choices))
        if kind == "call":
            return self._call(expression[1], expression[2])
        operands = [self.compile(part) for part in expression[1:]]
        function = _OPERATORS[kind]
        return lambda document: function(*(operand(document) for operand in operands))

    def _call(self, name: str, arguments: list[Expression]) -> Compiled:
        compiled = [self.compile(argument) for argument in arguments]
        if name in AGGREGATES:
            if len(compiled) != 1:
                raise bad_request(f"The {name} function requires 1 argument(s).")
            accumulator = _Accumulator(name, compiled[0])
            self.accumulators.append(accumulator)
            return accumulator.result
        if name not in _FUNCTIONS:
            raise bad_request(f"'{name}' is not a recognized built-in function name.")
        fewest, most, function = _FUNCTIONS[name]
        if not fewest <= len(compiled) <= most:
            raise bad_request(f"The {name} function requires {fewest} to {most} argument(s).")
        return lambda document: function(*(argument(document) for argument in compiled))


def _member(value: Any, name: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(name, str):
        return value.get(name, UNDEFINED)
    if isinstance(value, list) and isinstance(name, int) and 0 <= name < len(value):
        return value[name]
    return UNDEFINED


def _equal(left: Any, right: Any) -> Any:
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _any_equal(needle: Any, choices: Iterable[Any]) -> Any:
    if needle is UNDEFINED:
        return UNDEFINED
    return any(_equal(needle, choice) is True for choice in choices)


def _ordered(left: Any, right: Any, test: Callable[[Any, Any], bool]) -> Any:
    kinds = (order_key(left)[0], order_key(right)[0])
    return test(left, right) if kinds[0] == kinds[1] and kinds[0] in (2, 3, 4) else UNDEFINED


def _and(left: Any, right: Any) -> Any:
    if left is False or right is False:
        return False
    return True if left is True and right is True else UNDEFINED


def _or(left: Any, right: Any) -> Any:
    if left is True or right is True:
        return True
    return False if left is False and right is False else UNDEFINED


def _not(value: Any) -> Any:
    return not value if isinstance(value, bool) else UNDEFINED


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            return UNDEFINED
        try:
            return function(*values)
        except ZeroDivisionError:
            return UNDEFINED

    return checked


def _strings(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(*values) if all(isinstance(value, str) for value in values) else UNDEFINED


def _fold(function: Callable[[str, str], bool]) -> Callable[..., Any]:
    """A test of two strings whose optional third argument asks to ignore case."""

    def test(text: Any, part: Any, ignore_case: Any = False) -> Any:
        if not isinstance(text, str) or not isinstance(part, str):
            return UNDEFINED
        return function(text.lower(), part.lower()) if ignore_case is True else function(text, part)

    return test


def _like(text: str, pattern: str) -> bool:
    return (
        re.fullmatch("".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None
    )


def _is(*kinds: int) -> Callable[[Any], bool]:
    return lambda value: order_key(value)[0] in kinds


_OPERATORS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": _not,
    "=": _equal,
    "!=": lambda left, right: _not(_equal(left, right)),
    "<": lambda left, right: _ordered(left, right, lambda a, b: a < b),
    "<=": lambda left, right: _ordered(left, right, lambda a, b: a <= b),
    ">": lambda left, right: _ordered(left, right, lambda a, b: a > b),
    ">=": lambda left, right: _ordered(left, right, lambda a, b: a >= b),
    "+": _numbers(lambda a, b: a + b),
    "-": _numbers(lambda a, b: a - b),
    "*": _numbers(lambda a, b: a * b),
    "/": _numbers(lambda a, b: a / b),
    "%": _numbers(lambda a, b: a % b),
    "negative": _numbers(lambda a: -a),
    "||": _strings(lambda a, b: a + b),
    "??": lambda left, right: right if left is UNDEFINED or left is None else left,
    "like": _strings(_like),
}

_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    "IS_DEFINED": (1, 1, lambda value: value is not UNDEFINED),
    "IS_NULL": (1, 1, _is(1)),
    "IS_BOOL": (1, 1, _is(2)),
    "IS_NUMBER": (1, 1, _is(3)),
    "IS_STRING": (1, 1, _is(4)),
    "IS_ARRAY": (1, 1, _is(5)),
    "IS_OBJECT": (1, 1, _is(6)),
    "IS_PRIMITIVE": (1, 1, _is(1, 2, 3, 4)),
    "STARTSWITH": (2, 3, _fold(str.startswith)),
    "ENDSWITH": (2, 3, _fold(str.endswith)),
    "CONTAINS": (2, 3, _fold(lambda text, part: part in text)),
    "STRINGEQUALS": (2, 3, _fold(lambda text, part: text == part)),
    "ARRAY_CONTAINS": (2, 2, lambda a, v: _any_equal(v, a) if isinstance(a, list) else UNDEFINED),
    "ARRAY_LENGTH": (1, 1, lambda a: len(a) if isinstance(a, list) else UNDEFINED),
    "LOWER": (1, 1, _strings(str.lower)),
    "UPPER": (1, 1, _strings(str.upper)),
    "LENGTH": (1, 1, _strings(len)),
    "CONCAT": (2, 32, _strings(lambda *parts: "".join(parts))),
    "ABS": (1, 1, _numbers(abs)),
    "TOSTRING": (
        1,
        1,
        lambda v: UNDEFINED if v is UNDEFINED else v if isinstance(v, str) else orjson.dumps(v).decode(),
    ),
}
