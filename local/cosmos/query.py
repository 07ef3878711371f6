"""The SQL that Cosmos clients send, as far as it is served here: text in, a `Query` out.

``SELECT [DISTINCT] [TOP n] * | VALUE e | e [AS a], … FROM c [WHERE e] [ORDER BY e [ASC|DESC], …] [OFFSET n LIMIT n]``

with parameters, property paths, literals, arrays, objects, comparison, AND OR NOT, IN, BETWEEN, arithmetic, `||`, `??`
and functions (`evaluate.py` lists them). No JOIN, GROUP BY or subqueries: such text is a 400, never a wrong answer.
An expression is a tuple: its kind, then its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from local.cosmos.exceptions import CosmosError, bad_request

AGGREGATES = {"COUNT": "Count", "SUM": "Sum", "MIN": "Min", "MAX": "Max", "AVG": "Average"}

Expression = tuple[Any, ...]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<parameter>@\w+)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<symbol><>|!=|<=|>=|\|\||\?\?|[-+*/%=<>(){}\[\],.:])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
_KEYWORDS = frozenset(
    {
        "SELECT", "DISTINCT", "TOP", "VALUE", "AS", "FROM", "WHERE", "ORDER", "BY", "ASC", "DESC", "OFFSET", "LIMIT",
        "AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "JOIN", "GROUP",
    }
)  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the text: its kind, its value, and where it begins and ends."""

    kind: str
    value: Any
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Selected:
    """One entry of a SELECT list: the property it becomes, the expression, and the expression's own text."""

    name: str
    expression: Expression
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. `select` is what is selected, None for `*`; `value` marks SELECT VALUE.

    top, offset and limit are expressions (a literal or a parameter). The spans are the clauses' own text, from which a
    query plan is rewritten.
    """

    alias: str
    select: list[Selected] | None
    value: bool
    distinct: bool
    top: Expression | None
    where: Expression | None
    order_by: list[tuple[Expression, bool]]
    offset: Expression | None
    limit: Expression | None
    select_text: str
    from_text: str
    where_text: str
    order_texts: list[str]

    @property
    def aggregates(self) -> list[str]:
        """The names of the aggregate functions in the SELECT list, in order."""
        found: list[str] = []
        for selected in self.select or []:
            _collect_aggregates(selected.expression, found)
        return found


def parse(text: str) -> Query:
    """The query, or a 400 that quotes what was not understood."""
    return _Parser(text).query()


def parse_condition(text: str) -> tuple[str, Expression | None]:
    """Alias and condition of a patch's filter predicate, `FROM c WHERE …`."""
    query = _Parser(f"SELECT * {text}").query()
    return query.alias, query.where


def _collect_aggregates(expression: Any, found: list[str]) -> None:
    if isinstance(expression, tuple):
        if expression[:1] == ("call",) and expression[1] in AGGREGATES:
            found.append(expression[1])
        for part in expression:
            _collect_aggregates(part, found)
    elif isinstance(expression, list):
        for part in expression:
            _collect_aggregates(part, found)


def _tokens(text: str) -> list[Token]:
    found, position = [], 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _syntax(text, position)
        kind = str(match.lastgroup)
        raw = match.group(kind)
        value: Any = raw
        if kind == "number":
            value = float(raw) if re.search(r"[.eE]", raw) else int(raw)
        elif kind == "string":
            value = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescape, raw[1:-1])
        elif kind == "name" and raw.upper() in _KEYWORDS:
            kind, value = "keyword", raw.upper()
        found.append(Token(kind, value, match.start(match.lastgroup or 0), match.end()))
        if kind == "end":
            return found
        position = match.end()


def _unescape(match: re.Match[str]) -> str:
    escaped = match.group(1)
    return chr(int(escaped[1:], 16)) if escaped[0] == "u" and len(escaped) == 5 else _ESCAPES.get(escaped, escaped)


