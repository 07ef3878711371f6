"""`mend` without a broker: what is wrong with the command line is said before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from cli.main import group
from settings import Settings

ENVIRON = {f"METERLINE_{name.upper()}": "" for name in Settings.__dataclass_fields__}


def run(*words: str) -> tuple[int, str]:
    result = CliRunner(env=ENVIRON).invoke(group, ["mend", *words], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["offset", "sealing", "0"], "'sealing' is not one of"),
        (["offset", "metering", "first"], "neither a partition's number nor `all`"),
        (["rebuild", "closing", "-1"], "No such option"),
        (["accept-gap", "metering", "0"], "Missing option '--to'"),
        (["accept-gap", "metering", "all", "--to", "5"], "not a valid integer"),
        (["unpark", "0", "--sink", "ftp"], "'ftp' is not one of"),
    ],
)
def test_a_command_line_that_is_wrong_is_refused(words: Sequence[str], said: str) -> None:
    code, output = run(*words)
    assert code == 2 and said in output


@pytest.mark.parametrize("words", [[], ["show"], ["resend", "all"], ["offset", "metering", "0"]])
def test_without_a_broker_it_says_which_settings_are_missing(words: Sequence[str]) -> None:
    code, output = run(*words)
    assert code == 2
    assert "METERLINE_EVENTHUBS_CONNECTION_STRING" in output and "METERLINE_KAFKA_BOOTSTRAP" in output
    assert "Traceback" not in output


def test_the_help_says_what_each_does() -> None:
    _, output = run("--help")
    for name in ("show", "offset", "rebuild", "accept-gap", "resend", "unpark"):
        assert name in output
    assert "docs/mending.md" in output
