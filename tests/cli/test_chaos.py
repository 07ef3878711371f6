"""`local --chaos`: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cli import chaos as command
from local.chaos import Verdict
from local.checking import Mismatch
from local.ledger import Ledger
from local.once import Options, Report
from local.reading import Rules
from local.witness import Court
from settings import Settings

SURVIVED = Counter({"kill worker": 3, "kill Cosmos DB": 1, "freeze worker": 1})


def verdict(*mismatches: Mismatch) -> Verdict:
    log: Any = None
    numbers = {"counted": 10, "windows_closed": 4, "revisions": 5, "mismatches": len(mismatches)}
    court = Court(log, Ledger(Rules((), 0, 0, 0)), Counter())
    return Verdict(Report(numbers, mismatches, court, copies=2), SURVIVED, SURVIVED)


def run(monkeypatch: pytest.MonkeyPatch, outcome: Verdict, directory: Path | None, as_json: bool = False) -> int:
    async def chaos(options: Options, *_: object) -> Verdict:
        options.data_dir.mkdir(exist_ok=True)
        assert not options.duplicate_detection, "every copy of a message is to arrive, to be compared"
        return outcome

    monkeypatch.setattr(command, "chaos", chaos)
    return command.run(Settings(), 30, 7, as_json, 4, None, directory)


def test_all_equal_is_exit_code_0_with_how_many_kills_were_survived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verdict(), None) == 0
    out, err = capsys.readouterr()
    assert "4 kills survived (freeze worker × 1, kill Cosmos DB × 1, kill worker × 3)" in out
    assert "0 mismatches" in out
    assert "seed 7" in err


def test_a_difference_is_exit_code_1_with_the_seed_and_where_the_logs_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, verdict(Mismatch("w~1", "final value", "12.5", "12.4")), tmp_path) == 1
    out, err = capsys.readouterr()
    assert "mismatch: w~1: final value: expected 12.5, found 12.4" in err
    assert f"kept in {tmp_path}" in err
    assert "--seed 7" in err
    assert "equals" not in out


def test_json_is_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, verdict(), tmp_path, as_json=True) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["kills"] == 4
    assert json.loads(out)["survived"] == SURVIVED
