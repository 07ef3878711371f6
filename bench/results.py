"""`bench/RESULTS.md`: one section per benchmark, each written whole by its own run."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
_HEAD = "# Results\n\nWritten by the benchmarks themselves; each section says which command, and on what machine.\n"


def machine() -> str:
    """The machine and the programs of this run, one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gb:.0f} GB, {platform.system()}, "
        f"Python {platform.python_version()}, aiokafka {version('aiokafka')}"
    )


def busy() -> str:
    """How busy the machine is with other things now, and this run's priority among them where it was given one."""
    priority = os.nice(0)
    try:  # Linux divides the cores among sessions first; a session's own niceness counts there
        priority += int(Path("/proc/self/autogroup").read_text().rpartition(" ")[2])
    except (OSError, ValueError):
        pass
    return f"load average before it {os.getloadavg()[0]:.1f}" + (f", run at niceness {priority}" if priority else "")


def today() -> str:
    """The date of this run, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, figures right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [_line(head, widths), "|" + "|".join(_rule(index, width) for index, width in enumerate(widths)) + "|"]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def write_section(title: str, body: str) -> None:
    """Puts `## title` with this body in the place of the section of that name, or at the end."""
    assert not body.lstrip().startswith("## "), "the title is put there here"
    text = RESULTS.read_text() if RESULTS.exists() else _HEAD
    head, *sections = text.split("\n## ")
    kept = [section.rstrip("\n") for section in sections if not section.startswith(f"{title}\n")]
    new = f"{title}\n\n{body.strip()}"
    RESULTS.write_text("\n\n## ".join([head.rstrip("\n"), *sorted([*kept, new])]) + "\n")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return "| " + " | ".join(padded) + " |"


def _rule(index: int, width: int) -> str:
    return ":" + "-" * (width + 1) if index == 0 else "-" * (width + 1) + ":"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
