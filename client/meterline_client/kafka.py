"""Envelopes over Kafka: Apache Kafka, or the Kafka endpoint of Event Hubs (Standard and above).

Client settings: Event Hubs' recommended ones (azure-docs, apache-kafka-configurations.md): Azure drops idle TCP after
240 s, so metadata is refreshed and idle connections are closed at 180 s; requests may take 60 s, since Event Hubs
throttles by delaying answers; no compression, which Event Hubs Standard refuses.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.conn import create_conn

from meterline_client.connection import SASL_USERNAME, keep_keys_out_of_logs, parse_eventhubs
from meterline_client.entra import EntraTokens
from meterline_client.errors import ConfigurationError, TransportError
from meterline_client.packing import ENVELOPE_BYTES

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("meterline.client")

KAFKA_PORT = 9093
"""Of Event Hubs' Kafka endpoint."""
METADATA_MAX_AGE_MS = 180_000
CONNECTIONS_MAX_IDLE_MS = 180_000
REQUEST_TIMEOUT_MS = 60_000
MAX_RECORD_BYTES = 1_000_000
"""Event Hubs closes the connection on a larger request, and says nothing (apache-kafka-configurations.md)."""
STOP_S = 2.0
"""How long aiokafka may take to end in order; it would wait as long as a request may take."""
_PROBE_S = 10.0

_FINAL = (
    errors.MessageSizeTooLargeError,
    errors.RecordTooLargeError,
    errors.InvalidTopicError,
    errors.InvalidRequiredAcksError,
)
"""What no later attempt mends. Authentication is not among them: keys are rotated, and events wait for the new one."""
_CONFIGURATION = (
    errors.SaslAuthenticationFailed,
    errors.AuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    ssl.SSLError,
)


