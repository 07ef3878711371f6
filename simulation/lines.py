"""Which lines of production the simulator does not run: measured while it tells stories, function by function.

Counted are the lines of functions; what runs when a module is imported needs no world. A line that the judge or the world
calls by itself counts as run, and so does one that is run in one story of many: the list is of what no story reaches.
`docs/unrun.md` says for each why, and which test covers it; `tests/simulation/test_unrun_lines.py` holds it to that.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coverage import Coverage

from simulation import exhaustive
from simulation.crowd import quiet
from simulation.world import tell

ROOT = Path(__file__).resolve().parents[1]
ROAD = ("app.py", "settings.py", "schemas", "tables", "streams", "sinks", "transport")
"""Where an event passes: judged function by function."""
BESIDE = ("cli", "local", "web")
"""Beside the road: judged by the file."""
WHOLE_FILE = "the whole file"
"""Stands for the functions of a file beside the road."""
STORIES = 200
FEW = (2, 3, 6, 7, 11, 15, 16, 19, 34, 35, 36, 37, 41, 42, 49, 69, 76, 87, 98, 100, 102, 145)
"""Stories that ran together what a hundred did, when they were chosen: as code changes, chance takes other ways."""
CHUNK = 4
_AS_WRITTEN = "NUMBA_DISABLE_JIT"


@dataclass(frozen=True, slots=True)
class Unrun:
    """Lines of one function, or of one file beside the road, that were not run. of: how many lines it has in all."""

    path: str
    function: str
    lines: tuple[int, ...]
    of: int


@dataclass(slots=True)
class Measured:
    """What was run. broken: (seed, what) of stories that broke a promise; what they ran is counted all the same."""

    stories: int = 0
    ran: dict[str, set[int]] = field(default_factory=dict)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def join(self, other: Measured) -> None:
        """What others ran."""
        self.stories += other.stories
        self.broken += other.broken
        for path, lines in other.ran.items():
            self.ran.setdefault(path, set()).update(lines)

    def unrun(self) -> list[Unrun]:
        """What was not, in the order of files and lines."""
        return [gap for path in production() for gap in _gaps(path, self.ran.get(path, set()))]


def production() -> list[str]:
    """Every file of production, as a path below the root."""
    found = []
    for room in (*ROAD, *BESIDE):
        place = ROOT / room
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        found += [file.relative_to(ROOT).as_posix() for file in files]
    return found


def functions(path: str) -> dict[str, set[int]]:
    """The lines that each function's body spans, by its qualified name; those of a function within it are not its own."""
    spans: dict[str, set[int]] = {}
    for name, node in _defined(ast.parse((ROOT / path).read_text(encoding="utf-8")), ""):
        lines = set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
        for outer in spans.values():
            outer -= lines
        spans.setdefault(name, set()).update(lines)
    return spans


def measure(
    seeds: Iterable[int] = range(STORIES), told: Callable[[int], None] = lambda stories: None, processes: int = 0
) -> Measured:
    """Tells the stories of seeds and the undisturbed small worlds, in processes of their own, and says what they ran.

    told: after every few, with how many there are. processes: 0 for all cores. What another test left in a cache of this
    process hides nothing, and no other measurement of it is disturbed.
    """
    seeds = list(seeds)
    chunks = [list(range(-len(exhaustive.WORLDS), 0)), *(seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK))]
    whole = Measured()
    with _uncompiled(), multiprocessing.get_context("spawn").Pool(processes or os.cpu_count() or 1, quiet) as pool:
        for part in pool.imap_unordered(_some, chunks):
            whole.join(part)
            told(whole.stories)
    whole.broken.sort()
    return whole


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Kernels run as they are written in processes that begin here: what is compiled has no lines to be counted."""
    before = os.environ.get(_AS_WRITTEN)
    os.environ[_AS_WRITTEN] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_AS_WRITTEN]
        else:
            os.environ[_AS_WRITTEN] = before


def table(measured: Measured) -> str:
    """What was not run, as a Markdown table, and a line of figures before it."""
    gaps = measured.unrun()
    road = [gap for gap in gaps if gap.function != WHOLE_FILE]
    missing = sum(len(gap.lines) for gap in road)
    lines = [
        f"{measured.stories} stories leave {missing} lines of {len(road)} functions on the road of an event unrun, "
        f"and something of {len(gaps) - len(road)} files beside it.",
        "",
        "| file | function | lines not run | of |",
        "|---|---|---|---|",
        *(f"| `{gap.path}` | {_named(gap)} | {_ranges(gap)} | {gap.of} |" for gap in gaps),
    ]
    return "\n".join(lines + [f"\nseed {seed} broke a promise: {what}" for seed, what in measured.broken])


def _some(seeds: list[int]) -> Measured:
    """A negative seed is a small world."""
    found = Measured()
    everywhere = [str(ROOT / room) if room.endswith(".py") else f"{ROOT / room}/**" for room in (*ROAD, *BESIDE)]
    watching = Coverage(data_file=None, config_file=False, include=everywhere)
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)  # words wrap, as they do when compiled
    watching.start()
    for seed in seeds:
        ending = tell(seed) if seed >= 0 else exhaustive.undisturbed(-seed - 1)
        found.stories += 1
        if ending.promise is not None:
            found.broken.append((seed, ending.what))
    watching.stop()
    data = watching.get_data()
    for file in data.measured_files():
        found.ran[Path(file).relative_to(ROOT).as_posix()] = set(data.lines(file) or ())
    return found


def _gaps(path: str, ran: set[int]) -> Iterator[Unrun]:
    statements, missing = _statements(path, ran)
    of_functions = {
        name: (statements & lines, missing & lines) for name, lines in functions(path).items() if missing & lines
    }
    if path.split("/")[0] not in BESIDE:
        for name, (own, lacking) in of_functions.items():
            yield Unrun(path, name, tuple(sorted(lacking)), len(own))
        return
    lacking = {line for _, lines in of_functions.values() for line in lines}
    if lacking:
        own = {line for lines in functions(path).values() for line in lines & statements}
        yield Unrun(path, WHOLE_FILE, tuple(sorted(lacking)), len(own))


def _statements(path: str, ran: set[int]) -> tuple[set[int], set[int]]:
    """All statements of a file by their first lines, and those of them that did not run."""
    judging = Coverage(data_file=None, config_file=False)
    judging.clear_exclude()  # no comment in the code takes a line out of the list
    judging.exclude(r":\s*\.\.\.\s*$")  # a protocol's method has no body to run
    file = str(ROOT / path)
    judging.get_data().add_lines({file: ran})
    _, statements, _, missing, _ = judging.analysis2(file)
    return set(statements), set(missing)


def _defined(node: ast.AST, within: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Outer functions before those within them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + child.name, child
            yield from _defined(child, f"{within}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _defined(child, f"{within}{child.name}.")
        else:
            yield from _defined(child, within)


def _named(gap: Unrun) -> str:
    return gap.function if gap.function == WHOLE_FILE else f"`{gap.function}`"


def _ranges(gap: Unrun) -> str:
    """`all`, or as `12, 20-24`."""
    if len(gap.lines) == gap.of:
        return "all"
    runs: list[list[int]] = []
    for line in gap.lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    return ", ".join("-".join(map(str, run)) for run in runs)
