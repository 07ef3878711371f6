"""A file of usage with a bad row: a checked run says so, and is no success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[2]
CSV = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,bad,109
2023-11-16 18:15:51.2224670,879,55
"""


@pytest.mark.e2e
def test_a_row_that_is_no_event_is_told_and_the_run_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "usage.csv").write_text(CSV)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "app", "local", "--once", "--json"),
            *(
                "--input",
                str(tmp_path / "usage.csv"),
                "--source",
                "azure-llm-conv",
                "--data-dir",
                str(tmp_path / "run"),
            ),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 1, run.stderr.decode()
    numbers = orjson.loads(run.stdout)
    assert (numbers["events_sent"], numbers["counted"], numbers["mismatches"]) == (2, 2, 1)
    assert b"usage.csv row 3" in run.stderr
    assert b"decimal number" in run.stderr
