"""Killed, torn or damaged: what the spool accepted is sent, or it is said what became of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meterline_client import DeliveryFailed, Producer, SpoolError
from meterline_client.segments import Segment
from tests.client.doubles import SOURCE, TYPE, ManualClock, Recorder, counters
from tests.client.spooled import abandoned, closed, left_in

_VICTIM = """
import asyncio, sys
from meterline_client import KafkaTransport, Producer
from tests.client.doubles import Recorder, SOURCE, TYPE

async def main():
    recorder = Recorder(3)
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=sys.argv[1], durable=True, run="victimrun")
    await producer.start()
    number = 0
    while True:
        sent = await producer.send(TYPE, f"s{number % 7}", number)
        sys.stdout.write(sent.event_id + "\\n")
        sys.stdout.flush()
        number += 1
        if number % 50 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


async def test_after_a_kill_9_every_event_that_was_accepted_is_sent(tmp_path: Path) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert victim.stdout is not None
    accepted = [victim.stdout.readline().strip() for _ in range(1000)]
    victim.send_signal(signal.SIGKILL)
    accepted += [line.strip() for line in victim.stdout if line.endswith("\n")]
    victim.wait()
    recorder = Recorder(3)
    async with Producer(recorder, SOURCE, spool_dir=tmp_path) as producer:
        assert producer.ledger().recovered >= len(accepted) >= 1000
    found = [event["id"] for event in recorder.all_events()]
    assert {*accepted} <= {*found} and len(found) == len({*found})
    assert len(found) <= len(accepted) + 1, "at most the one that was on its way to the test"
    for partition in range(3):
        assert counters(recorder.events(partition)) == [*range(1, len(recorder.events(partition)) + 1)]


@pytest.mark.parametrize("torn", [1, 7, 8, 9, 40, 300])
async def test_a_torn_tail_is_cut_with_a_warning_and_everything_before_it_survives(
    tmp_path: Path, torn: int, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, clock = Recorder(1), ManualClock()
    path = await abandoned(recorder, clock, tmp_path, events=10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn])
    async with asyncio.timeout(10):
        second = Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock)
        await second.start()
        await closed(second, clock)
    assert path.stat().st_size < len(whole) - torn
    assert "are not a whole event" in caplog.text and "9 whole events" in caplog.text and str(path) in caplog.text
    caplog.clear()
    recorder.away = False
    with caplog.at_level(logging.WARNING, logger="meterline.client"):
        async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
            pass
    assert counters(recorder.events(0)) == [*range(1, 10)]
    assert "are not a whole event" not in caplog.text, "it was cut the first time"


async def test_a_flipped_bit_is_noticed_by_its_checksum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder, clock = Recorder(1), ManualClock()
    path = await abandoned(recorder, clock, tmp_path, events=3)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock):
        pass
    assert counters(recorder.events(0)) == [1, 2]
    assert "are not a whole event" in caplog.text


@pytest.mark.parametrize("length", [0, 5])
async def test_a_crash_at_the_very_beginning_of_a_file_is_no_error(tmp_path: Path, length: int) -> None:
    home = tmp_path / "00000001-deadbeef"
    home.mkdir()
    (home / "lane-00000-00000000000000000000.events").write_bytes(b"meterline-spool-1\n"[:length])
    async with Producer(Recorder(1), SOURCE, spool_dir=tmp_path) as producer:
        assert producer.ledger().recovered == 0
    assert left_in(tmp_path) == []


async def test_what_cannot_be_read_back_has_failed_and_its_file_is_kept(tmp_path: Path) -> None:
    recorder, clock = Recorder(1), ManualClock()
    recorder.away = True
    producer = Producer(recorder, SOURCE, spool_dir=tmp_path, durable=True, clock=clock)
    await producer.start()
    await producer.send(TYPE, "a", "on the road")
    await clock.pass_s(1)
    damaged = await producer.send(TYPE, "a", "damaged")
    (path,) = left_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    recorder.away = False
    await clock.pass_s(20)
    await clock.pass_s(20)
    with pytest.raises(DeliveryFailed, match="is damaged at byte"):
        await damaged
    with pytest.raises(DeliveryFailed):
        await producer.close()
    assert left_in(tmp_path) == [path] and path.read_bytes() == data


def test_a_damaged_file_is_said_with_file_and_byte(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path / "x.events")
    start = segment.size
    segment.append(b"a", b"{}")
    segment.append(b"a", b"[]")
    length = segment.size - start
    assert segment.read(start, length) == [b"{}", b"[]"]
    os.truncate(segment.path, segment.size - 1)
    with pytest.raises(SpoolError, match=r"x\.events is damaged at byte"):
        segment.read(start, length)
    segment.close()


@pytest.mark.parametrize("damage", ["content", "length", "zeros"])
async def test_damage_in_the_middle_of_a_file_costs_what_is_damaged_and_nothing_behind_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, clock = Recorder(1), ManualClock()
    path = await abandoned(recorder, clock, tmp_path, events=9)
    data = bytearray(path.read_bytes())
    at = data.index(b"[3,") - 200
    if damage == "content":
        data[at + 210] ^= 1
    else:
        begin = data.rindex(b'{"specversion', 0, at + 200) - 11  # its subject "a", and the frame
        data[begin : begin + 4] = (1 << 30).to_bytes(4, "little") if damage == "length" else bytes(4)
    path.write_bytes(data)
    recorder.away = False
    async with Producer(recorder, SOURCE, spool_dir=tmp_path, clock=clock) as second:
        assert second.ledger().recovered == 8
    assert [event["data"][0] for event in recorder.all_events()] == [0, 1, 2, 4, 5, 6, 7, 8]
    (kept,) = tmp_path.glob("damaged-*")
    assert b"[3," in kept.read_bytes() and b"[4," not in kept.read_bytes()
    assert f"{path} is damaged from byte" in caplog.text and str(kept) in caplog.text
    assert left_in(tmp_path) == []
