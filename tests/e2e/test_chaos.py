"""`local --chaos` as anyone runs it: processes on the embedded stack, killed and started again, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.e2e


def test_a_short_run_survives_its_kills_and_leaves_nothing(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "local", "--chaos", "--seconds", "8", "--seed", "3", "--json"],
        cwd=tmp_path,
        env={**clean, "METERLINE_METERS": str(ROOT / "meters.yaml"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["mismatches"] == 0
    assert report["kills"] >= 3
    assert {"kill worker", "freeze worker", "kill Service Bus", "kill Cosmos DB", "rolling restart", "scale"} == set(
        report["survived"]
    )
    assert list(tmp_path.iterdir()) == []
