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
from bench.field.plan import Step

_KINDS: dict[str, type[Speed] | type[Latency] | type[Crash]] = {"speed": Speed, "latency": Latency, "crash": Crash}


@dataclass(frozen=True, slots=True)
class Run:
    """One run. contestant: its name. given: title of the input. number: the round. figures: None where it failed, `failure`
    says why. sitting: when and with what program it was measured; a run that was cut and finished later has several."""

    contestant: str
    given: str
    number: int
    kind: str
    figures: Speed | Latency | Crash | None
    failure: str = ""
    sitting: str = ""

    @property
    def step(self) -> Step:
        """What of the plan it is."""
        return Step(self.kind, self.contestant, self.given, self.number)


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
        """From a file that `add` has written; a last line that was cut with its run is none."""
        whole, _, _ = path.read_text().rpartition("\n")
        path.write_text(whole + "\n" if whole else "")
        return cls(path, [_run(json.loads(line)) for line in whole.splitlines()])

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
        """Runs that came to no figures, the last of each; what was measured in the end has not failed."""
        last = {run.step: run for run in self.runs if run.figures is None}
        return [run for step, run in last.items() if step not in self.done()]

    def done(self) -> set[Step]:
        """What there are figures of."""
        return {run.step for run in self.runs if run.figures is not None}

    def sittings(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(run.sitting for run in self.runs if run.figures is not None and run.sitting))

    def torn(self) -> list[int]:
        """The rounds of speed that more than one sitting has measured."""
        found: dict[int, set[str]] = {}
        for run in self.runs:
            if run.kind == "speed" and run.figures is not None:
                found.setdefault(run.number, set()).add(run.sitting)
        return sorted(number for number, sittings in found.items() if len(sittings) > 1)

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
