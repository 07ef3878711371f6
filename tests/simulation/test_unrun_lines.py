"""`docs/unrun.md` lists every function of production with lines that no story runs, and names tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from simulation import lines

LIST = Path("docs/unrun.md")


class Row(NamedTuple):
    """A line of the list: functions of one file, why no story runs them, and what covers them."""

    path: str
    functions: list[str]
    why: str
    tests: str


def listed() -> list[Row]:
    rows = []
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            path, functions, why, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            names = [lines.WHOLE_FILE] if functions == lines.WHOLE_FILE else re.findall(r"`([^`]+)`", functions)
            rows.append(Row(path.strip("`"), names, why, tests))
    return rows


def never_run() -> list[tuple[str, str]]:
    """(file, function) of the lines that no test runs."""
    bullets = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("- `")]
    cells = [re.findall(r"`([^`]+)`", bullet.split(": ")[0]) for bullet in bullets]
    return [(path, function) for path, *functions in cells for function in functions]


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.timeout(1500)
def test_every_function_with_lines_that_no_story_runs_is_listed() -> None:
    """A few stories do; should one not come along any more where it did, many are asked."""
    known = {(row.path, function) for row in listed() for function in row.functions}

    def unlisted(measured: lines.Measured) -> list[lines.Unrun]:
        return [gap for gap in measured.unrun() if (gap.path, gap.function) not in known]

    measured = lines.measure(lines.FEW)
    assert len(measured.unrun()) > 300, "what is measured is production, and most of the list is beside a story"
    if unlisted(measured):
        measured.join(lines.measure())
    assert unlisted(measured) == [], f"list them in {LIST}, each with the test that covers it"


def test_what_is_listed_exists_once() -> None:
    rows = listed()
    assert len(rows) > 50
    everything = [(row.path, function) for row in rows for function in row.functions]
    assert sorted(set(everything)) == sorted(everything)
    for path, function in everything:
        assert Path(path).is_file(), path
        assert function == lines.WHOLE_FILE or function in lines.functions(path), f"{path} has no {function}"


@pytest.mark.parametrize("row", listed(), ids=lambda row: f"{row.path} {row.functions[0]}")
def test_a_row_says_why_and_names_a_test(row: Row) -> None:
    assert row.functions and row.why
    assert re.search(r"`tests/[^`:]+::test_\w+`", row.tests), row.tests


def test_every_test_that_is_named_exists() -> None:
    text = LIST.read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`:]+\.py)::(\w+)`", text)
    assert len(named) == text.count("`tests/") - text.count("`tests/simulation/test_unrun_lines.py`") > 200
    for path, test in named:
        assert test.startswith("test_") and test in names_in(path), f"{path} has no {test}"


def test_a_line_that_no_test_runs_is_of_a_function_that_is_listed() -> None:
    known = {(row.path, function) for row in listed() for function in row.functions}
    assert len(never_run()) > 10
    assert [place for place in never_run() if place not in known] == []


def test_lines_belong_to_the_innermost_function() -> None:
    of = lines.functions("tables/effects.py")
    assert of["rehearsed"] and of["rehearsed.read_only"] and not of["rehearsed"] & of["rehearsed.read_only"]
