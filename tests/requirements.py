"""What a test needs from the machine: skipped on a laptop that lacks it, failed in CI, where it must be there."""

from __future__ import annotations

import os

import pytest


def need(condition: bool, what: str) -> None:
    """Skip the test unless `condition`; in CI (`CI=true`) fail it. what: "Java 17 and Maven", for people."""
    if condition:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"needs {what}", pytrace=False)
    pytest.skip(f"needs {what}")
