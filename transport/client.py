"""How meterline's Kafka clients connect, and what their failures mean for the one who has to mend them.

Values: Event Hubs' recommended client configuration (azure-docs, apache-kafka-configurations.md): Azure drops idle TCP
after 240 s, so metadata is refreshed and idle connections are closed at 180 s; requests may take 60 s, since Event Hubs
throttles by delaying answers; no compression, which Event Hubs Standard refuses.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka import errors
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from schemas.errors import BrokerError, ConfigurationError, MeterlineError
from settings import Settings

if TYPE_CHECKING:
    from transport.entra import EntraTokens

SASL_USERNAME = "$ConnectionString"
"""The literal user name of Event Hubs' SASL PLAIN; the password is the whole connection string."""

KAFKA_PORT = 9093
"""Of Event Hubs' Kafka endpoint."""

METADATA_MAX_AGE_MS = 180_000
CONNECTIONS_MAX_IDLE_MS = 180_000
REQUEST_TIMEOUT_MS = 60_000

_EVENTHUBS = "METERLINE_EVENTHUBS_CONNECTION_STRING"
_NAMESPACE = "METERLINE_EVENTHUBS_NAMESPACE"
_BOOTSTRAP = "METERLINE_KAFKA_BOOTSTRAP"
_CA_FILE = "METERLINE_KAFKA_CA_FILE"


def bootstrap_servers(settings: Settings) -> str:
    """`host:port[,host:port]` of the broker. Raises ConfigurationError naming the settings where none is given."""
    connection = settings.eventhubs()
    if connection is not None:
        return connection.bootstrap
    if settings.eventhubs_namespace:
        host, _, port = settings.eventhubs_namespace.partition(":")
        return _checked(f"{host}:{port or KAFKA_PORT}", _NAMESPACE)
    if settings.kafka_bootstrap:
        return _checked(settings.kafka_bootstrap, _BOOTSTRAP)
    raise ConfigurationError(
        "no broker is configured",
        where=f"{_EVENTHUBS}, {_NAMESPACE}, {_BOOTSTRAP}",
        hint="set the connection string of the Event Hubs namespace, its name for Entra ID, or the servers of a Kafka",
    )


def _checked(servers: str, setting: str) -> str:
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigurationError(
                f"{server.strip()!r} is no address of a broker",
                where=setting,
                hint="expected name.servicebus.windows.net"
                if setting == _NAMESPACE
                else "expected host:port, or several separated by commas, like broker-1:9092,broker-2:9092",
            )
    return servers


def client_options(settings: Settings, *, request_timeout_ms: int = REQUEST_TIMEOUT_MS) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes: AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient.

    SASL_SSL as `$ConnectionString` with an Event Hubs connection string, or with tokens of Entra ID with its namespace;
    SASL_PLAINTEXT for Microsoft's emulator (`UseDevelopmentEmulator=true`), PLAINTEXT with bootstrap servers alone. The
    dictionary holds the key: never log it.
    Raises ConfigurationError where no broker is configured or the CA file cannot be used.
    """
    _keep_keys_out_of_logs()
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers(settings),
        "client_id": settings.app_id,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "connections_max_idle_ms": CONNECTIONS_MAX_IDLE_MS,
        "request_timeout_ms": request_timeout_ms,
        "security_protocol": "PLAINTEXT",
    }
    connection = settings.eventhubs()
    if connection is not None:
        options["security_protocol"] = "SASL_SSL" if connection.tls else "SASL_PLAINTEXT"
        options["sasl_mechanism"] = "PLAIN"
        options["sasl_plain_username"] = SASL_USERNAME
        options["sasl_plain_password"] = connection.password
        if connection.tls:
            options["ssl_context"] = tls_context(settings)
    elif settings.eventhubs_namespace:
        options["security_protocol"] = "SASL_SSL"
        options["sasl_mechanism"] = "OAUTHBEARER"
        options["sasl_oauth_token_provider"] = entra_tokens(settings)
        options["ssl_context"] = tls_context(settings)
    return options


def entra_tokens(settings: Settings) -> EntraTokens | None:
    """Where tokens come from; None where a key is used, or nothing."""
    if settings.eventhubs_connection_string or not settings.eventhubs_namespace:
        return None
    from transport.entra import tokens  # here, so that azure-identity is loaded only where Entra ID is used

    return tokens(settings.eventhubs_namespace.partition(":")[0])


def faust_credentials(settings: Settings) -> Any:
    """The same as Faust's `broker_credentials`; None for a broker without authentication.

    Faust picks SASL_SSL where the credentials carry a TLS context, else SASL_PLAINTEXT (faust/auth.py).
    """
    import faust  # here, so that clients and probes do not load Faust

    _keep_keys_out_of_logs()
    connection = settings.eventhubs()
    if connection is None and settings.eventhubs_namespace:
        return faust.OAuthCredentials(oauth_cb=entra_tokens(settings), ssl_context=tls_context(settings))
    if connection is None:
        return None
    return faust.SASLCredentials(
        username=SASL_USERNAME,
        password=connection.password,
        ssl_context=tls_context(settings) if connection.tls else None,
        mechanism="PLAIN",
    )


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS that verifies certificate and host name, against the CA file of the settings or the system's authorities."""
    if not settings.kafka_ca_file:
        return ssl.create_default_context()
    if not Path(settings.kafka_ca_file).is_file():
        raise ConfigurationError(
            f"there is no file {settings.kafka_ca_file}",
            where=_CA_FILE,
            hint="give the PEM file of the authority that signed the broker's certificate, or leave it out",
        )
    try:
        return ssl.create_default_context(cafile=settings.kafka_ca_file)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{settings.kafka_ca_file} holds no PEM certificate ({error.reason or error})", where=_CA_FILE
        ) from None


