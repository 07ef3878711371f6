"""The dashboard page and its files, and the security headers of every answer.

The files are read once, at start, and served by name from memory: no path of a request ever reaches the disk. The page
loads nothing from elsewhere; the Content-Security-Policy says so to the browser, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """For `Application.on_response_prepare`: every answer, streams and errors included."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def page_routes() -> list[web.RouteDef]:
    """`/` and `/static/<name>` for each file of the dashboard."""
    files = {file.name: file.read_bytes() for file in (resources.files("web") / "static").iterdir() if file.is_file()}
    served = {name: body for name, body in files.items() if _suffix(name) in _TYPES}
    assert "index.html" in served, "the dashboard's files are not installed"
    routes = [web.get(f"/static/{name}", _file(name, body)) for name, body in sorted(served.items())]
    return [web.get("/", _file("index.html", served["index.html"])), *routes]


def _file(name: str, body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Content-Type": _TYPES[_suffix(name)], "ETag": tag, "Cache-Control": "no-cache"}

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        return web.Response(body=body, headers=headers)

    return serve


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
