"""What leaves over HTTP: JSON answers, and problem documents (RFC 9457) for everything that went wrong.

A problem document is `{"type", "title", "status", "detail", "hint"}` and, where there is more to say, extension members
(`parameter`, `missing_workers`, …; RFC 9457 §3.2). `detail` says what was found, `hint` what to do; neither ever holds a
secret or a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from schemas.errors import MeterlineError
from web.view import Json

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HINTS = {
    404: "the paths are listed in /openapi.json; the dashboard is at /",
    405: "use a method that the Allow header names",
    413: "send fewer events at once",
}


class Problem(Exception):
    """An answer that is not what was asked for; raised by handlers, rendered by `problems`.

    code: a short stable word, the end of the problem's `type` (`urn:meterline:problem:<code>`).
    more: extension members. retry_after_s: becomes a Retry-After header.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        hint: str,
        retry_after_s: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.more = dict(more or {})

    def response(self) -> web.Response:
        """This problem as `application/problem+json`."""
        body: Json = {
            "type": f"urn:meterline:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "hint": self.hint,
            **self.more,
        }
        headers = {"Cache-Control": "no-store"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return web.Response(
            body=orjson.dumps(body), status=self.status, content_type="application/problem+json", headers=headers
        )


def answer(body: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; never stored by caches unless `headers` says otherwise."""
    merged = {"Cache-Control": "no-store", **(headers or {})}
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=merged)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns everything that went wrong below into a problem document; what nobody foresaw is logged and a bare 500."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        detail = f"{request.method} {request.path}: {error.reason}"
        hint = _HINTS.get(error.status, "see /openapi.json")
        response = Problem(error.status, "http", error.reason, detail, hint=hint).response()
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except MeterlineError as error:
        return Problem(
            503 if error.retryable else 500,
            "unavailable" if error.retryable else "internal",
            "Not available now" if error.retryable else "Internal error",
            error.what,
            hint=error.hint or "look at /v1/status and the worker's log",
            retry_after_s=2 if error.retryable else None,
        ).response()
    except ConnectionError:
        raise  # the reader is gone: there is nobody to tell
    except Exception:
        _log.exception("unforeseen error in %s %s", request.method, request.path)
        return Problem(
            500,
            "internal",
            "Internal error",
            f"{request.method} {request.path} failed on this worker",
            hint="the worker's log has the traceback; please report it",
        ).response()
