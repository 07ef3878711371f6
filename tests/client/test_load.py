"""The load generator and the sample service, as processes, on the local broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from local.broker import Broker
from local.ports import free_port
from local.process import Child
from local.servicebus.server import ServiceBusServer
from meterline_client.load import CONNECTION_STRING, arguments, subjects
from tests.client.brokers import new_topic, read_until
from tests.client.doubles import counters
from tests.local.servicebus_world import config

ROOT = Path(__file__).resolve().parents[2]


async def loaded(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meterline_client.load", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(environ or {})},
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_load_generator_sends_what_it_says_over_kafka_and_over_amqp(tmp_path: Path) -> None:
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, 3)
        common = ["--events", "3000", "--subjects", "50", "--skew", "1.1"]
        code, out, err = await loaded("--bootstrap", broker.bootstrap, "--topic", topic, "--rate", "20000", *common)
        assert code == 0, err
        over_kafka = json.loads(out)
        assert (over_kafka["delivered"], over_kafka["failed"], over_kafka["pending"]) == (3000, 0, 0)
        assert over_kafka["seconds"] >= 3000 / 20000 * 0.9, "it keeps to its rate"
        server = ServiceBusServer(config(tmp_path, event_hubs={"usage": topic}, kafka_bootstrap=broker.bootstrap))
        await server.start()
        try:
            secret = {CONNECTION_STRING: server.connection_string}
            code, out, err = await loaded("--amqp", *common, environ=secret)
        finally:
            await server.close()
        assert code == 0, err
        over_amqp = json.loads(out)
        ids = {f"{said['run']}-0-1" for said in (over_kafka, over_amqp)}
        records = await read_until(broker.bootstrap, topic, 3, ids)
    for said in (over_kafka, over_amqp):
        mine = [e for r in records for e in r.events if e["id"].startswith(said["run"])]
        assert len(mine) == 3000
    first = [[e for r in records if r.partition == p for e in r.events] for p in range(3)]
    for events in first:
        lane = [event for event in events if event["id"].startswith(over_kafka["run"])]
        assert counters(lane) == [*range(1, len(lane) + 1)]


async def test_packing_alone_can_be_measured() -> None:
    code, out, err = await loaded("--nowhere", "4", "--events", "20000")
    assert code == 0, err
    said = json.loads(out)
    assert (said["delivered"], said["partitions"]) == (20_000, 4) and said["events_per_cpu_second"] > 0
    assert 200 < said["bytes_per_event"] < 300 and said["bytes_per_envelope"] > 50_000


async def test_a_wrong_setting_is_said_in_two_lines() -> None:
    code, out, err = await loaded("--events", "1", environ={CONNECTION_STRING: ""})
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: no broker is named",
        f"to do: give --bootstrap HOST:PORT, or set {CONNECTION_STRING}",
    ]


async def test_what_was_refused_is_said_with_what_to_do() -> None:
    code, _, err = await loaded("--nowhere", "1", "--events", "1", "--max-bytes", "10")
    assert code == 1 and err.startswith("error: an event of ")
    assert err.splitlines()[1:] == ["to do: raise max_bytes, or set a spool_dir"]


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--rate", "nan", "nan is not a number above 0"),
        ("--rate", "-1", "-1 is not a number above 0"),
        ("--rate", "inf", "inf is not a number above 0"),
        ("--rate", "fast", "invalid float value: 'fast'"),
        ("--subjects", "0", "0 is not a number from 1"),
        ("--events", "-5", "-5 is not a number from 0"),
        ("--events", "1" + 400 * "0", "is not a number from 0"),
        ("--events", "2.5", "invalid int value: '2.5'"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(
    option: str, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments().parse_args([option, text])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: " in said and says in said


@pytest.mark.parametrize("skew", [0.0, 1.1])
def test_subjects_are_drawn_from_all_and_the_same_for_a_seed(skew: float) -> None:
    draw, again = subjects(20, skew, 7), subjects(20, skew, 7)
    first = [next(draw) for _ in range(5000)]
    assert first == [next(again) for _ in range(5000)]
    assert {*first} == {f"tenant-{n}" for n in range(20)}
    share = first.count("tenant-0") / 5000
    assert share > 0.2 if skew else share < 0.1


async def test_the_sample_service_meters_its_requests_and_hands_over_at_its_end(tmp_path: Path) -> None:
    port = free_port()
    async with Broker(tmp_path / "broker") as broker:
        topic = await new_topic(broker.bootstrap, 2)
        service = Child(
            "sample service", [sys.executable, str(ROOT / "client" / "examples" / "service.py")], log=tmp_path / "log",
            environ={
                "METERLINE_KAFKA_BOOTSTRAP": broker.bootstrap, "METERLINE_USAGE_TOPIC": topic, "PORT": str(port),
                "METERLINE_EVENTHUBS_CONNECTION_STRING": "", "METERLINE_SPOOL_DIR": str(tmp_path / "spool"),
            },
        )  # fmt: skip
        await service.start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

                async def answers() -> bool:
                    try:
                        async with http.get("/usage?as=probe"):
                            return True
                    except aiohttp.ClientError:
                        return False

                await service.until(answers, 30)
                for number in range(20):
                    async with http.get(f"/hello?as=tenant-{number % 3}") as response:
                        assert (response.status, await response.text()) == (200, "hello\n")
            service.signal(signal.SIGTERM)
            assert await service.exited() == 0
        finally:
            await service.stop()
        records = await read_until(broker.bootstrap, topic, 2, set())
    events = [event for record in records for event in record.events]
    billed = [event["subject"] for event in events if event["data"]["path"] == "/hello"]
    assert {name: billed.count(name) for name in {*billed}} == {"tenant-0": 7, "tenant-1": 7, "tenant-2": 6}
