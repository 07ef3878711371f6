"""Event Hubs connection strings, and the logs they must not get into."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from meterline_client.errors import ConfigurationError

SASL_USERNAME = "$ConnectionString"
"""The literal user name of Event Hubs' SASL PLAIN; the password is the whole connection string."""


@dataclass(frozen=True, slots=True)
class EventHubsConnection:
    """What a connection string says about the Kafka endpoint (azure-docs: Event Hubs for Kafka, authentication).

    bootstrap: `host:port`; the port of the Endpoint if it names one, else 9093 (9092 for the emulator, which has no TLS).
    """

    bootstrap: str
    password: str = field(repr=False)
    tls: bool


def parse_eventhubs(connection_string: str) -> EventHubsConnection:
    """Reads `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…[;UseDevelopmentEmulator=true]`.

    Raises ConfigurationError; the message never holds the string itself, which is a secret.
    """
    parts = dict(part.split("=", 1) for part in connection_string.strip().split(";") if "=" in part)
    missing = [name for name in ("Endpoint", "SharedAccessKeyName", "SharedAccessKey") if not parts.get(name)]
    if missing:
        raise ConfigurationError(
            f"the connection string lacks {', '.join(missing)}",
            hint="copy it from the namespace's Shared access policies, whole",
        )
    host, _, port = parts["Endpoint"].removeprefix("sb://").strip("/").partition(":")
    emulator = parts.get("UseDevelopmentEmulator", "").lower() == "true"
    default = "9092" if emulator else "9093"
    return EventHubsConnection(f"{host}:{port or default}", connection_string.strip(), tls=not emulator)


def keep_keys_out_of_logs() -> None:
    """At DEBUG aiokafka logs every request it sends, the one with the password too (aiokafka/conn.py, `send`)."""
    logging.getLogger("aiokafka.conn").addFilter(_without_sasl)  # adding it again adds nothing


def _without_sasl(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or "sasl_auth_bytes" not in record.getMessage()
