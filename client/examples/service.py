"""A sample service that meters its own requests: `python client/examples/service.py` and `curl localhost:8080/hello?as=acme`.

METERLINE_EVENTHUBS_CONNECTION_STRING or METERLINE_KAFKA_BOOTSTRAP says where to, METERLINE_USAGE_TOPIC which topic,
METERLINE_SPOOL_DIR where usage waits while the broker is away. PORT: 8080. `meters.yaml` beside it has the meters.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from meterline_client import KafkaTransport, Producer, SpoolFull

SOURCE = "//sample.meterline/api"
TYPE = "sample.request"
PRODUCER = web.AppKey("PRODUCER", Producer)


def transport() -> KafkaTransport:
    """The broker that the environment names."""
    topic = os.environ.get("METERLINE_USAGE_TOPIC", "usage")
    connection = os.environ.get("METERLINE_EVENTHUBS_CONNECTION_STRING")
    if connection:
        return KafkaTransport(topic, connection_string=connection)
    return KafkaTransport(topic, bootstrap=os.environ.get("METERLINE_KAFKA_BOOTSTRAP", "127.0.0.1:9092"))


async def metering(app: web.Application) -> AsyncIterator[None]:
    """One producer for the life of the service; at its end what is pending is sent, or stays in the spool."""
    async with Producer(transport(), SOURCE, spool_dir=os.environ.get("METERLINE_SPOOL_DIR")) as producer:
        app[PRODUCER] = producer
        yield


@web.middleware
async def metered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Usage first: a request that could not be billed is not served. It waits a second for room, no longer."""
    response = await handler(request)
    subject = request.query.get("as", "anonymous")
    usage = {"path": request.path, "status": response.status, "bytes": response.content_length or 0}
    try:
        await request.app[PRODUCER].send(TYPE, subject, usage, timeout_s=1.0)
    except SpoolFull as error:
        raise web.HTTPServiceUnavailable(text=f"cannot be metered now: {error}\n") from error
    return response


async def hello(_: web.Request) -> web.Response:
    """What the service is for."""
    return web.Response(text="hello\n")


async def usage(request: web.Request) -> web.Response:
    """Where the usage of this process is."""
    return web.json_response(request.app[PRODUCER].ledger()._asdict())


def application() -> web.Application:
    """The service."""
    app = web.Application(middlewares=[metered])
    app.cleanup_ctx.append(metering)
    app.router.add_get("/hello", hello)
    app.router.add_get("/usage", usage)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
