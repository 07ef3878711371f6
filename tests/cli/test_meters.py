"""`meters` shows the file as it is meant, and lists what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from cli.main import group
from schemas.meters import load

SAMPLE = Path(__file__).parents[2] / "meters.yaml"


def test_json_is_the_file_with_every_default_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("meters: [{slug: calls, event_type: call, aggregation: count}]\n")
    shown = json.loads(CliRunner().invoke(group, ["meters", str(file), "--json"]).stdout)
    assert shown["stream"] == {
        "max_delay": "PT30S",
        "future_tolerance": "PT5M",
        "correct_for": "P1D",
        "revise_every": "PT1M",
    }
    meter = shown["meters"][0]
    assert (meter["windows"], meter["grace"], meter["value"], meter["minimum"]) == (["PT1H"], "PT5S", None, None)
    assert shown["digest"] == load(file).digest


def test_the_table_names_every_meter_of_the_sample() -> None:
    shown = CliRunner().invoke(group, ["meters", str(SAMPLE)])
    assert shown.exit_code == 0
    assert all(meter.slug in shown.stdout for meter in load(SAMPLE).meters)


def test_every_problem_is_listed_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("meters:\n  - slug: Calls\n    event_type: call\n    aggregation: mean\n")
    shown = CliRunner().invoke(group, ["meters", str(file)])
    assert shown.exit_code == 2
    assert "m.yaml:2" in shown.stderr and "m.yaml:4" in shown.stderr
