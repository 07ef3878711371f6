"""A YAML file read by hand: every node knows its line, every problem is kept, and all are said at once.

YAML guesses types (`no` is false, `1.10` a float, an empty value null), which a billing file cannot afford. So nothing is
converted here: a text must be a text, a number is taken as the text that was written.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import yaml

from schemas.errors import ConfigurationError

_T = TypeVar("_T")
_TAG = "tag:yaml.org,2002:"
_GUESSES = {"bool": "true or false", "null": "nothing", "int": "a number", "float": "a number", "timestamp": "a date"}


class Field:
    """A value in the file: its node, its key path, and where its problems go."""

    def __init__(self, file: YamlFile, node: yaml.Node, path: str, line: int | None = None) -> None:
        self.file = file
        self.node = node
        self.path = path
        self.line = node.start_mark.line + 1 if line is None else line

    def problem(self, what: str) -> None:
        """Keeps a problem of this value, at its line and key path."""
        self.file.problem(self.line, self.path, what)

    def found(self) -> str:
        """What stands there, in words."""
        if self.kind in ("mapping", "list"):
            return f"a {self.kind}"
        written = str(self.node.value)
        if self.kind == "null" and not written:
            return "nothing"
        return repr(written if len(written) <= 60 else written[:60] + "…")

    @property
    def kind(self) -> str:
        """`mapping`, `list`, or what YAML takes the scalar for: `str`, `int`, `float`, `bool`, `null`, …"""
        if isinstance(self.node, yaml.MappingNode):
            return "mapping"
        return "list" if isinstance(self.node, yaml.SequenceNode) else self.node.tag.removeprefix(_TAG)

    def text(self, expected: str) -> str | None:
        """The text, or None after a problem. A word that YAML takes for something else needs quotes, and is told so."""
        if self.kind == "str":
            return str(self.node.value)
        guess = _GUESSES.get(self.kind)
        if guess and self.node.value:
            self.problem(
                f"found {self.found()}, which YAML takes for {guess}; expected {expected} (in quotes, if this is one)"
            )
            return None
        self.problem(f"found {self.found()}, expected {expected}")
        return None

    def parsed(self, parse: Callable[[str], _T], expected: str) -> _T | None:
        """What `parse` makes of the text; its ValueError becomes a problem."""
        text = self.text(expected)
        return None if text is None else self._parse(parse, text)

    def number(self, parse: Callable[[str], _T], expected: str) -> _T | None:
        """Like `parsed`, of a number's own text: `0.10` is handed on as written, whatever YAML thinks it is."""
        if self.kind in ("int", "float", "str"):
            return self._parse(parse, str(self.node.value))
        self.problem(f"found {self.found()}, expected {expected}")
        return None

    def choice(self, choices: Iterable[str]) -> str | None:
        """One of the choices, or None after a problem that names them."""
        known = list(choices)
        expected = "one of " + ", ".join(known)
        text = self.text(expected)
        if text is not None and text not in known:
            self.problem(f"found {text!r}, expected {expected}{did_you_mean(text, known)}")
            return None
        return text

    def items(self, expected: str) -> list[Field]:
        """The elements of a list; empty after a problem."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.problem(f"found {self.found()}, expected {expected}")
            return []
        return [Field(self.file, node, f"{self.path}[{number}]") for number, node in enumerate(self.node.value)]

    def entries(self, expected: str) -> dict[str, Field]:
        """The entries of a mapping, by key; a key twice, or one that is no text, is a problem."""
        if not isinstance(self.node, yaml.MappingNode):
            self.problem(f"found {self.found()}, expected {expected}")
            return {}
        entries: dict[str, Field] = {}
        for key, value in self.node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.file.problem(line, self.path, "found a key that is no text, expected a name")
                continue
            name = str(key.value)
            path = f"{self.path}.{name}" if self.path else name
            tag = key.tag.removeprefix(_TAG)
            if tag == "merge":
                self.file.problem(line, path, "merge keys are not supported, write the keys out")
            elif tag != "str":
                guess = _GUESSES.get(tag, "something else")
                self.file.problem(line, path, f"found the key {name!r}, which YAML takes for {guess}; put it in quotes")
            elif name in entries:
                self.file.problem(line, path, f"this key is here twice, first in line {entries[name].line}")
            else:
                entries[name] = Field(self.file, value, path, line if not value.value else None)
        return entries

    def keys(self, known: Iterable[str], expected: str) -> dict[str, Field]:
        """The entries of a mapping whose keys are known; any other key is a problem."""
        allowed = list(known)
        entries = self.entries(expected)
        for name in [name for name in entries if name not in allowed]:
            hint = did_you_mean(name, allowed) or f"; expected one of {', '.join(allowed)}"
            entries.pop(name)._unknown(name, self.node, hint)
        return entries

    def _unknown(self, name: str, parent: yaml.Node, hint: str) -> None:
        line = next(key.start_mark.line + 1 for key, _ in parent.value if key.value == name)
        self.file.problem(line, self.path, f"this key is not known{hint}")

    def _parse(self, parse: Callable[[str], _T], text: str) -> _T | None:
        try:
            return parse(text)
        except ValueError as error:
            self.problem(str(error))
            return None


class YamlFile:
    """A YAML document and the problems found in it. `name`: how messages call the file."""

    def __init__(self, name: str, text: str) -> None:
        """Raises ConfigurationError, with line and column, if it is no YAML or more than one document."""
        self.name = name
        self._problems: list[tuple[int, str]] = []
        self._root: yaml.Node | None = None
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.problem(line, "", f"found a character YAML does not allow, U+{int(error.character):04X}")
        except RecursionError:
            self.problem(1, "", "found lists or mappings nested too deep to read")
        self.check()

    def root(self) -> Field | None:
        """The whole document; None if the file is empty."""
        return None if self._root is None else Field(self, self._root, "")

    def problem(self, line: int, path: str, what: str) -> None:
        """Keeps one problem."""
        self._problems.append((line, f"{self.name}:{line}: {path}: {what}" if path else f"{self.name}:{line}: {what}"))

    def check(self) -> None:
        """Raises ConfigurationError with all problems, in the order of the file, if there is any."""
        if self._problems:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raises the ConfigurationError that lists every problem kept so far."""
        self._problems.sort(key=lambda problem: problem[0])
        lines = [text for _, text in self._problems]
        count = f"{len(lines)} problems" if len(lines) > 1 else "1 problem"
        what = f"{count} in the meters file\n" + "\n".join(f"  {line}" for line in lines)
        raise ConfigurationError(what, where=self.name)

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        column = f" (column {mark.column + 1})" if mark else ""
        what = ", ".join([part for part in (error.context, error.problem) if part])
        self.problem(line, "", f"this is not YAML: {what}{column}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'event_type'?`, or nothing where none comes close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
