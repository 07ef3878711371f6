"""Two judges of the Cosmos sink: the local Cosmos DB of this house, and one that is not ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
from azure.cosmos.aio import ContainerProxy, CosmosClient

from schemas.windows import Revision
from settings import Settings
from tests.local.cosmos_account import KEY
from tests.requirements import need

_WITNESS = Path(__file__).parent.parent / "js-cosmos"
_SCRIPT = """
const server = require("@vercel/cosmosdb-server").default();
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


@contextmanager
def third_party() -> Iterator[str]:
    """The URL of a running @vercel/cosmosdb-server: TLS with a self-signed certificate, one region, any key."""
    need(shutil.which("node") is not None, "node, for the third-party Cosmos server")
    installed = (_WITNESS / "node_modules" / "@vercel" / "cosmosdb-server").is_dir()
    need(installed, "npm ci in tests/js-cosmos, for the third-party Cosmos server")
    process = subprocess.Popen(
        ["node", "-e", _SCRIPT], cwd=_WITNESS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the third-party Cosmos server did not start"
        yield f"https://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def settings_of(endpoint: str, **more: Any) -> Settings:
    """Settings with this Cosmos account and nothing else."""
    return Settings(**{"cosmos_endpoint": endpoint, "cosmos_key": KEY, **more})


def revision(
    number: int, *, window: str = "calls~PT1H~20260101T000000Z~a", subject: str = "acme", **more: Any
) -> Revision:
    """One revision of a window."""
    document = {
        "id": window,
        "window_id": window,
        "meter": window.split("~")[0],
        "subject": subject,
        "group": {},
        "window_start": "2026-01-01T00:00:00Z",
        "window_size": "PT1H",
        "revision": number,
        "value": f"{number}.000000000000000001",
        "events": number,
        "receipt": {"digest": "00ff", "sources": [{"partition": 0, "from": 1, "to": 2**40}]},
        **more,
    }
    return Revision(window, number, subject, orjson.dumps(document))


@asynccontextmanager
async def stored(
    endpoint: str, container: str = "windows", database: str = "meterline"
) -> AsyncIterator[ContainerProxy]:
    """A container as another client sees it."""
    async with CosmosClient(endpoint, KEY, consistency_level="Eventual") as account:
        yield account.get_database_client(database).get_container_client(container)


async def items(endpoint: str, container: str = "windows", database: str = "meterline") -> list[dict[str, Any]]:
    """Everything in a container, by id, without system properties."""
    async with stored(endpoint, container, database) as proxy:
        found = [
            {name: value for name, value in item.items() if name[0] != "_"} async for item in proxy.read_all_items()
        ]
    return sorted(found, key=lambda item: str(item["id"]))
