"""The sample meters file holds what it promises: every aggregation, and sources whose events its meters count."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.definitions import AGGREGATIONS
from schemas.events import RawEvent, decode, envelope
from schemas.meters import load
from schemas.reader import Reader
from schemas.sources import read_events
from tests.schemas.samples import event_bytes, one

SAMPLE = load(Path(__file__).parents[2] / "meters.yaml")
READER = Reader(SAMPLE)


def test_every_aggregation_is_shown() -> None:
    assert {meter.aggregation for meter in SAMPLE.meters} == set(AGGREGATIONS)
    assert all(meter.description and meter.unit for meter in SAMPLE.meters)


@pytest.mark.parametrize(
    ("event_type", "data", "meters"),
    [
        ("api.request", {"tokens": 12, "model": "gpt-4o", "user": "u-1", "latency_ms": 231.5}, 5),
        ("storage.snapshot", {"gb": 120.25}, 2),
        ("compute.job", {"cpu_seconds": "37.125", "region": "westeurope"}, 1),
        ("llm.inference", {"context_tokens": 374, "generated_tokens": 44}, 2),
    ],
)
def test_the_events_it_speaks_of_are_counted(event_type: str, data: dict[str, object], meters: int) -> None:
    assert len(READER.measure(one(event_bytes(type=event_type, data=data))).measurements) == meters


@pytest.mark.parametrize("name", ["azure-llm-conv", "azure-llm-code"])
def test_its_sources_read_the_azure_llm_inference_trace(name: str) -> None:
    file = [b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n", b"2023-11-16 18:15:46.6805900,374,44\r\n"] + [
        b"2023-11-16 18:15:50.9951690,396,109\r\n"
    ] * 2
    found = [event for _, event in read_events(SAMPLE.sources[name], file) if isinstance(event, dict)]
    events = [event for event in decode(envelope(found)) if isinstance(event, RawEvent)]
    assert [event.id for event in events] == ["2", "3", "4"]
    assert {event.subject for event in events} == {name.removeprefix("azure-")}
    measured = READER.measure(events[0])
    assert measured.time_ms == 1_700_158_546_680
    assert {m.meter.slug: int(m.quantity or 0) for m in measured.measurements} == {
        "llm_context_tokens": 374,
        "llm_generated_tokens": 44,
    }
    assert all([window.size for window in m.meter.windows] == ["PT1M", "PT1H"] for m in measured.measurements)
