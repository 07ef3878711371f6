"""Billing stories that finance can read: each folder is one, its numbered files are what happens and what must come of it.

`about.md` tells it, `meters.yaml` says what is metered. Then in order: what is written to the usage topic (`partition`,
`recorded`: when the broker took it, `record`: one event or an envelope), and `expected`: the revisions that both sinks were
given since the last one (with the fields that are named there), and all dead letters and ledger counts so far, where named.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.meters import load
from schemas.times import parse_rfc3339
from tests.world import SINKS, USAGE, ClosingProcess, MeteringProcess, World

STORIES = sorted(path.parent for path in Path(__file__).parent.glob("*/meters.yaml"))


class Telling:
    """A story as far as it is told."""

    def __init__(self, folder: Path) -> None:
        self.steps = [(path, orjson.loads(path.read_bytes())) for path in sorted(folder.glob("[0-9]*.json"))]
        sources = 1 + max(step["partition"] for _, step in self.steps if "partition" in step)
        self.world = World(load(folder / "meters.yaml"), sources=sources, targets=2)
        self.metering = [MeteringProcess(self.world, partition) for partition in range(sources)]
        self.closing = [ClosingProcess(self.world, partition) for partition in range(2)]
        self.seen = Counter[str]()

    def happens(self, step: dict[str, Any]) -> None:
        """A record is written to the usage topic."""
        value, at_ms = orjson.dumps(step["record"]), parse_rfc3339(step["recorded"])
        self.world.logs[USAGE, step["partition"]].append(value, b"key", at_ms)

    def work(self) -> None:
        """Both stages and delivery, to the end of what is there."""
        for metering in self.metering:
            metering.read()
            metering.checkpoint()
        for closing in self.closing:
            closing.read()
            closing.checkpoint()
            closing.deliver()

    def news(self, sink: str) -> list[dict[str, Any]]:
        """What a sink was given since it was last asked, by window and revision."""
        documents = self.world.documents(sink)
        new = documents[self.seen[sink] :]
        self.seen[sink] = len(documents)
        return sorted(new, key=place)


def place(document: dict[str, Any]) -> tuple[Any, ...]:
    """Windows of different subjects come over different partitions: in no order that means anything."""
    return document["window_start"], document["subject"], document["meter"], document["revision"]


def named(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each found document the fields that are expected of it; all of it where nothing is."""
    return [
        {name: document.get(name) for name in (expected[number] if number < len(expected) else document)}
        for number, document in enumerate(found)
    ]


@pytest.mark.parametrize("folder", STORIES, ids=[folder.name for folder in STORIES])
def test_the_story_goes_as_it_is_told(folder: Path) -> None:
    telling = Telling(folder)
    for path, step in telling.steps:
        if not path.stem.endswith("--expected"):
            telling.happens(step)
            continue
        telling.work()
        revisions = sorted(step["revisions"], key=place)
        for sink in SINKS:
            assert named(telling.news(sink), revisions) == revisions, path.name
        if "dead_letters" in step:
            assert named(telling.world.dead_letters(), step["dead_letters"]) == step["dead_letters"], path.name
        counts = Counter[str]()
        for metering in telling.metering:
            counts.update(metering.table.ledger.describe())
        assert {name: counts[name] for name in step.get("ledger", {})} == step.get("ledger", {}), path.name


def test_every_story_is_told_in_words_and_ends_with_what_must_come_of_it() -> None:
    assert len(STORIES) >= 5
    for folder in STORIES:
        assert (folder / "about.md").read_text().startswith("# ")
        assert sorted(folder.glob("[0-9]*.json"))[-1].stem.endswith("--expected")
