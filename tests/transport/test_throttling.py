"""A throttled produce waits, sends the same bytes again, and is told; only what outlasts the patience fails."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from schemas.errors import SendFailed
from schemas.records import Out
from settings import Settings
from tests.scripted_broker import ScriptedBroker
from transport import throttling
from transport.broker import Broker
from transport.sending import UsageProducer
from transport.throttling import Patient, Throttling

POLICY_VIOLATION, MESSAGE_TOO_LARGE, TOPIC_AUTHORIZATION_FAILED = 44, 10, 29


class Pauses:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []

    async def __call__(self, pause_s: float) -> None:
        self.taken_s.append(pause_s)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker({"partials": 2, "usage": 1}) as broker:
        yield broker


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    monkeypatch.setattr(throttling, "Patient", partial(Patient, sleep=pauses))
    return pauses


@pytest.fixture
async def broker(scripted: ScriptedBroker, pauses: Pauses) -> AsyncIterator[Broker]:
    broker = Broker(Settings(kafka_bootstrap=scripted.bootstrap), lambda: None)
    await broker.start()
    yield broker
    await broker.stop()


async def test_what_is_refused_for_throttling_is_sent_again_with_the_same_bytes(
    scripted: ScriptedBroker, broker: Broker, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.refusals["partials", 0] = [POLICY_VIOLATION] * 3
    with caplog.at_level(logging.WARNING, "meterline.broker"):
        assert await broker.produce([Out("partials", 0, b"k", b"one"), Out("partials", 1, b"k", b"other")]) == [0, 0]
    assert scripted.logs == {("partials", 0): [b"one"], ("partials", 1): [b"other"]}
    sent = [raw for _, partition, raw in scripted.received if partition == 0]
    assert len(sent) == 4 and len(set(sent)) == 1
    assert [partition for _, partition, _ in scripted.received].count(1) == 1, "what was taken is not sent again"
    assert [
        lowest <= pause_s <= 2 * lowest for lowest, pause_s in zip((0.25, 0.5, 1.0), pauses.taken_s, strict=True)
    ] == [True] * 3
    assert broker.throttling.describe()["refused"] == 3
    assert broker.throttling.refused_s == pytest.approx(sum(pauses.taken_s))
    assert broker.throttling.waiting == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "POLICY_VIOLATION at partials[0]" in line and "throughput units" in line


async def test_what_follows_waits_behind_it_so_that_the_order_stays(
    scripted: ScriptedBroker, broker: Broker, pauses: Pauses
) -> None:
    scripted.refusals["partials", 0] = [POLICY_VIOLATION, POLICY_VIOLATION]
    values = [b"%d" % number * 60_000 for number in range(8)]  # more than one batch of the producer
    offsets = await broker.produce([Out("partials", 0, b"k", value) for value in values])
    assert scripted.logs["partials", 0] == values
    assert offsets == list(range(8))


async def test_what_outlasts_the_patience_fails_and_says_what_it_may_be(
    scripted: ScriptedBroker, broker: Broker, pauses: Pauses
) -> None:
    scripted.refusals["partials", 0] = [POLICY_VIOLATION] * 1000
    with pytest.raises(SendFailed, match=r"not acknowledged: PolicyViolationError.*throughput units.*256 KB") as failed:
        await broker.produce([Out("partials", 0, b"k", b"one")])
    assert failed.value.retryable
    assert sum(pauses.taken_s) == pytest.approx(throttling.PATIENCE_S)
    assert max(pauses.taken_s) <= throttling.MOST_S


@pytest.mark.parametrize(
    ("code", "name", "hint", "retryable"),
    [
        (MESSAGE_TOO_LARGE, "MessageSizeTooLargeError", "max.message.bytes", False),
        (TOPIC_AUTHORIZATION_FAILED, "TopicAuthorizationFailedError", "needs Send", True),
    ],
)
async def test_another_refusal_is_no_throttling(
    scripted: ScriptedBroker, broker: Broker, pauses: Pauses, code: int, name: str, hint: str, retryable: bool
) -> None:
    scripted.refusals["partials", 0] = [code]
    with pytest.raises(SendFailed, match=f"{name}.*{hint}") as failed:
        await broker.produce([Out("partials", 0, b"k", b"one")])
    assert failed.value.retryable is retryable
    assert pauses.taken_s == [] and broker.throttling.refused == 0


async def test_a_delayed_answer_is_counted_and_a_long_one_is_told(
    scripted: ScriptedBroker, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.throttle_ms = [40, 2500, 3000]
    with caplog.at_level(logging.WARNING, "meterline.broker"):
        for _ in range(3):
            await broker.produce([Out("partials", 0, b"k", b"one")])
    assert broker.throttling.describe()["delayed"] == {"produce": 3}
    assert broker.throttling.describe()["delayed_s"] == {"produce": 5.54}
    assert [record.getMessage()[:61] for record in caplog.records] == [
        "the broker throttles: a produce was delayed by 2.5 s -> raise"
    ], "once in a while, not per answer"


async def test_a_generator_waits_too(scripted: ScriptedBroker, pauses: Pauses) -> None:
    scripted.refusals["usage", 0] = [POLICY_VIOLATION]
    async with UsageProducer(Settings(kafka_bootstrap=scripted.bootstrap)) as producer:
        await producer.send(0, b"k", b"one")
        await producer.flush()
    assert scripted.logs["usage", 0] == [b"one"] and len(pauses.taken_s) == 1


async def test_everything_else_is_the_clients_own() -> None:
    class Client:
        cluster = "its cluster"

        async def send(self, node_id: int, request: Any, **options: Any) -> Any:
            return node_id, request, options

    patient = Patient(Client(), Throttling(), random.Random(1))
    assert patient.cluster == "its cluster"
    assert await patient.send(3, "a request", group=1) == (3, "a request", {"group": 1})
