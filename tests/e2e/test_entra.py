"""A worker with Entra ID and no key: azure-identity asks the machine's identity endpoint, and tokens expire while it works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from local.ports import free_port
from tests.e2e.deployments import deployment, until
from tests.kafka_cluster import KafkaCluster
from tests.unsigned_tokens import unsigned_token
from transport.sending import UsageProducer

pytestmark = pytest.mark.e2e

LIFETIME_S = 6


class IdentityEndpoint:
    """Azure App Service's (azure-docs: overview-managed-identity.md), with tokens that a Kafka of one's own takes."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}/token"
        self.given: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """While inside."""
        app = web.Application()
        app.router.add_get("/token", self._token)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", int(self.url.rpartition(":")[2].partition("/")[0])).start()
            yield
        finally:
            await runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == "of this machine"
        assert request.query["resource"] == "https://localhost"
        expires_s = time.time() + LIFETIME_S
        self.given.append(unsigned_token(f"worker-{len(self.given)}", expires_s))
        return web.json_response(
            {
                "access_token": self.given[-1],
                "expires_on": str(int(expires_s)),
                "resource": "https://localhost",
                "token_type": "Bearer",
            }
        )


async def test_a_worker_outlives_its_tokens(kafka_sasl: KafkaCluster, tmp_path: Path) -> None:
    identity = IdentityEndpoint()
    async with identity.serving(), deployment(kafka_sasl.bootstrap, tmp_path) as made:
        worker = await made.start_worker(
            METERLINE_EVENTHUBS_NAMESPACE=f"localhost:{kafka_sasl.sasl_port}",
            METERLINE_KAFKA_CA_FILE=str(kafka_sasl.ca_file),
            METERLINE_CHECKPOINT_MS="500",
            IDENTITY_ENDPOINT=identity.url,
            IDENTITY_HEADER="of this machine",
        )
        await worker.serving()
        begun = len(identity.given)
        async with UsageProducer(made.settings) as producer:
            while len(identity.given) < begun + 3:
                await made.send(producer, 200)
                await asyncio.sleep(0.2)
        await until(worker, lambda: made.has_read_all(worker))
        log = worker.process.log.read_text()
        assert "starting over" not in log, "an expired token is no reason to restore"
        assert log.count("restored") == 2 * 2, "each partition once"
        assert not any(token in log for token in identity.given)
