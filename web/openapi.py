"""`GET /openapi.json`: what there is to ask, for people's tools. A test holds it against the routes."""

from __future__ import annotations

from aiohttp import web

from web.answers import answer
from web.view import Json

_SUBJECT = ("subject", "Whose usage, exactly as in the events.")
_METER = ("meter", "Slug of a meter in meters.yaml.")
_SIZE = ("window_size", "ISO-8601 duration, like PT1H.")
_PATHS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...], tuple[int, ...]], ...] = (
    (
        "get",
        "/v1/totals",
        "Running, closed and (with subject) sealed windows, a page at a time.",
        (
            _SUBJECT,
            _METER,
            _SIZE,
            ("state", "open, closed or sealed."),
            ("limit", "Windows on a page, 1 to 1000; default 100."),
            ("cursor", "`next` of the page before."),
            ("partial", "true: accept a part where a worker is away (otherwise 503)."),
        ),
        (200, 400, 503),
    ),
    (
        "get",
        "/v1/windows/{id}",
        "One window with its receipt.",
        (("subject", "Spares Cosmos a query over all its partitions."),),
        (200, 304, 400, 404, 503),
    ),
    (
        "get",
        "/v1/live",
        "Server-sent events: a snapshot of the totals, then their changes.",
        (_SUBJECT, _METER, _SIZE, ("interval_ms", "Least time between bursts."), ("snapshot", "false: only changes.")),
        (200, 400, 503),
    ),
    (
        "get",
        "/v1/audit",
        "The conservation ledger: read = counted + duplicate + unmatched + dead_lettered.",
        (),
        (200,),
    ),
    ("get", "/v1/status", "Tasks, sinks, lag, watermarks, dead letters, alarms of all workers.", (), (200,)),
    ("post", "/v1/events", "Usage in: one CloudEvent or an array of them.", (), (200, 207, 400, 413, 415, 422, 503)),
    ("get", "/healthz", "Is this process alive?", (), (200,)),
    ("get", "/readyz", "Are all its partitions restored and running?", (), (200, 503)),
    ("get", "/metrics", "Prometheus.", (), (200,)),
)
_MEANINGS = {
    200: "as asked",
    207: "some events were accepted; see each",
    304: "not modified",
    400: "a parameter or the body does not fit",
    404: "no such window",
    413: "too large",
    415: "not a CloudEvent's content type",
    422: "no event was accepted",
    503: "not now; see detail and hint",
}


async def openapi(_request: web.Request) -> web.Response:
    """The OpenAPI 3.1 description."""
    return answer(document(), headers={"Cache-Control": "no-cache"})


def document() -> Json:
    """The description as an object."""
    paths: dict[str, Json] = {}
    for method, path, summary, queries, statuses in _PATHS:
        parameters: list[Json] = [
            {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in queries
        ]
        if "{id}" in path:
            parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
        operation: Json = {
            "summary": summary,
            "parameters": parameters,
            "responses": {str(status): {"description": _MEANINGS[status]} for status in statuses},
        }
        if method == "post":
            body = {"schema": {"type": ["object", "array"]}}
            types = ("application/cloudevents+json", "application/cloudevents-batch+json")
            operation["requestBody"] = {"required": True, "content": dict.fromkeys(types, body)}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "meterline", "version": "1", "description": "Exact usage metering. Errors are RFC 9457."},
        "paths": paths,
    }
