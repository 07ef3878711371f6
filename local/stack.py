"""The embedded stack: broker, Service Bus and Cosmos DB as child processes of the caller.

Order, and why:

1. lock the data directory: two stacks on one directory would overwrite each other's messages and documents;
2. keys and ports of this directory, kept there (0600): what a client was told yesterday still holds today;
3. the broker, then its topics: the Service Bus asks it for the usage topic's partitions when it starts;
4. Service Bus (its queue is on its command line) and Cosmos DB, then database and containers;
5. only then settings are complete, and an env file is written: who finds it can use all of it at once.

A Ctrl-C does not reach them: workers end first, and have somebody to hand over to. They die with us: by `close`, and on
Linux by the kernel should this process be killed (`local.process`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from azure.core.exceptions import AzureError

from local.broker import STOP_GRACE_S, serves, tansu_command
from local.identity import DataDirectory
from local.process import Child
from local.topics import ensure_topics
from schemas.errors import ConfigurationError, SinkError
from settings import PREFIX, Settings
from sinks.cosmos_account import CosmosAccount

PARTS = ("broker", "servicebus", "cosmos")
START_TIMEOUT_S = 60.0
LOCAL_SESSION_TIMEOUT_S = 6.0
"""Tansu holds every join for half the session timeout (`local.broker`); Event Hubs takes no less than 6 s."""

_KEY_NAME = "meterline-local"
_ROOT = str(Path(__file__).resolve().parents[1])
_ALWAYS_TOLD = frozenset(
    {"app_id", "usage_topic", "partials_topic", "metering_state_topic", "closing_state_topic", "dead_letters_topic"}
    | {"servicebus_queue", "cosmos_database", "cosmos_container", "cosmos_revisions_container", "data_dir"}
)


class Stack:
    """`async with Stack(data_dir) as stack`: inside, everything answers and `stack.settings` leads to it.

    data_dir: logs, messages, documents, keys. only: the parts to start (`broker`, `servicebus`, `cosmos`), all if None.
    kafka: `host:port` of a Kafka without authentication that is already there, instead of the broker.
    base: settings that are kept where the stack does not decide; names of topics, queue and containers come from it.
    duplicate_detection: of the queue; without it, every copy of a message arrives.

    settings: complete after `start`. processes: part -> Child, of what was started. cosmos_endpoints: one URL per
    region, the first is `settings.cosmos_endpoint`.
    """

    def __init__(
        self,
        data_dir: Path,
        only: str | Iterable[str] | None = None,
        kafka: str | None = None,
        usage_partitions: int = 4,
        partials_partitions: int = 4,
        base: Settings | None = None,
        duplicate_detection: bool = True,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.parts = _parts(only, kafka)
        self.kafka = kafka
        self.usage_partitions = usage_partitions
        self.partials_partitions = partials_partitions
        self.duplicate_detection = duplicate_detection
        self.settings = replace(base or Settings(), data_dir=str(self.data_dir))
        self.processes: dict[str, Child] = {}
        self.cosmos_endpoints: tuple[str, ...] = ()
        self._directory = DataDirectory(self.data_dir)
        self._readiness: dict[str, Callable[[], Awaitable[bool]]] = {}
        self._decided: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a worker's environment needs to use this stack, keys included; what must be unset there is empty.

        Settings that the stack does not decide (meters, web, …) are left out unless `base` differs from their default.
        """
        told = self._decided | _ALWAYS_TOLD
        default = Settings()
        values = {f.name: getattr(self.settings, f.name) for f in fields(Settings)}
        return {
            f"{PREFIX}{name.upper()}": "" if value is None else str(value)
            for name, value in values.items()
            if name in told or value != getattr(default, name)
        }

    async def start(self) -> None:
        """Start and await every part. On failure nothing is left running.

        Raises ConfigurationError (directory in use, extra not installed, partition counts that do not fit) or
        BrokerError or SinkError with the tail of the log of the part that did not come up.
        """
        self._directory.lock()
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every child, last started first. Idempotent."""
        for child in reversed(self.processes.values()):
            await child.stop(STOP_GRACE_S if child.name == "broker" else 5.0)
        self._directory.unlock()

    async def wait(self) -> Child:
        """Wait until a child has died by itself (or was killed), and return it: `child.obituary()` says how."""
        while True:
            for child in self.processes.values():
                if not child.running and not child.stopping:
                    return child
            await asyncio.sleep(0.05)

    async def restart(self, part: str, *, kill: bool = False) -> None:
        """End one part (SIGKILL with `kill`, as a crash would) and start it again: same port, same data, same key.

        The broker comes back empty, since it keeps its log in memory; its topics are created again.
        """
        child = self.processes[part]
        child.stopping = True
        if kill:
            await child.kill()
        else:
            await child.stop(STOP_GRACE_S if part == "broker" else 5.0)
        await self._begin(child)
        if part == "broker":
            await self._create_topics()

    async def kill(self, part: str) -> None:
        """SIGKILL one part, as a crash would; `wait` then returns it."""
        await self.processes[part].kill()

    async def __aenter__(self) -> Stack:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start(self) -> None:
        if "broker" in self.parts or self.kafka:
            await self._start_broker()
        others = [getattr(self, f"_start_{part}")() for part in ("servicebus", "cosmos") if part in self.parts]
        for outcome in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _start_broker(self) -> None:
        if self.kafka:
            bootstrap = self.kafka
            self._decide(kafka_bootstrap=bootstrap)
        else:
            bootstrap = f"127.0.0.1:{self._directory.port('broker')}"
            self._decide(kafka_bootstrap=bootstrap, session_timeout_s=self._session_timeout_s())
            self._add("broker", tansu_command(bootstrap), {}, lambda: serves(self.processes["broker"], bootstrap))
            await self._begin(self.processes["broker"])
        # Else a deployment's own connection string, from a .env file, would win over the broker of this stack.
        self._decide(eventhubs_connection_string=None, eventhubs_namespace=None, kafka_ca_file=None)
        if self.parts != {"servicebus"} and self.parts != {"cosmos"}:
            await self._create_topics()

    async def _start_servicebus(self) -> None:
        port, key = self._directory.port("servicebus"), self._directory.key("servicebus")
        bridge: list[str] = []
        if self.settings.kafka_bootstrap and ("broker" in self.parts or self.kafka):
            bridge = [f"--event-hub={self.settings.usage_topic}={self.settings.usage_topic}"]
            bridge.append(f"--kafka={self.settings.kafka_bootstrap}")
        queue = self.settings.servicebus_queue + ("" if self.duplicate_detection else ":no-duplicate-detection")
        arguments = [f"--port={port}", f"--key-name={_KEY_NAME}", f"--queue={queue}", *bridge]
        await self._serve("servicebus", arguments, {"METERLINE_LOCAL_SERVICEBUS_KEY": key})
        connection = (
            f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName={_KEY_NAME};SharedAccessKey={key}"
            ";UseDevelopmentEmulator=true"  # the SDKs' word for: no TLS, keep the port
        )
        self._decide(servicebus_connection_string=connection, servicebus_namespace=None)
        if bridge:
            self._decide(eventhubs_amqp_connection_string=connection)

    async def _start_cosmos(self) -> None:
        ports = [self._directory.port("cosmos-1"), self._directory.port("cosmos-2")]
        key = self._directory.key("cosmos")
        await self._serve("cosmos", [f"--port={port}" for port in ports], {"METERLINE_LOCAL_COSMOS_KEY": key})
        self.cosmos_endpoints = tuple(f"http://127.0.0.1:{port}" for port in ports)
        self._decide(cosmos_endpoint=self.cosmos_endpoints[0], cosmos_key=key)
        await self._create_containers()

    async def _serve(self, part: str, arguments: list[str], environ: dict[str, str]) -> None:
        directory = self.data_dir / part
        command = [sys.executable, "-m", f"local.{part}", f"--data-dir={directory}", *arguments]

        async def ready() -> bool:
            return self.processes[part].said('"ready": true')

        self._add(part, command, {**environ, "PYTHONPATH": _ROOT, "PYTHONUNBUFFERED": "1"}, ready)
        await self._begin(self.processes[part])

    def _add(
        self, part: str, command: list[str], environ: Mapping[str, str], ready: Callable[[], Awaitable[bool]]
    ) -> None:
        log = self.data_dir / "logs" / f"{part}.log"
        self.processes[part] = Child(part, command, log=log, environ=environ, shielded=True)
        self._readiness[part] = ready

    async def _begin(self, child: Child) -> None:
        await child.start()
        await child.until(self._readiness[child.name], START_TIMEOUT_S)

    async def _create_topics(self) -> None:
        await ensure_topics(self.settings, self.usage_partitions, self.partials_partitions)

    async def _create_containers(self) -> None:
        account = CosmosAccount(self.settings)
        try:
            await account.containers()
        except AzureError as error:
            raise SinkError(
                f"the containers could not be created: {error.message}\n{self.processes['cosmos'].tail()}"
            ) from None
        finally:
            await account.close()

    def _session_timeout_s(self) -> float:
        chosen = self.settings.session_timeout_s
        return LOCAL_SESSION_TIMEOUT_S if chosen == Settings().session_timeout_s else chosen

    def _decide(self, **values: str | float | None) -> None:
        self._decided.update(values)
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]


def _parts(only: str | Iterable[str] | None, kafka: str | None) -> set[str]:
    names = set(PARTS) if only is None else {only} if isinstance(only, str) else set(only)
    unknown = names - set(PARTS)
    if unknown or not names:
        raise ConfigurationError(
            f"there is no part {', '.join(sorted(unknown))!r}", where="--only", hint=f"one of {', '.join(PARTS)}"
        )
    if kafka and names == {"broker"}:
        raise ConfigurationError("a Kafka that is there already needs no broker", where="--only broker --kafka")
    return names - {"broker"} if kafka else names