async def connected(settings: Settings, cluster: Any) -> None:
    """Raises the explained error where a client has started although the broker refused its token.

    cluster: the client's metadata. A broker that refuses a token answers that there are no brokers, and aiokafka goes on.
    """
    if not cluster.brokers():
        await probe(settings)


async def probe(settings: Settings, *, timeout_s: float = 10.0) -> None:
    """Open one connection to each bootstrap server until one answers: TCP, TLS, Kafka, authentication.

    aiokafka's own start says only "Unable to bootstrap", whatever the cause (aiokafka/client.py, `bootstrap`), so this
    is how the cause is found. Raises the explained error of the last server tried.
    """
    options = client_options(settings, request_timeout_ms=int(timeout_s * 1000))
    servers = str(options.pop("bootstrap_servers"))
    options.pop("metadata_max_age_ms")
    options["max_idle_ms"] = options.pop("connections_max_idle_ms")
    failure: BaseException | None = None
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            connection = await asyncio.wait_for(create_conn(host.strip("[]"), int(port), **options), timeout_s)
        except (OSError, errors.KafkaError) as error:
            failure = error
        else:
            try:
                if options.get("sasl_mechanism") != "OAUTHBEARER" or await _takes_token(connection):
                    return
            finally:
                connection.close()
            failure = errors.AuthenticationFailedError()
    assert failure is not None
    raise explain(failure, settings) from failure


async def _takes_token(connection: Any) -> bool:
    """Whether the broker lets this connection ask: not if it answers that there are no brokers, or closes.

    aiokafka takes a refused token for a good one: the refusal comes as a challenge, which it does not look at (conn.py,
    `OAuthAuthenticator.step`).
    """
    try:
        return bool((await connection.send(MetadataRequest([]))).brokers)
    except errors.KafkaError:
        return False


async def diagnose(error: BaseException, settings: Settings) -> MeterlineError:
    """`explain`, after a look at the wire where aiokafka hides the cause behind "Unable to bootstrap"."""
    if isinstance(error, MeterlineError):
        return error
    if isinstance(error, errors.KafkaConnectionError):
        try:
            await probe(settings)
        except MeterlineError as found:
            return found
    return explain(error, settings)


def explain(error: BaseException, settings: Settings, *, topic: str = "") -> MeterlineError:
    """What a client's error means: what happened, where, what to do. Never holds a secret.

    ConfigurationError for what somebody must change, BrokerError (retryable) for what may pass by itself.
    """
    if isinstance(error, MeterlineError):
        return error
    where = _where(settings)
    named = f"topic {topic!r}" if topic else "a topic"
    setting = _setting(settings)
    if setting == _NAMESPACE and (refusal := _explain_entra(error, where, named)) is not None:
        return refusal
    if isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        return ConfigurationError(
            f"{where} refused the key: authentication failed",
            where=setting,
            hint="copy the connection string again from the namespace's Shared access policies (was the key rotated?)",
        )
    if isinstance(error, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError):
        return ConfigurationError(
            f"{where} does not offer SASL {'OAUTHBEARER' if setting == _NAMESPACE else 'PLAIN'}",
            where=setting,
            hint="Event Hubs' Kafka endpoint is port 9093, and does not exist in the Basic tier",
        )
    if isinstance(error, errors.TopicAuthorizationFailedError | errors.ClusterAuthorizationFailedError):
        return ConfigurationError(
            f"the key may not use {named} at {where}",
            where=setting,
            hint="use a policy of the namespace (not of one event hub) with Send and Listen; Basic has no Kafka",
        )
    if isinstance(error, errors.GroupAuthorizationFailedError):
        return ConfigurationError(
            f"the key may not use consumer group {settings.app_id!r} at {where}",
            where=setting,
            hint="use a policy of the namespace (not of one event hub) that includes Listen",
        )
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return missing_topic(topic, settings)
    return _explain_connection(error, where, setting)


