"""Settings that do not fit are refused with their name, and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

import settings
from schemas.errors import ConfigurationError


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("METERLINE_SESSION_TIMEOUT_S", "inf", "expected a number above 0, found inf"),
        ("METERLINE_SESSION_TIMEOUT_S", "nan", "expected a number above 0, found nan"),
        ("METERLINE_SESSION_TIMEOUT_S", "0", "expected a number above 0, found 0"),
        ("METERLINE_SESSION_TIMEOUT_S", "soon", "expected a number, found 'soon'"),
        ("METERLINE_WEB_PORT", "70000", "expected a port from 0 to 65535, found 70000"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_variable(variable: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings.load({variable: text}, Path("none"))
    assert refused.value.what.startswith(f"{variable}: {says}")


def test_an_env_file_that_is_not_utf_8_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "local.env"
    file.write_bytes("METERLINE_APP_ID=größe\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"local\.env: it is not UTF-8 -> save the file as UTF-8"):
        settings.load({}, file)
