"""What a process of a benchmark has cost so far, as the kernel counts it (Linux: /proc)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """cpu_s: user and system time of all its threads. peak_mb: the most memory it has held (resident), in 10^6 bytes."""

    cpu_s: float
    peak_mb: float


def cost(pid: int) -> Cost:
    """Of a process that still runs."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Cost(cpu_s(pid), int(status["VmHWM"].split()[0]) * 1024 / 1e6)


def cpu_s(pid: int) -> float:
    """User and system time of a process that still runs, all its threads."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost_of_all(pids: Iterable[int]) -> Cost:
    """Of processes that still run and everything they have started, what has ended among it too, added up."""
    found = [pid for root in pids for pid in family(root)]
    return Cost(cpu_of_all(found), sum(cost(pid).peak_mb for pid in found))


def cpu_of_all(pids: Iterable[int]) -> float:
    """The CPU time of the same, alone."""
    found = {pid for root in pids for pid in family(root)}
    ended_s = sum((int(f[13]) + int(f[14])) / os.sysconf("SC_CLK_TCK") for f in map(_fields, found))
    return sum(map(cpu_s, found)) + ended_s


def family(pid: int) -> list[int]:
    """The process and those that descend from it and still run."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:  # a thread that has ended since
                continue
    return found


def _fields(pid: int) -> list[str]:
    # Field 2 is the program's name in brackets and may hold blanks; utime and stime are fields 14 and 15, those of
    # children that were waited for 16 and 17 (proc(5)).
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
