"""Every way to stop has its section in docs/mending.md, and every hint leads to one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from cli.mend import mend
from schemas.errors import Way

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "mending.md").read_text()
ROOT = Path(__file__).resolve().parents[1]


def slug(heading: str) -> str:
    """As GitHub makes anchors of headings."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


HEADINGS = {slug(line[3:]) for line in DOCUMENT.splitlines() if line.startswith("## ")}


@pytest.mark.parametrize("way", get_args(Way))
def test_every_way_to_stop_has_a_section_that_says_what_it_means_and_what_to_do(way: str) -> None:
    assert way in HEADINGS
    section = next(part for part in re.split(r"(?m)^## ", DOCUMENT) if slug(part.splitlines()[0]) == way)
    assert "> " in section and "*What it means.*" in section and "*What to do" in section


def test_every_link_into_it_leads_somewhere() -> None:
    places = [*ROOT.glob("*/*.py"), ROOT / "README.md"]
    named = {anchor for path in places for anchor in re.findall(r"mending\.md#([\w-]+)", path.read_text())}
    named |= set(re.findall(r"\]\(#([\w-]+)\)", DOCUMENT))
    assert named and named <= HEADINGS


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"mend ([a-z-]+) (?:STAGE|PARTITION|closing|metering|all)", DOCUMENT))
    context = click.Context(mend)
    assert isinstance(mend, click.Group)
    assert named == set(mend.list_commands(context)) - {"show"}
