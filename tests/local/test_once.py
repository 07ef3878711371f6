"""When a run is over, and what it is run with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from local.once import PAUSES, generated, rendered
from local.reading import Record, Rules, parse_time
from local.waiting import closes_behind, waits_for
from schemas.errors import BrokerError, ConfigurationError
from schemas.meters import load

SAMPLE = Path(__file__).parents[2] / "meters.yaml"
DUE = "2026-03-02T00:01:05Z"


def status(**changes: Any) -> dict[str, Any]:
    closing = {"state": "running", "watermark": DUE, "outbox": {"servicebus": 0, "cosmos": 0}}
    plain = {
        "complete": True,
        "metering": {"0": {"state": "running"}},
        "closing": {"0": closing},
        "audit": {"total": {"read": 10}},
    }
    return {**plain, **changes}


def closing(**changes: Any) -> dict[str, Any]:
    return {"closing": {"0": {**status()["closing"]["0"], **changes}}}


def test_it_is_over_when_all_is_read_all_windows_are_due_and_all_outboxes_are_empty() -> None:
    assert waits_for(status(), 10, parse_time(DUE)) == []


@pytest.mark.parametrize(
    "lacking",
    [
        {"complete": False},
        {"audit": {"total": {"read": 9}}},
        {"metering": {"0": {"state": "restoring"}}},
        closing(watermark=None),
        closing(watermark="2026-03-02T00:01:04.999Z"),
        closing(outbox={"servicebus": 0, "cosmos": 1}),
    ],
)
def test_it_is_not_over_while_anything_is_lacking(lacking: dict[str, Any]) -> None:
    assert len(waits_for(status(**lacking), 10, parse_time(DUE))) == 1


def test_a_pause_ends_when_closing_has_heard_of_everything_sent_so_far() -> None:
    task = {"state": "running", "watermark": DUE}
    assert closes_behind(status(metering={"0": task}), 10) == []
    assert closes_behind(status(metering={"0": task}), 11) == ["10 of 11 events read"]
    assert len(closes_behind(status(metering={"0": task}, **closing(watermark=None)), 10)) == 1
    quiet = {"0": task, "1": {**task, "watermark": None}}
    assert closes_behind(status(metering=quiet, **closing(watermark=None)), 10) == []


def test_a_stopped_partition_ends_it_with_its_reason() -> None:
    stopped = {"metering": {"0": {"state": "stopped", "reason": "no changelog", "hint": "mend it"}}}
    with pytest.raises(BrokerError, match="no changelog"):
        waits_for(status(**stopped), 10, parse_time(DUE))


def test_the_rendered_meters_file_is_the_same_but_for_its_clock(tmp_path: Path) -> None:
    before, after = load(SAMPLE), load(rendered(SAMPLE, tmp_path / "new"))
    assert after.stream.max_delay_ms is None
    assert (after.meters, set(after.sources)) == (before.meters, set(before.sources))


def test_a_wrong_meters_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    wrong = tmp_path / "meters.yaml"
    wrong.write_text("meters: [{slug: a}]\n")
    with pytest.raises(ConfigurationError, match="event_type is missing"):
        rendered(wrong, tmp_path / "new")


class Kept:
    """A producer that keeps what it is given."""

    partitions = 4

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []

    async def send(self, partition: int, key: bytes | None, value: bytes, headers: Any = ()) -> None:
        self.records.append((partition, value))


async def test_generated_usage_lies_in_days_that_are_over() -> None:
    from local.ledger import Ledger

    rules = Rules.of(yaml.safe_load(SAMPLE.read_text()))
    producer = Kept()
    pauses: list[int] = []

    async def pause(sent: int) -> None:
        pauses.append(sent)

    assert await generated(rules, 500, seed=3)(producer, pause) == 500  # type: ignore[arg-type]
    assert len(pauses) == PAUSES and pauses == sorted(pauses)
    import time

    now_ms = time.time_ns() // 1_000_000
    ledger = Ledger(rules)
    for offset, (partition, value) in enumerate(producer.records):
        ledger.judge(Record(partition, offset, now_ms, value))
    assert max(key.start_ms for key in ledger.windows()) + 86_400_000 > now_ms - 2 * 86_400_000
    for key in ledger.windows():
        size_ms = {"PT1M": 60_000, "PT1H": 3_600_000, "P1D": 86_400_000}[key.size]
        assert key.start_ms + size_ms + rules.settle_ms <= now_ms
