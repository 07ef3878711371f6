"""With Entra ID every Kafka client connects by token, renews it in time, and never shows it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from aiokafka import errors
from azure.core.exceptions import ClientAuthenticationError

from cli.probes import probe_kafka
from local.topics import ensure_topics
from schemas.errors import ConfigurationError
from schemas.records import Out
from settings import Settings
from tests.kafka_cluster import KafkaCluster
from tests.unsigned_tokens import Identity
from transport import entra
from transport.broker import Broker, LogReader
from transport.client import bootstrap_servers, client_options, diagnose, explain, faust_credentials, probe
from transport.entra import EntraTokens, NoToken
from transport.eventhubs import ConsumerThread
from transport.sending import UsageProducer

NAMESPACE = Settings(eventhubs_namespace="meterline.servicebus.windows.net")


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    identity = Identity(lifetime_s=3600)
    monkeypatch.setattr(entra, "DefaultAzureCredential", lambda: identity)
    entra.tokens.cache_clear()
    yield identity
    entra.tokens.cache_clear()


@pytest.fixture
async def settings(kafka_sasl: KafkaCluster) -> Settings:
    await ensure_topics(kafka_sasl.settings, 4, 4)
    return Settings(eventhubs_namespace=f"localhost:{kafka_sasl.sasl_port}", kafka_ca_file=str(kafka_sasl.ca_file))


async def test_producer_and_reader_connect_by_token(settings: Settings, identity: Identity) -> None:
    broker = Broker(settings, lambda: None)
    await broker.start()
    try:
        (offset,) = await broker.produce([Out(settings.usage_topic, 1, b"k", b"by token")])
    finally:
        await broker.stop()
    reader = LogReader(settings)
    await reader.open()
    try:
        assert await reader.read(settings.usage_topic, 1, offset, offset + 1) == [(offset, b"by token")]
    finally:
        await reader.close()
    assert identity.scopes == {"https://localhost/.default"}
    assert len(identity.given) == 1, "what is still good is shared"


async def test_a_token_that_expires_in_the_middle_is_renewed(
    settings: Settings, identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker ends a connection with its token, as Event Hubs does."""
    identity.lifetime_s = 3
    broker = Broker(settings, lambda: None)
    await broker.start()
    try:
        with caplog.at_level(logging.DEBUG):
            while len(identity.given) < 3:
                await broker.produce([Out(settings.usage_topic, 2, b"k", b"on and on")])
                await asyncio.sleep(0.2)
    finally:
        await broker.stop()
    assert not any(token in caplog.text for token in identity.given)


async def test_a_token_that_the_broker_refuses_says_which_setting_and_never_the_token(
    settings: Settings, identity: Identity
) -> None:
    identity.lifetime_s = -60
    refused = r"METERLINE_EVENTHUBS_NAMESPACE: localhost:\d+ refused the token"
    with pytest.raises(ConfigurationError, match=refused) as found:
        await probe(settings)
    with pytest.raises(ConfigurationError, match=refused):
        await Broker(settings, lambda: None).start()
    with pytest.raises(ConfigurationError, match=refused):
        async with UsageProducer(settings):
            pass
    assert "refused the token" in str((await probe_kafka(settings)).error)
    assert not any(token in str(found.value) + repr(found.value) for token in identity.given)


async def test_an_identity_that_gets_no_token_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def get_token(self, *scopes: str) -> Any:
            raise ClientAuthenticationError("EnvironmentCredential: not configured")

    monkeypatch.setattr(entra, "DefaultAzureCredential", Nobody)
    entra.tokens.cache_clear()
    with pytest.raises(
        ConfigurationError, match=r"no token for https://localhost/.default: EnvironmentCredential"
    ) as found:
        await Broker(settings, lambda: None).start()
    assert "managed or workload identity" in found.value.hint
    entra.tokens.cache_clear()


async def test_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    monkeypatch.setattr("transport.entra.time.time", lambda: now_s)
    identity = Identity(lifetime_s=3600)
    tokens = EntraTokens("scope", identity)
    first = await tokens.token()
    now_s += 3600 - entra.RENEW_S - 10
    assert await tokens.token() == first
    now_s += 20
    assert await tokens.token() != first
    assert first not in repr(tokens) and repr(tokens) == "EntraTokens('scope')"


async def test_no_token_may_pass_by_itself() -> None:
    class Away:
        def get_token(self, *scopes: str) -> Any:
            raise ClientAuthenticationError("the identity's endpoint does not answer")

    with pytest.raises(NoToken) as raised:
        await EntraTokens("scope", Away()).token()
    assert raised.value.retriable


def test_the_namespace_is_enough(identity: Identity) -> None:
    options = client_options(NAMESPACE)
    assert options["bootstrap_servers"] == "meterline.servicebus.windows.net:9093"
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    credentials = faust_credentials(NAMESPACE)
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.mechanism.value == "OAUTHBEARER"
    assert credentials.oauth_cb is options["sasl_oauth_token_provider"]
    with_key = replace(
        NAMESPACE, eventhubs_connection_string="Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=k"
    )
    assert client_options(with_key)["sasl_mechanism"] == "PLAIN", "a key that is given is meant"
    with pytest.raises(ConfigurationError, match=r"METERLINE_EVENTHUBS_NAMESPACE.*name\.servicebus\.windows\.net"):
        bootstrap_servers(Settings(eventhubs_namespace="name:port"))


async def test_an_identity_without_its_role_is_told_which_one(identity: Identity) -> None:
    error = explain(errors.TopicAuthorizationFailedError(), NAMESPACE, topic="usage")
    assert "the identity may not use topic 'usage'" in str(error) and "Data Owner" in error.hint
    assert isinstance(await diagnose(errors.GroupAuthorizationFailedError(), NAMESPACE), ConfigurationError)


class Connection:
    """As much of aiokafka's connection as is asked."""

    def __init__(self) -> None:
        self._requests: list[Any] = []
        self.closed = False

    def close(self) -> None:
        self.closed = True


async def test_nothing_is_committed_over_a_connection_whose_token_is_about_to_expire(identity: Identity) -> None:
    """It might get no answer, and an unanswered commit ends the membership (design §2.4): once an hour, for nothing."""
    thread: ConsumerThread = ConsumerThread.__new__(ConsumerThread)
    thread.tokens, thread._expiry = EntraTokens("scope", identity), WeakKeyDictionary()
    connection = Connection()
    coordinator = SimpleNamespace(coordinator_id=7, _client=SimpleNamespace(_conns={(7, 1): connection}))
    await thread.tokens.token()
    thread._renew(coordinator)
    assert not connection.closed
    thread._expiry[connection] = time.time() + 30
    connection._requests = ["a heartbeat"]
    thread._renew(coordinator)
    assert not connection.closed, "what is under way has its answer first"
    connection._requests = []
    thread._renew(coordinator)
    assert connection.closed
