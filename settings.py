"""Typed configuration, in one place: the environment, or a `.env` file in the working directory.

What the environment says wins over the file. Every setting is `METERLINE_…`; secrets are never part of a repr.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from dotenv import dotenv_values

from schemas.errors import ConfigurationError

PREFIX = "METERLINE_"


@dataclass(frozen=True, slots=True)
class EventHubsConnection:
    """What an Event Hubs connection string says about its Kafka endpoint (azure-docs: Event Hubs for Kafka, authentication).

    bootstrap: `host:port`; the port of the Endpoint if it names one, else 9093 (9092 for the emulator, which has no TLS).
    password: the whole connection string: SASL PLAIN with the user name `$ConnectionString`.
    """

    bootstrap: str
    password: str = field(repr=False)
    tls: bool
    entity_path: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Field `x_y` is read from `METERLINE_X_Y`. Durations end in their unit; paths are as given."""

    app_id: str = "meterline"
    """Consumer group, and the name under which a deployment's workers find each other."""
    kafka_bootstrap: str | None = None
    """`host:port[,host:port]` of a Kafka without authentication. Ignored where an Event Hubs namespace is given."""
    kafka_ca_file: str | None = None
    """PEM file of the authority that signed the broker's certificate; the system's authorities otherwise."""
    eventhubs_connection_string: str | None = field(default=None, repr=False)
    """Event Hubs namespace: Kafka over SASL_SSL as `$ConnectionString`. Wins over `kafka_bootstrap`."""
    eventhubs_namespace: str | None = None
    """`name.servicebus.windows.net`, for Entra ID; used where no connection string is given. Wins over `kafka_bootstrap`."""
    eventhubs_amqp_connection_string: str | None = field(default=None, repr=False)
    """For `send --amqp`, where AMQP lives elsewhere than the Kafka endpoint (the local stack); else the one above is used."""
    usage_topic: str = "usage"
    partials_topic: str = "partials"
    metering_state_topic: str = "metering-state"
    closing_state_topic: str = "closing-state"
    dead_letters_topic: str = "dead-letters"
    servicebus_connection_string: str | None = field(default=None, repr=False)
    servicebus_namespace: str | None = None
    """`name.servicebus.windows.net`, for Entra ID; used where no connection string is given."""
    servicebus_queue: str = "invoicing"
    cosmos_endpoint: str | None = None
    cosmos_key: str | None = field(default=None, repr=False)
    """Account key; without it Entra ID is used (azure-identity's DefaultAzureCredential)."""
    cosmos_database: str = "meterline"
    cosmos_container: str = "windows"
    cosmos_revisions_container: str = "revisions"
    meters: str = "meters.yaml"
    """Path of the meters file."""
    cosmos_preferred_regions: str | None = None
    """Names of the account's regions in the order to use them, comma-separated; the account's own order otherwise."""
    web_host: str = "127.0.0.1"
    web_port: int = 6066
    web_advertised_url: str | None = None
    """Where the other workers reach this one's HTTP; `http://<web_host>:<web_port>` otherwise."""
    data_dir: str = ".meterline"
    """Where this machine's processes keep files: the laptop's servers theirs, workers the ids there is no memory for."""
    ids_memory_mb: int = 1024
    """Memory of one worker process for the ids it knows, shared by its partitions; the older ones go to `data_dir` beyond it."""
    emit_ms: int = 500
    """METERING emits changed partials this often (design §1)."""
    checkpoint_ms: int = 5000
    """A stage checkpoints this often; CLOSING sooner when a revision waits for it (design §2.6)."""
    session_timeout_s: float = 30.0
    rebalance_timeout_s: float = 60.0
    log_level: str = "INFO"

    @property
    def advertised_url(self) -> str:
        """Base URL of this worker's HTTP for other workers, without a slash at the end."""
        return (self.web_advertised_url or f"http://{self.web_host}:{self.web_port}").rstrip("/")

    @property
    def topics(self) -> tuple[str, ...]:
        """The five topics of a deployment (design §6)."""
        return (
            self.usage_topic,
            self.partials_topic,
            self.metering_state_topic,
            self.closing_state_topic,
            self.dead_letters_topic,
        )

    def eventhubs(self) -> EventHubsConnection | None:
        """The Kafka side of the Event Hubs connection string, or None where there is none."""
        if not self.eventhubs_connection_string:
            return None
        return parse_eventhubs(self.eventhubs_connection_string)

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, secrets included: for a child process or an env file of mode 0600."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value is not None}


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> Settings:
    """Settings from the environment, then the `.env` file, then the defaults.

    environ: `os.environ` if None. env_file: `.env` in the working directory if None; one that does not exist is no error.
    Raises ConfigurationError naming the variable, for a value that does not fit its type or an empty app id.
    """
    environ = os.environ if environ is None else environ
    path = env_file or Path(".env")
    try:
        merged = {k: v for k, v in dotenv_values(path).items() if v is not None} if path.is_file() else {}
    except UnicodeDecodeError:
        raise ConfigurationError("it is not UTF-8", where=str(path), hint="save the file as UTF-8") from None
    merged.update(environ)
    values: dict[str, object] = {}
    for setting in fields(Settings):
        variable = f"{PREFIX}{setting.name.upper()}"
        text = merged.get(variable)
        if text is None or text == "":
            continue
        values[setting.name] = _in_range(variable, _typed(variable, text, str(setting.type)))
    return Settings(**values)  # type: ignore[arg-type]


def parse_eventhubs(connection_string: str) -> EventHubsConnection:
    """Reads `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…[;EntityPath=…][;UseDevelopmentEmulator=true]`.

    Raises ConfigurationError; the message never holds the string itself, which is a secret.
    """
    parts = dict(part.split("=", 1) for part in connection_string.strip().split(";") if "=" in part)
    endpoint = parts.get("Endpoint", "")
    missing = [name for name in ("Endpoint", "SharedAccessKeyName", "SharedAccessKey") if not parts.get(name)]
    if missing and "SharedAccessSignature" not in parts:
        raise ConfigurationError(
            f"the connection string lacks {', '.join(missing)}",
            where=f"{PREFIX}EVENTHUBS_CONNECTION_STRING",
            hint="copy it from the namespace's Shared access policies, whole",
        )
    host, _, port = endpoint.removeprefix("sb://").strip("/").partition(":")
    emulator = parts.get("UseDevelopmentEmulator", "").lower() == "true"
    return EventHubsConnection(
        bootstrap=f"{host}:{port or ('9092' if emulator else '9093')}",
        password=connection_string.strip(),
        tls=not emulator,
        entity_path=parts.get("EntityPath"),
    )


def _in_range(variable: str, value: object) -> object:
    """Ports are ports, and every other number is a duration above 0."""
    if isinstance(value, int | float):
        most = 65_535 if variable.endswith("_PORT") else float("inf")
        least = 0 if variable.endswith("_PORT") else 1e-9
        if not least <= value <= most or not math.isfinite(value):
            expected = "a port from 0 to 65535" if variable.endswith("_PORT") else "a number above 0"
            raise ConfigurationError(f"expected {expected}, found {value}", where=variable)
    return value


def _typed(variable: str, text: str, type_name: str) -> object:
    try:
        if type_name.startswith("int"):
            return int(text)
        if type_name.startswith("float"):
            return float(text)
    except ValueError:
        raise ConfigurationError(f"expected a number, found {text!r}", where=variable) from None
    return text
