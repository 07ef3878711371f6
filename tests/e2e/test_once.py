"""The whole road as processes: broker, Service Bus, Cosmos DB, worker, usage, and a second opinion on every number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from tests.terminal import as_at_a_terminal

ROOT = Path(__file__).resolve().parents[2]
APP = [sys.executable, str(ROOT / "app.py")]
FIELDS = [
    "events_sent",
    "counted",
    "duplicates",
    "late",
    "dead_lettered",
    "unmatched",
    "windows_closed",
    "revisions",
    "invoice_messages",
    "cosmos_documents",
    "totals",
    "mismatches",
    "seconds",
]
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:16:50.9951690,396,109
2023-11-16 19:00:00.0000000,1000000,2
"""

pytestmark = pytest.mark.e2e


@pytest.fixture
def environment() -> dict[str, str]:
    """Ours, without what a developer's own settings say."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    return {**clean, "METERLINE_METERS": str(ROOT / "meters.yaml")}


def once(tmp_path: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [*APP, "local", "--once", "--json", *options]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def left_over(session: int) -> list[str]:
    """The processes of a session that still run; zombies do not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_every_message_and_document_equals_the_independent_ledger(tmp_path: Path, environment: dict[str, str]) -> None:
    ran = once(tmp_path, environment, "--events", "3000", "--seed", "5")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert list(report) == FIELDS
    assert (report["events_sent"], report["mismatches"]) == (3000, 0)
    fates = ("counted", "duplicates", "dead_lettered", "unmatched")
    assert sum(report[fate] for fate in fates) == 3000
    assert all(report[fate] > 0 for fate in (*fates, "late"))
    assert (
        report["revisions"] == report["invoice_messages"] > report["cosmos_documents"] == report["windows_closed"] > 0
    )
    tokens = report["totals"]["api_tokens"]
    assert tokens["PT1M"] == tokens["PT1H"], "the same usage, whatever the windows"
    assert list(tmp_path.iterdir()) == [], "a run that went well leaves nothing behind"


def test_a_csv_file_is_metered_to_the_sums_of_its_columns(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    ran = once(tmp_path, environment, "--input", "trace.csv", "--source", "azure-llm-conv", "--workers", "2")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["events_sent"], report["counted"], report["late"]) == (4, 4, 0)
    assert {size: Decimal(value) for size, value in report["totals"]["llm_context_tokens"].items()} == {
        "PT1M": Decimal(1001144),
        "PT1H": Decimal(1001144),
    }
    assert report["totals"]["llm_generated_tokens"] == {"PT1H": "199", "PT1M": "199"}
    assert report["cosmos_documents"] == 10


def test_wrong_usage_is_told_and_prints_nothing_on_stdout(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    ran = once(tmp_path, environment, "--input", "trace.csv", "--source", "nobody")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "nobody" in ran.stderr and "azure-llm-conv" in ran.stderr
    ran = once(tmp_path, {**environment, "METERLINE_METERS": "none.yaml"}, "--events", "10")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "none.yaml" in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", ["Ctrl-C", "SIGTERM"])
def test_local_shows_invoices_within_a_minute_and_leaves_no_process(
    tmp_path: Path, environment: dict[str, str], ending: str
) -> None:
    output = tmp_path / "output.txt"
    with output.open("wb") as stdout:
        with as_at_a_terminal():
            local = subprocess.Popen(
                [*APP, "local", "--env-file", "stack.env"],
                cwd=tmp_path,
                env=environment,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 200
            while "r1 closed" not in output.read_text():
                assert local.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.2)
            assert "dashboard  http://127.0.0.1:" in output.read_text()
            assert "METERLINE_COSMOS_ENDPOINT=" in (tmp_path / "stack.env").read_text()
            if ending == "Ctrl-C":
                os.killpg(local.pid, signal.SIGINT)  # the terminal sends it to everyone
            else:
                local.send_signal(signal.SIGTERM)
            assert local.wait(60) == 0, output.read_text()
            assert left_over(local.pid) == []
            log = (tmp_path / ".meterline/demo/logs/worker-1.log").read_text()
            assert "everything was handed over" in log, "the servers were there for as long as the worker needed them"
        finally:
            if left_over(local.pid):
                os.killpg(local.pid, signal.SIGKILL)
