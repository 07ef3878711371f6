"""The Service Bus sink's promises, judged by the real SDK against the local Service Bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from azure.identity.aio import DefaultAzureCredential
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.exceptions import MessagingEntityDisabledError, ServiceBusQuotaExceededError

from local.servicebus.server import QueueConfig, ServiceBusServer
from schemas.errors import ConfigurationError
from schemas.windows import Revision, session_id
from settings import Settings
from sinks import servicebus
from sinks.contract import DELIVERED
from sinks.servicebus import ServiceBusSink
from tests.local.servicebus_world import KEY, World, body, config, world


def revision(number: int = 1, *, window: str = "w1", subject: str = "contoso", filler: str = "") -> Revision:
    document = {"id": window, "window_id": window, "subject": subject, "revision": number, "filler": filler}
    return Revision(window, number, subject, orjson.dumps(document))


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


def settings_of(bus: World, **more: Any) -> Settings:
    return replace(Settings(servicebus_connection_string=bus.server.connection_string), **more)


@pytest.fixture
async def sink(bus: World) -> AsyncIterator[ServiceBusSink]:
    sink = ServiceBusSink(settings_of(bus))
    await sink.open()
    yield sink
    await sink.close()


async def received(bus: World, session: str) -> list[ServiceBusReceivedMessage]:
    return await bus.drain("invoicing", session_id=session, max_wait_time=1)


async def test_a_revision_is_one_message_with_the_ids_that_make_it_idempotent(bus: World, sink: ServiceBusSink) -> None:
    sent = revision(2, window="api_tokens~PT1M~20260131T120000Z~abc")
    assert await sink.deliver([sent]) == [DELIVERED]
    (message,) = await received(bus, "contoso")
    assert message.message_id == "api_tokens~PT1M~20260131T120000Z~abc:2"
    assert message.session_id == "contoso"
    assert body(message) == sent.body
    assert message.content_type == "application/json"
    assert message.application_properties == {
        b"window_id": b"api_tokens~PT1M~20260131T120000Z~abc",
        b"revision": 2,
    }


async def test_delivering_twice_is_delivering_once(bus: World, sink: ServiceBusSink) -> None:
    assert await sink.deliver([revision(1), revision(2)]) == [DELIVERED, DELIVERED]
    assert await sink.deliver([revision(1), revision(2)]) == [DELIVERED, DELIVERED]
    assert [m.message_id for m in await received(bus, "contoso")] == ["w1:1", "w1:2"]


async def test_one_call_carries_many_subjects_each_in_order(bus: World, sink: ServiceBusSink) -> None:
    sent = [revision(n, window=f"w-{who}", subject=who) for n in range(1, 21) for who in ("a", "b", "c")]
    assert await sink.deliver(sent) == [DELIVERED] * 60
    for who in ("a", "b", "c"):
        assert [m.message_id for m in await received(bus, who)] == [f"w-{who}:{n}" for n in range(1, 21)]


async def test_what_exceeds_one_batch_is_sent_in_several(bus: World, sink: ServiceBusSink) -> None:
    sent = [revision(n, filler="x" * 60_000) for n in range(1, 13)]
    assert await sink.deliver(sent) == [DELIVERED] * 12
    assert [m.message_id for m in await received(bus, "contoso")] == [f"w1:{n}" for n in range(1, 13)]


async def test_a_message_too_large_is_refused_and_holds_nobody_up(bus: World, sink: ServiceBusSink) -> None:
    outcomes = await sink.deliver([revision(1), revision(2, window="huge", filler="x" * 2_000_000), revision(3)])
    assert [outcome.kind for outcome in outcomes] == ["delivered", "refused", "delivered"]
    assert "cannot be a message" in outcomes[1].reason
    assert [m.message_id for m in await received(bus, "contoso")] == ["w1:1", "w1:3"]


async def test_a_subject_too_long_for_a_session_is_hashed(bus: World, sink: ServiceBusSink) -> None:
    subject = "s" * 129
    assert await sink.deliver([revision(1, subject=subject)]) == [DELIVERED]
    (message,) = await bus.drain("invoicing", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1)
    assert message.session_id == session_id(subject) != subject
    assert len(message.session_id) == 64


async def test_what_is_down_is_retried_and_taken_when_it_is_back(tmp_path: Path) -> None:
    first = ServiceBusServer(config(tmp_path))
    await first.start()
    sink = ServiceBusSink(Settings(servicebus_connection_string=first.connection_string))
    assert await sink.deliver([revision(1)]) == [DELIVERED]
    port = first.port
    await first.close()
    outcomes = await sink.deliver([revision(2), revision(3)])
    assert [outcome.kind for outcome in outcomes] == ["retry", "retry"]
    assert outcomes[0].reason
    second = ServiceBusServer(config(tmp_path, port=port))
    await second.start()
    try:
        assert await sink.deliver([revision(2), revision(3)]) == [DELIVERED, DELIVERED]
    finally:
        await sink.close()
        await second.close()


async def test_a_wrong_key_a_missing_queue_and_a_queue_without_sessions_are_mended_by_people_and_lose_nothing(
    bus: World,
) -> None:
    connection = bus.server.connection_string
    wrong = ServiceBusSink(Settings(servicebus_connection_string=connection.replace(KEY, "d3Jvbmc=")))
    missing = ServiceBusSink(settings_of(bus, servicebus_queue="nowhere"))
    try:
        (refused_key,) = await wrong.deliver([revision(1)])
        assert refused_key.kind == "retry"
        assert "key or the identity" in refused_key.reason
        assert "d3Jvbmc=" not in refused_key.reason
        (no_queue,) = await missing.deliver([revision(1)])
        assert no_queue.kind == "retry"
        assert "no queue 'nowhere'" in no_queue.reason
    finally:
        await wrong.close()
        await missing.close()


async def test_a_server_that_never_answers_is_given_up_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(3600), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    monkeypatch.setattr(servicebus, "SEND_TIMEOUT_S", 0.5)
    sink = ServiceBusSink(
        Settings(
            servicebus_connection_string=f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=k;SharedAccessKey=a2V5;"
            "UseDevelopmentEmulator=true;"
        )
    )
    try:
        (outcome,) = await asyncio.wait_for(sink.deliver([revision(1)]), 60)
        assert outcome.kind == "retry"
    finally:
        await sink.close()
        silent.close()


async def test_two_partitions_may_deliver_at_once(bus: World, sink: ServiceBusSink) -> None:
    batches = [[revision(n, window=f"w-{who}", subject=who) for n in range(1, 11)] for who in ("a", "b", "c", "d")]
    outcomes = await asyncio.gather(*(sink.deliver(batch) for batch in batches))
    assert outcomes == [[DELIVERED] * 10] * 4
    for who in ("a", "b", "c", "d"):
        assert len(await received(bus, who)) == 10


def test_without_a_connection_string_or_a_namespace_it_says_which_settings_are_missing() -> None:
    with pytest.raises(ConfigurationError, match="METERLINE_SERVICEBUS_CONNECTION_STRING"):
        ServiceBusSink(Settings())


def test_what_is_no_connection_string_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="this is no Service Bus connection string") as refused:
        ServiceBusSink(Settings(servicebus_connection_string=f"Endpoint=sb://a;SharedAccessKey {KEY}"))
    assert KEY not in str(refused.value)


class Unwilling:
    """A namespace's client that answers with an error. made: with what it was made, the last first."""

    made: list[tuple[str, object]]

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.made = []

    def __call__(self, namespace: str, credential: object, **options: object) -> Unwilling:
        self.made.append((namespace, credential))
        return self

    def get_queue_sender(self, queue: str) -> Unwilling:
        return self

    async def create_message_batch(self) -> None:
        raise self.error

    async def close(self) -> None:
        """Nothing to let go."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MessagingEntityDisabledError(), "queue 'invoicing' is disabled: enable it"),
        (ServiceBusQuotaExceededError(), "queue 'invoicing' is full: let invoicing take its messages, or enlarge it"),
        (ConnectionResetError(), "no connection to Service Bus: ConnectionResetError"),
    ],
)
async def test_with_entra_id_too_an_unwilling_queue_is_asked_again_and_its_reason_is_told(
    error: Exception, words: str
) -> None:
    namespace = Unwilling(error)
    sink = ServiceBusSink(Settings(servicebus_namespace="meterline.servicebus.windows.net"), namespace)
    first, second = await sink.deliver([revision(1), revision(2)])
    assert (first.kind, first.reason) == (second.kind, second.reason) == ("retry", words)
    await sink.deliver([revision(1)])
    (name, credential), again = namespace.made
    assert name == "meterline.servicebus.windows.net" and isinstance(credential, DefaultAzureCredential)
    assert again == (name, credential), "one credential, so that its tokens are kept"
    await sink.close()


def test_a_sink_shows_no_secret(tmp_path: Path) -> None:
    secret = f"Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=k;SharedAccessKey={KEY};UseDevelopmentEmulator=true;"
    assert KEY not in repr(ServiceBusSink(Settings(servicebus_connection_string=secret)))
    assert KEY not in repr(Settings(servicebus_connection_string=secret))


async def test_the_queue_it_sends_to_may_be_one_without_duplicate_detection(tmp_path: Path) -> None:
    queue = QueueConfig("invoicing", duplicate_detection_window_s=None)
    async with world(tmp_path, queue) as bus:
        sink = ServiceBusSink(settings_of(bus))
        assert await sink.deliver([revision(1)]) == [DELIVERED]
        await sink.close()
        assert len(await received(bus, "contoso")) == 1