def _syntax(text: str, position: int) -> CosmosError:
    near = text[position : position + 32]
    return bad_request(
        'Message: {"errors":[{"severity":"Error","location":{"start":%d,"end":%d},"code":"SC1001",'  # noqa: UP031
        '"message":"Syntax error, incorrect syntax near %s."}]}' % (position, len(text), repr(near).replace('"', "'"))
    )


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0

    # -- clauses

    def query(self) -> Query:
        self._expect("SELECT")
        distinct = self._accept("DISTINCT")
        top = self._count() if self._accept("TOP") else None
        value = self._accept("VALUE")
        start = self._peek.start
        select = None if not value and self._accept_symbol("*") else self._select_list(value)
        select_text = self._since(start)
        self._expect("FROM")
        start = self._peek.start
        alias = self._name()
        if self._accept("AS") or self._peek.kind == "name":
            alias = self._name()
        from_text = self._since(start)
        where, where_text = None, ""
        if self._accept("WHERE"):
            start = self._peek.start
            where = self._expression()
            where_text = self._since(start)
        order_by: list[tuple[Expression, bool]] = []
        order_texts: list[str] = []
        if self._accept("ORDER"):
            self._expect("BY")
            while True:
                start = self._peek.start
                expression = self._expression()
                order_texts.append(self._since(start))
                descending = self._accept("DESC")
                if not descending:
                    self._accept("ASC")
                order_by.append((expression, descending))
                if not self._accept_symbol(","):
                    break
        offset = limit = None
        if self._accept("OFFSET"):
            offset = self._count()
            self._expect("LIMIT")
            limit = self._count()
        if self._peek.kind != "end":
            raise self._error()
        return Query(
            alias, select, value, distinct, top, where, order_by, offset, limit, select_text, from_text, where_text,
            order_texts,
        )  # fmt: skip

    def _select_list(self, value: bool) -> list[Selected]:
        items: list[Selected] = []
        unnamed = 0
        while True:
            start = self._peek.start
            expression = self._expression()
            text = self._since(start)
            if self._accept("AS"):
                name = self._name()
            elif expression[0] in ("member", "name"):
                name = str(expression[-1])
            else:
                unnamed += 1
                name = f"${unnamed}"
            items.append(Selected(name, expression, text))
            if value or not self._accept_symbol(","):
                return items

    def _count(self) -> Expression:
        token = self._next()
        if token.kind == "parameter" or (token.kind == "number" and isinstance(token.value, int)):
            return ("parameter", token.value) if token.kind == "parameter" else ("literal", token.value)
        raise self._error(token)

    # -- expressions, weakest binding first

    def _expression(self) -> Expression:
        left = self._conjunction()
        while self._accept("OR"):
            left = ("or", left, self._conjunction())
        return left

    def _conjunction(self) -> Expression:
        left = self._negation()
        while self._accept("AND"):
            left = ("and", left, self._negation())
        return left

    def _negation(self) -> Expression:
        if self._accept("NOT"):
            return ("not", self._negation())
        return self._comparison()

    def _comparison(self) -> Expression:
        left = self._sum()
        negated = self._accept("NOT")
        if self._accept("IN"):
            self._expect_symbol("(")
            test: Expression = ("in", left, self._list(")"))
        elif self._accept("BETWEEN"):
            low = self._sum()
            self._expect("AND")
            test = ("and", (">=", left, low), ("<=", left, self._sum()))
        elif self._accept("LIKE"):
            test = ("like", left, self._sum())
        elif negated:
            raise self._error()
        else:
            for symbol in ("=", "!=", "<>", "<=", ">=", "<", ">"):
                if self._accept_symbol(symbol):
                    return ("!=" if symbol == "<>" else symbol, left, self._sum())
            return left
        return ("not", test) if negated else test

    def _sum(self) -> Expression:
        left = self._product()
        while self._peek.kind == "symbol" and self._peek.value in ("+", "-", "||", "??"):
            left = (self._next().value, left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._unary()
        while self._peek.kind == "symbol" and self._peek.value in ("*", "/", "%"):
            left = (self._next().value, left, self._unary())
        return left

    def _unary(self) -> Expression:
        if self._accept_symbol("-"):
            return ("negative", self._unary())
        if self._accept_symbol("+"):
            return self._unary()
        node = self._primary()
        while True:
            if self._accept_symbol("."):
                token = self._next()
                if token.kind not in ("name", "keyword"):
                    raise self._error(token)
                node = ("member", node, self._text[token.start : token.end])
            elif self._accept_symbol("["):
                node = ("index", node, self._expression())
                self._expect_symbol("]")
            else:
                return node

    def _primary(self) -> Expression:
        token = self._next()
        if token.kind in ("number", "string"):
            return ("literal", token.value)
        if token.kind == "parameter":
            return ("parameter", token.value)
        if token.kind == "name":
            literals = {"true": True, "false": False, "null": None}
            if token.value.lower() in literals:
                return ("literal", literals[token.value.lower()])
            if token.value.lower() == "undefined":
                return ("undefined",)
            if self._accept_symbol("("):
                return ("call", token.value.upper(), self._list(")"))
            return ("name", token.value)
        if token.kind == "symbol" and token.value == "(":
            inner = self._expression()
            self._expect_symbol(")")
            return inner
        if token.kind == "symbol" and token.value == "[":
            return ("array", self._list("]"))
        if token.kind == "symbol" and token.value == "{":
            return ("object", self._members())
        raise self._error(token)

    def _list(self, closing: str) -> list[Expression]:
        items: list[Expression] = []
        if self._accept_symbol(closing):
            return items
        while True:
            items.append(self._expression())
            if not self._accept_symbol(","):
                self._expect_symbol(closing)
                return items

    def _members(self) -> list[tuple[str, Expression]]:
        members: list[tuple[str, Expression]] = []
        while not self._accept_symbol("}"):
            if members:
                self._expect_symbol(",")
            token = self._next()
            if token.kind not in ("string", "name"):
                raise self._error(token)
            self._expect_symbol(":")
            members.append((token.value, self._expression()))
        return members

    # -- words

    @property
    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1 if token.kind != "end" else 0
        return token

    def _since(self, start: int) -> str:
        return self._text[start : self._tokens[self._at - 1].end].strip()

    def _name(self) -> str:
        token = self._next()
        if token.kind != "name":
            raise self._error(token)
        return str(token.value)

    def _accept(self, keyword: str) -> bool:
        if self._peek.kind == "keyword" and self._peek.value == keyword:
            self._at += 1
            return True
        return False

    def _accept_symbol(self, symbol: str) -> bool:
        if self._peek.kind == "symbol" and self._peek.value == symbol:
            self._at += 1
            return True
        return False

    def _expect(self, keyword: str) -> None:
        if not self._accept(keyword):
            raise self._error()

    def _expect_symbol(self, symbol: str) -> None:
        if not self._accept_symbol(symbol):
            raise self._error()

    def _error(self, token: Token | None = None) -> CosmosError:
        return _syntax(self._text, (token or self._peek).start)
