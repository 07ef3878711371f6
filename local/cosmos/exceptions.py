"""What the service answers when it says no: status, code, message and substatus as Azure's gateway words them.

::

    CosmosError                        status, code, message, substatus, headers
    ├── bad_request        400         BadRequest
    ├── unauthorized       401         Unauthorized, with the text that was signed
    ├── not_found          404         NotFound; substatus 1002 = this region has not seen the session's writes yet
    ├── conflict           409         Conflict
    ├── precondition       412         PreconditionFailed
    ├── too_large          413         RequestEntityTooLarge
    ├── throttled          429         TooManyRequests, substatus 3200, x-ms-retry-after-ms
    └── unavailable        503         ServiceUnavailable

Sources: learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb; substatus numbers as in azure-cosmos
4.17.1 `http_constants.SubStatusCodes`.
"""

from __future__ import annotations

from collections.abc import Mapping

CODES = {
    304: "NotModified",
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "Conflict",
    410: "Gone",
    412: "PreconditionFailed",
    413: "RequestEntityTooLarge",
    424: "FailedDependency",
    429: "TooManyRequests",
    449: "RetryWith",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class CosmosError(Exception):
    """One refused request. charge: the units it cost. additional: what a query plan travels in (`additionalErrorInfo`)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        substatus: int = 0,
        headers: Mapping[str, str] | None = None,
        additional: str | None = None,
        charge: float = 1.0,
    ) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.code = CODES.get(status, "Error")
        self.message = message
        self.substatus = substatus
        self.headers = dict(headers or {})
        self.additional = additional
        self.charge = charge


def bad_request(message: str, *, substatus: int = 0) -> CosmosError:
    """400: the request is malformed or asks for what a container cannot do."""
    return CosmosError(400, message, substatus=substatus)


def not_found(message: str = "Entity with the specified id does not exist in the system.") -> CosmosError:
    """404 for a database, container or item that is not there (in this region)."""
    return CosmosError(404, message)


def session_not_available() -> CosmosError:
    """404/1002: the session token is ahead of this region; the SDK tries the next one."""
    return CosmosError(404, "The read session is not available for the input session token.", substatus=1002)


def conflict(message: str = "Entity with the specified id already exists in the system.") -> CosmosError:
    """409: the id, or a unique key, is taken within its partition key."""
    return CosmosError(409, message)


def precondition_failed() -> CosmosError:
    """412: If-Match, If-None-Match or a patch's condition does not hold."""
    return CosmosError(412, "Operation cannot be performed because one of the specified precondition is not met.")


def too_large() -> CosmosError:
    """413: an item above 2 MB, or a batch above 2 MB."""
    return CosmosError(413, "Request size is too large")


def throttled(retry_after_ms: int) -> CosmosError:
    """429/3200: the second's request units are spent."""
    return CosmosError(
        429,
        "Request rate is large. More Request Units may be needed, so no changes were made. Please retry this request"
        " later. Learn more: http://aka.ms/cosmosdb-error-429",
        substatus=3200,
        headers={"x-ms-retry-after-ms": str(retry_after_ms)},
    )


def unavailable() -> CosmosError:
    """503: the region cannot serve; the SDK goes to the other one."""
    return CosmosError(503, "Service is currently unavailable, please retry after a while.")
