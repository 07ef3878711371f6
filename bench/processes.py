"""What a process of a benchmark has cost so far, as the kernel counts it (Linux: /proc)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """cpu_s: user and system time of all its threads. peak_mb: the most memory it has held (resident), in 10^6 bytes."""

    cpu_s: float
    peak_mb: float


def cost(pid: int) -> Cost:
    """Of a process that still runs."""
    # Field 2 is the program's name in brackets and may hold blanks; utime and stime are fields 14 and 15 (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Cost(ticks / os.sysconf("SC_CLK_TCK"), int(status["VmHWM"].split()[0]) * 1024 / 1e6)