class KafkaTransport:
    """Give `bootstrap` (a Kafka without authentication), or `connection_string` (Event Hubs, SASL_SSL), or `namespace`
    (`name.servicebus.windows.net`) and `credential` (Entra ID; one of azure-identity's asyncio ones, which stays the caller's).

    ca_file: PEM of the authority that signed the broker's certificate, the system's otherwise. max_record_bytes: an event in
    a larger record fails at once; raise it where the broker takes more. Every record is acknowledged by all replicas
    (`acks=all`); aiokafka's own retries stay below ours, with the same bytes.
    """

    def __init__(
        self,
        topic: str,
        *,
        bootstrap: str | None = None,
        connection_string: str | None = None,
        namespace: str | None = None,
        credential: AsyncTokenCredential | None = None,
        ca_file: str | None = None,
        client_id: str = "meterline-client",
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.topic = topic
        self._options = _options(bootstrap, connection_string, namespace, credential, ca_file)
        self._options["client_id"] = client_id
        self._options["request_timeout_ms"] = request_timeout_ms
        self._max_record_bytes = max_record_bytes
        self._answer_s = 2 * request_timeout_ms / 1000
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"KafkaTransport({self.topic!r} at {self._options['bootstrap_servers']})"

    async def open(self) -> int:
        """Connect; how many partitions the topic has. Raises ConfigurationError, or TransportError (retryable)."""
        producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            max_request_size=self._max_record_bytes,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            connections_max_idle_ms=CONNECTIONS_MAX_IDLE_MS,
        )
        try:
            await producer.start()
            if not producer.client.cluster.brokers():
                # A refused token: aiokafka does not look at the refusal (conn.py, `OAuthAuthenticator.step`), and goes on.
                raise errors.SaslAuthenticationFailed("the broker refused the token")
            # All topics, never by name: asking for a name creates it on a broker that may create topics by itself.
            cluster = await producer.client.fetch_all_metadata()
        except (TimeoutError, errors.KafkaError, OSError) as error:
            await producer.stop()
            cause = await self._cause() if isinstance(error, errors.KafkaConnectionError) else error
            raise self._explained(cause or error) from error
        except BaseException:
            await producer.stop()
            raise
        partitions = cluster.partitions_for_topic(self.topic)
        if not partitions:
            await producer.stop()
            raise ConfigurationError(
                f"topic {self.topic!r} does not exist at {self._options['bootstrap_servers']}",
                hint="create it beforehand, or correct its name",
            )
        self._producer = producer
        return len(partitions)

    async def send(self, partition: int, key: bytes, value: bytes) -> int | None:
        """Append one record; its offset. Raises TransportError."""
        producer = self._producer or await self._reopened()
        try:
            async with asyncio.timeout(self._answer_s):
                acknowledged = await producer.send(self.topic, value, key=key, partition=partition)
                return int((await acknowledged).offset)
        except (errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            if isinstance(error, TimeoutError) or producer._sender.sender_task.done():
                # aiokafka itself answers within a request's time. It does not, or its sender has ended: only a new one helps.
                await self._abandon(producer)
            raise self._explained(error, len(value)) from error
        except AssertionError as error:
            # aiokafka's "Unrecognized partition": the metadata of a topic that was made anew
            raise TransportError(
                f"{self.topic} has no partition {partition} now",
                retryable=True,
                hint="was the topic made anew with fewer partitions? events keep the partition of their subject",
            ) from error

    async def close(self) -> None:
        """Give up what is on the road, and the connections. Returns within seconds, whatever the broker does."""
        if self._producer is not None:
            await self._abandon(self._producer)

    async def _cause(self) -> BaseException | None:
        """aiokafka's start says only "Unable to bootstrap" (aiokafka/client.py): one connection tells why."""
        options = {key: value for key, value in self._options.items() if key != "bootstrap_servers"}
        cause: BaseException | None = None
        for server in str(self._options["bootstrap_servers"]).split(","):
            host, _, port = server.strip().rpartition(":")
            try:
                connection = await asyncio.wait_for(create_conn(host.strip("[]"), int(port), **options), _PROBE_S)
            except (OSError, errors.KafkaError) as error:  # TimeoutError is an OSError
                cause = error
            else:
                connection.close()
        return cause

    async def _reopened(self) -> AIOKafkaProducer:
        async with self._opening:  # the lanes come at once
            if self._producer is None:
                try:
                    await self.open()
                except ConfigurationError as error:
                    raise TransportError(error.what, retryable=True, hint=error.hint) from error
        assert self._producer is not None
        return self._producer

    async def _abandon(self, producer: Any) -> None:
        if id(producer) != id(self._producer):  # `is not` would tell mypy that both are None below
            return  # another lane did
        self._producer = None
        stopping = asyncio.ensure_future(producer.stop())
        await asyncio.wait({stopping}, timeout=STOP_S)
        if stopping.done():
            stopping.result()
            return
        # aiokafka has no end with a deadline: it waits until every request was answered or has timed out.
        log.warning("%r does not answer; what was on the road may have arrived or not", self)
        stopping.cancel()
        await asyncio.wait({stopping})
        await producer.client.close()
        sender = producer._sender.sender_task
        sender.cancel()
        await asyncio.wait({sender}, timeout=STOP_S)

    def _explained(self, error: BaseException, size: int = 0) -> ConfigurationError | TransportError:
        where = f"{self.topic} at {self._options['bootstrap_servers']}"
        if isinstance(error, _CONFIGURATION) and self._producer is None:
            return ConfigurationError(
                f"{where}: {type(error).__name__}",
                hint="give the identity the role Azure Event Hubs Data Sender on this namespace"
                if "sasl_oauth_token_provider" in self._options
                else "copy the connection string again from the namespace's Shared access policies; it needs Send",
            )
        detail = f": {error}" if str(error) else ""
        return TransportError(
            f"{where}: {type(error).__name__}{detail}",
            retryable=not isinstance(error, _FINAL),
            hint=_advice(error, size),
        )


def _advice(error: BaseException, size: int) -> str:
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordTooLargeError):
        return "an event larger than the broker takes has to be split by its sender"
    if isinstance(error, errors.PolicyViolationError) and size > ENVELOPE_BYTES:
        return (
            f"the broker throttles, or takes no record of {size} bytes; then set max_record_bytes, and it fails at once"
        )
    if isinstance(error, errors.PolicyViolationError):
        return "the broker throttles: raise its throughput units; events wait, and are tried again"
    return "is the broker running, the address right, the network open, the key valid?"


def _options(
    bootstrap: str | None,
    connection_string: str | None,
    namespace: str | None,
    credential: AsyncTokenCredential | None,
    ca_file: str | None,
) -> dict[str, Any]:
    if sum(given is not None for given in (bootstrap, connection_string, namespace)) != 1 or (
        (namespace is None) != (credential is None)
    ):
        raise ConfigurationError(
            "no broker is named, or two are", hint="give bootstrap, or connection_string, or namespace and credential"
        )
    if namespace is not None and credential is not None:
        keep_keys_out_of_logs()
        host, _, port = namespace.partition(":")
        return {
            "bootstrap_servers": f"{host}:{port or KAFKA_PORT}",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_provider": EntraTokens(host, credential),
            "ssl_context": _tls_context(ca_file),
        }
    if bootstrap is not None:
        for server in bootstrap.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ConfigurationError(
                    f"{server.strip()!r} is no address of a broker", hint="give host:port[,host:port]"
                )
    if connection_string is None:
        return {"bootstrap_servers": bootstrap, "security_protocol": "PLAINTEXT"}
    keep_keys_out_of_logs()
    connection = parse_eventhubs(connection_string)
    options: dict[str, Any] = {
        "bootstrap_servers": connection.bootstrap,
        "security_protocol": "SASL_SSL" if connection.tls else "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": SASL_USERNAME,
        "sasl_plain_password": connection.password,
    }
    if connection.tls:
        options["ssl_context"] = _tls_context(ca_file)
    return options


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    if not Path(ca_file).is_file():
        raise ConfigurationError(f"there is no file {ca_file}", hint="give the PEM file of the broker's authority")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{ca_file} holds no PEM certificate ({error.reason or error})") from None
