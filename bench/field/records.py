"""What was measured, run by run: kept as JSON lines as soon as each run is over, and read by the report alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.field.judge import Verdict
from bench.field.measure import Crash, Latency, Speed

_KINDS: dict[str, type[Speed] | type[Latency] | type[Crash]] = {"speed": Speed, "latency": Latency, "crash": Crash}


@dataclass(frozen=True, slots=True)
class Run:
    """One run. contestant: its name. given: title of the input. number: the round. figures: None where it failed, `failure`
    says why."""

    contestant: str
    given: str
    number: int
    kind: str
    figures: Speed | Latency | Crash | None
    failure: str = ""


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of nothing."""
        found = sorted(values)
        return cls(median(found), found[0], found[-1]) if found else None


class Runs:
    """All runs so far."""

    def __init__(self, path: Path, runs: Sequence[Run] = ()) -> None:
        self._path = path
        self.runs = list(runs)

    @classmethod
    def load(cls, path: Path) -> Runs:
        """From a file that `add` has written."""
        return cls(path, [_run(json.loads(line)) for line in path.read_text().splitlines()])

    def add(self, run: Run) -> None:
        """Keep it, on disk too."""
        self.runs.append(run)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")

    def speeds(self, contestant: str, given: str) -> dict[int, Speed]:
        """By round."""
        return {r.number: r.figures for r in self._of(contestant, given) if isinstance(r.figures, Speed)}

    def latency(self, contestant: str) -> Latency | None:
        """The last one."""
        found = [r.figures for r in self.runs if r.contestant == contestant and isinstance(r.figures, Latency)]
        return found[-1] if found else None

    def crashes(self, contestant: str) -> list[Crash]:
        """In order."""
        return [r.figures for r in self.runs if r.contestant == contestant and isinstance(r.figures, Crash)]

    def failures(self) -> list[Run]:
        """Runs that came to no figures."""
        return [run for run in self.runs if run.figures is None]

    def ratio(self, one: tuple[str, str], other: tuple[str, str]) -> Spread | None:
        """Events per CPU-second of one (contestant, input) over another's, round by round; None where no round has both."""
        ours, theirs = self.speeds(*one), self.speeds(*other)
        return Spread.of(ours[n].per_cpu_s / theirs[n].per_cpu_s for n in ours.keys() & theirs.keys())

    def _of(self, contestant: str, given: str) -> list[Run]:
        return [run for run in self.runs if (run.contestant, run.given) == (contestant, given)]


def _run(told: dict[str, Any]) -> Run:
    figures = told.pop("figures")
    if figures is None:
        return Run(**told, figures=None)
    if figures.get("verdict") is not None:
        figures["verdict"] = Verdict(**figures["verdict"])
    return Run(**told, figures=_KINDS[told["kind"]](**figures))
