"""The root: every command explains itself, and an error says what and what to do, without a traceback."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli import main
from cli.main import COMMANDS, group
from schemas.errors import BrokerError, ConfigurationError, MeterlineError

SAMPLE = Path(__file__).parents[2] / "meters.yaml"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """In an empty directory, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name.startswith("METERLINE_"):
            monkeypatch.delenv(name)
    return CliRunner()


def test_help_names_every_command_with_a_line(runner: CliRunner) -> None:
    shown = runner.invoke(group, ["--help"])
    assert shown.exit_code == 0
    assert all(f"\n  {name} " in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_example(runner: CliRunner, name: str) -> None:
    shown = runner.invoke(group, [name, "--help"])
    assert shown.exit_code == 0
    assert f"python app.py {name}" in shown.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("not so", where="METERLINE_X", hint="do this"), 2),
        (BrokerError("not so"), 1),
        (MeterlineError("not so", hint="do this"), 1),
    ],
)
def test_an_error_is_what_where_and_what_to_do(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, error: MeterlineError, code: int
) -> None:
    @click.command()
    def failing() -> None:
        """python app.py failing"""
        raise error

    monkeypatch.setattr(main, "failing", failing, raising=False)
    monkeypatch.setitem(COMMANDS, "failing", "cli.main:failing")
    shown = runner.invoke(group, ["failing"])
    assert shown.exit_code == code
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: ") and "not so" in shown.stderr
    assert ("to do: do this" in shown.stderr) is bool(error.hint)
    assert "Traceback" not in shown.stderr


def test_an_unknown_command_is_bad_usage(runner: CliRunner) -> None:
    assert runner.invoke(group, ["nothing"]).exit_code == 2


def test_settings_come_from_the_file_that_is_named(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "mine.env").write_text(f"METERLINE_METERS={SAMPLE}\n")
    assert runner.invoke(group, ["meters"]).exit_code == 2
    assert runner.invoke(group, ["--settings", "mine.env", "meters"]).exit_code == 0


def test_a_settings_file_that_is_not_there_is_told(runner: CliRunner) -> None:
    shown = runner.invoke(group, ["--settings", "none.env", "meters"])
    assert shown.exit_code == 2 and "none.env" in shown.stderr


def test_a_worker_without_a_broker_is_refused_with_what_to_set(runner: CliRunner) -> None:
    shown = runner.invoke(group, ["worker"], env={"METERLINE_METERS": str(SAMPLE)})
    assert shown.exit_code == 2
    assert "METERLINE_KAFKA_BOOTSTRAP" in shown.stderr