def missing_topic(topic: str, settings: Settings) -> ConfigurationError:
    """The error of a topic that does not exist; meterline's workers never create one (design §8)."""
    named = f"topic {topic!r}" if topic else "a topic"
    return ConfigurationError(
        f"{named} does not exist at {_where(settings)}",
        where="METERLINE_…_TOPIC",
        hint="create it beforehand (five event hubs: " + ", ".join(settings.topics) + "), or correct its name; "
        "where it exists, the key or identity may not be allowed to see it; `python app.py check` shows all of them",
    )


def _keep_keys_out_of_logs() -> None:
    # At DEBUG aiokafka logs every request it sends, the one with the password too (aiokafka/conn.py, `send`).
    logging.getLogger("aiokafka.conn").addFilter(_without_sasl)  # adding it again adds nothing


def _without_sasl(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or "sasl_auth_bytes" not in record.getMessage()


def _setting(settings: Settings) -> str:
    if settings.eventhubs_connection_string:
        return _EVENTHUBS
    return _NAMESPACE if settings.eventhubs_namespace else _BOOTSTRAP


def _explain_entra(error: BaseException, where: str, named: str) -> ConfigurationError | None:
    """What only happens to an identity: it got no token, or it has not the role."""
    from transport.entra import NoToken

    if isinstance(error, NoToken):
        what, hint = str(error), "run it with a managed or workload identity, or set AZURE_CLIENT_ID and its like"
    elif isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        what, hint = f"{where} refused the token", "is the namespace of the identity's own tenant, and the name right?"
    elif isinstance(
        error,
        errors.TopicAuthorizationFailedError
        | errors.ClusterAuthorizationFailedError
        | errors.GroupAuthorizationFailedError,
    ):
        what, hint = (
            f"the identity may not use {named} at {where}",
            "give it the role Azure Event Hubs Data Owner there",
        )
    else:
        return None
    return ConfigurationError(what, where=_NAMESPACE, hint=hint)


def _explain_connection(error: BaseException, where: str, setting: str) -> MeterlineError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the certificate of {where} could not be verified: {error.verify_message}",
            where=_CA_FILE,
            hint="name the authority that signed it; for Event Hubs itself leave the setting out",
        )
    if isinstance(error, ssl.SSLError):
        return ConfigurationError(
            f"{where} does not speak TLS there ({error.reason or 'handshake failed'})",
            where=setting,
            hint="check the port: 9093 for Event Hubs; a Kafka without TLS is named by " + _BOOTSTRAP,
        )
    if isinstance(error, ConnectionRefusedError):
        return BrokerError(f"nothing listens at {where} ({setting})", hint="is the broker running, and the port right?")
    if isinstance(error, socket.gaierror):
        return BrokerError(
            f"the host name of {where} ({setting}) does not resolve", hint="check its spelling and the DNS"
        )
    if isinstance(error, asyncio.TimeoutError | errors.KafkaTimeoutError | errors.RequestTimedOutError):
        return BrokerError(f"{where} did not answer in time ({setting})", hint="check network, firewall and throttling")
    if isinstance(error, OSError | errors.KafkaConnectionError):
        return BrokerError(
            f"no connection to {where} ({setting}): {type(error).__name__}",
            hint="check host, port and firewall; a broker that closes at once may expect TLS or SASL",
        )
    text = str(error) if isinstance(error, errors.KafkaError) else ""
    return BrokerError(f"{where} answered {type(error).__name__}" + (f": {text}" if text else ""))


def _where(settings: Settings) -> str:
    try:
        return bootstrap_servers(settings)
    except ConfigurationError:
        return "the broker"
