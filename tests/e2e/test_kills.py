"""Killed, frozen, restarted, rescaled: on real Apache Kafka, with three worker processes and usage that never stops.

At the end every window, message and document equals a ledger that has only seen the log (`local/chaos.py`). What happens
when is drawn from a seed; a run that failed tells it, with what happened and the end of every log.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local.chaos import Verdict, chaos
from local.kafka import KafkaCluster
from local.once import Options
from settings import Settings

METERS = Path("meters.yaml")
TAIL_BYTES = 6_000
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def quiet_client(caplog: pytest.LogCaptureFixture) -> None:
    """The generator's client says hundreds of times that the broker is away: it was killed."""
    caplog.set_level(logging.CRITICAL, "aiokafka")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[KafkaCluster]:
    """An Apache Kafka of this test's own, since it is going to be killed."""
    cluster = KafkaCluster(tmp_path / "kafka")
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


async def befall(
    options: Options, broker: KafkaCluster, seed: int, seconds: float, capsys: pytest.CaptureFixture[str]
) -> Verdict:
    base = Settings(session_timeout_s=6.0, rebalance_timeout_s=6.0, checkpoint_ms=1000)
    story = [f"seed {seed}"]
    try:
        verdict = await chaos(options, base, seed, seconds, story.append, broker)
        assert list(verdict.report.mismatches) == []
    except BaseException:
        print("\n".join(story))
        for log in sorted((options.data_dir / "logs").glob("*.log")):
            print(f"--- {log.name}\n{log.read_bytes()[-TAIL_BYTES:].decode(errors='replace')}")
        raise
    assert verdict.survived == verdict.planned
    with capsys.disabled():
        print(f"\nseed {seed}: {verdict.sentence()}")
    return verdict


async def test_kills_freezes_and_restarts_change_no_number_and_every_copy_of_a_message_is_the_same(
    broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(tmp_path / "run", METERS, kafka=broker.bootstrap, duplicate_detection=False)
    verdict = await befall(options, broker, seed=11, seconds=30, capsys=capsys)
    assert verdict.kills >= 9
    assert verdict.survived["freeze worker"] and verdict.survived["kill broker"] and verdict.survived["rolling restart"]
    assert verdict.report.numbers["counted"] > 5_000
    # How many revisions it makes is a matter of time: none where its partial comes before the watermark that closes.
    assert verdict.report.numbers["late"] > 0


async def test_with_the_workers_own_clock_the_ticks_that_are_in_the_log_decide_whoever_wrote_them(
    broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(tmp_path / "run", METERS, kafka=broker.bootstrap, max_delay="PT1S", partitions=7)
    verdict = await befall(options, broker, seed=12, seconds=20, capsys=capsys)
    assert verdict.kills >= 6
    assert verdict.report.court.ticks > 0, "some partitions have no usage, so that nothing closes but by ticks"
    assert verdict.report.numbers["late"] > 0
