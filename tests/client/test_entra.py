"""Over Kafka with Entra ID: by token, renewed when it expires, never shown."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential

from meterline_client import ConfigurationError, KafkaTransport, Producer, TransportError
from meterline_client.entra import EntraTokens, NoToken
from tests.client.brokers import new_topic
from tests.client.doubles import SOURCE, TYPE
from tests.kafka_cluster import KafkaCluster
from tests.unsigned_tokens import Identity


class _Credential(AsyncTokenCredential):
    async def close(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


class AsyncIdentity(_Credential):
    """The same, as azure-identity's asyncio credentials are."""

    def __init__(self, lifetime_s: float) -> None:
        self.identity = Identity(lifetime_s)

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return self.identity.get_token(*scopes)


def transport(cluster: KafkaCluster, topic: str, credential: Any) -> KafkaTransport:
    return KafkaTransport(
        topic, namespace=f"localhost:{cluster.sasl_port}", credential=credential, ca_file=str(cluster.ca_file)
    )


async def test_a_producer_goes_on_when_its_token_expires(
    kafka_sasl: KafkaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await new_topic(kafka_sasl.bootstrap, 2)
    credential = AsyncIdentity(3)
    given = credential.identity.given
    with caplog.at_level(logging.DEBUG):
        async with Producer(transport(kafka_sasl, topic, credential), SOURCE) as producer:
            while len(given) < 3:
                await (await producer.send(TYPE, "acme", 1))
                await asyncio.sleep(0.2)
            ledger = producer.ledger()
    assert ledger.delivered == ledger.accepted and ledger.failed == 0
    assert credential.identity.scopes == {"https://localhost/.default"}
    assert not any(token in caplog.text for token in given)


async def test_a_refused_token_is_said_without_the_token(kafka_sasl: KafkaCluster) -> None:
    credential = AsyncIdentity(-60)
    with pytest.raises(ConfigurationError, match=r"SaslAuthenticationFailed -> .*Data Sender") as found:
        await transport(kafka_sasl, "usage", credential).open()
    assert not any(token in str(found.value) for token in credential.identity.given)


async def test_a_credential_that_gives_no_token_may_give_one_later(kafka_sasl: KafkaCluster) -> None:
    class Nobody(_Credential):
        async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            raise RuntimeError("the identity's endpoint does not answer")

    with pytest.raises(NoToken, match=r"no token for https://name/.default: the identity's endpoint does not answer"):
        await EntraTokens("name", Nobody()).token()
    with pytest.raises(TransportError, match=r"no token for https://localhost/.default") as found:
        await transport(kafka_sasl, "usage", Nobody()).open()
    assert found.value.retryable


def test_one_way_to_a_broker_is_given() -> None:
    ways: list[dict[str, Any]] = [{"namespace": "name.servicebus.windows.net"}, {"credential": AsyncIdentity(1)}, {}]
    for given in ways:
        with pytest.raises(
            ConfigurationError, match="no broker is named, or two are -> give bootstrap, or connection_string"
        ):
            KafkaTransport("usage", **given)
    options = KafkaTransport("usage", namespace="name.servicebus.windows.net", credential=AsyncIdentity(1))._options
    assert options["bootstrap_servers"] == "name.servicebus.windows.net:9093"
    assert repr(options["sasl_oauth_token_provider"]) == "EntraTokens('https://name.servicebus.windows.net/.default')"
