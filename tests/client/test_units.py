"""What envelopes save: the rules by hand, the model against the packer itself, and the document shows what the command prints."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from meterline_client import Producer
from meterline_client.units import need, packed, single
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "client.md"


def test_the_document_shows_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "meterline_client.units"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() in DOCUMENT.read_text(), f"paste the output of {' '.join(command[1:])} into {DOCUMENT}"


@pytest.mark.parametrize(
    ("records_s", "size", "units_in", "units_out", "billed_records"),
    [
        (1000, 100, 1, 1, 1),
        (1001, 100, 2, 1, 1),
        (10, 64_000, 1, 1, 1),
        (10, 64_001, 1, 1, 2),
        (16, 64_000, 2, 1, 1),  # 1.024 MB/s
        (4097, 10, 5, 2, 1),
        (100, 96_000, 10, 5, 2),  # the FAQ's own example: 96 KB are two
    ],
)
def test_units_and_billed_events_by_hand(
    records_s: int, size: int, units_in: int, units_out: int, billed_records: int
) -> None:
    found = need(records_s, size)
    assert (found.units_in, found.units_out) == (units_in, units_out)
    assert found.billed == records_s * billed_records * 30 * 86_400


def test_single_records_reach_the_end_of_standard_at_forty_thousand_a_second() -> None:
    assert single(40_000, 220).fits and not single(40_001, 220).fits
    assert packed(100_000, 220).fits


@pytest.mark.parametrize(
    ("rate_s", "linger_s", "count"),
    [(100, 0.05, 2000), (1000, 0.05, 5000), (1000, 1.0, 5000), (20_000, 0.05, 6000), (20_000, 1.0, 6000)],
)
async def test_the_model_is_what_the_producer_does(rate_s: int, linger_s: float, count: int) -> None:
    recorder, clock, draw = Recorder(1), ManualClock(), random.Random(7)
    async with Producer(recorder, SOURCE, linger_s=linger_s, clock=clock) as producer:
        for _ in range(count):
            producer.try_send(TYPE, "acme", {"n": 1})
            await clock.pass_s(draw.expovariate(rate_s))
    assert len(recorder.events(0)) == count
    size = round(sum(map(len, recorder.records[0])) / count) - 1
    expected = packed(rate_s, size, partitions=1, linger_s=linger_s).records_s * count / rate_s
    assert len(recorder.records[0]) == pytest.approx(expected, rel=0.08, abs=2)
