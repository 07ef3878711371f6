"""One answer to a request, before it becomes HTTP: status, body, headers, charge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.cosmos.exceptions import CosmosError


@dataclass(slots=True)
class Reply:
    """body: JSON bytes, or None for none. charge: request units. headers: beyond those every answer carries."""

    status: int
    body: bytes | None = None
    charge: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def json(status: int, value: Any, *, charge: float = 0.0, headers: Mapping[str, str] | None = None) -> Reply:
        """An answer whose body is a JSON value; its `_etag`, if it has one, also goes to the header."""
        reply = Reply(status, orjson.dumps(value), charge, dict(headers or {}))
        if isinstance(value, Mapping) and "_etag" in value:
            reply.headers.setdefault("etag", value["_etag"])
        return reply

    @staticmethod
    def error(error: CosmosError, activity_id: str) -> Reply:
        """The answer to a refused request: `code`, `message`, and the substatus header."""
        headers = dict(error.headers)
        if error.substatus:
            headers["x-ms-substatus"] = str(error.substatus)
        if error.status == 304:
            return Reply(304, None, error.charge, headers)
        body: dict[str, Any] = {
            "code": error.code,
            "message": f"{error.message}\r\nActivityId: {activity_id}, Microsoft.Azure.Documents.Common/2.14.0",
        }
        if error.additional is not None:
            body["additionalErrorInfo"] = error.additional
        return Reply(error.status, orjson.dumps(body), error.charge, headers)
