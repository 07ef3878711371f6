"""What a failure of Cosmos DB means for the revision it met: come again, or never.

======================  ==========  =============================================================================
met                     outcome     why
======================  ==========  =============================================================================
429                     retry       throttled; `x-ms-retry-after-ms` is passed on
408 449 5xx 410 404     retry       not done, or not known; 404 is a container or a region's copy that is not there yet
401 403                 retry       key, role or firewall: not the revision's fault, and mended without resending by hand
403 / 1014              refused     the logical partition is at its 20 GB
400 / 1001              retry       the container has another partition key: a deployment to mend, not a revision
400 413 other 4xx       refused     this item will never be taken
no answer               retry       timeouts and connection errors: it may have happened, and the ids make that harmless
======================  ==========  =============================================================================

Source: learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb; azure.md §4.4 for what the SDK retries.
"""

from __future__ import annotations

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from sinks.contract import Outcome, refused, retry

PARTITION_FULL = 1014
KEY_MISMATCH = 1001
_MESSAGE_MAX = 200
_UNDONE = frozenset({404, 408, 410, 412, 429, 449})


def outcome_of(error: Exception) -> Outcome:
    """The outcome of a revision whose request ended in `error`. No secret and no document is in its reason."""
    if isinstance(error, ClientAuthenticationError):
        return retry(
            "no Entra ID token for Cosmos DB: give this machine a managed identity, or set METERLINE_COSMOS_KEY"
        )
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        return _of_status(error, error.status_code, getattr(error, "sub_status", None) or 0)
    if isinstance(error, ServiceRequestError):
        return retry("no connection to Cosmos DB: check METERLINE_COSMOS_ENDPOINT, network and firewall")
    if isinstance(error, ValueError):
        return refused(f"the SDK does not take it: {str(error)[:_MESSAGE_MAX]}")
    return retry(f"Cosmos DB did not answer: {type(error).__name__}")


def is_of_the_account(error: Exception) -> bool:
    """Whether every other revision would meet the same now: nobody answers, or nobody may write."""
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        partition_full = error.status_code == 403 and getattr(error, "sub_status", None) == PARTITION_FULL
        return (error.status_code in (401, 403) or error.status_code >= 500) and not partition_full
    return not isinstance(error, ValueError)


def _of_status(error: HttpResponseError, status: int, substatus: int) -> Outcome:
    if status in (401, 403) and substatus != PARTITION_FULL:
        return retry(
            f"Cosmos DB refused the key or the identity ({status}): check METERLINE_COSMOS_KEY, or give the identity the"
            " role Cosmos DB Built-in Data Contributor; 403 may also be the account's firewall"
        )
    if status == 400 and substatus == KEY_MISMATCH:
        return retry("the Cosmos container has another partition key than /subject: recreate it so (400/1001)")
    wait_s = _retry_after_s(error)
    if status == 429:
        return retry("Cosmos DB is throttling (429)", wait_s)
    if status in _UNDONE or status >= 500:
        return retry(f"Cosmos DB answered {status}", wait_s)
    return refused(f"Cosmos DB refused it: {status} {_first_line(error)}")


def _retry_after_s(error: HttpResponseError) -> float | None:
    headers = getattr(error, "headers", None) or {}
    for name, value in dict(headers).items():
        if name.lower() == "x-ms-retry-after-ms":
            try:
                return float(value) / 1000
            except ValueError:
                return None
    return None


def _first_line(error: HttpResponseError) -> str:
    # The service words its refusals in the first line; what follows is activity ids.
    lines = [line.strip() for line in str(error.message or "").splitlines() if line.strip()]
    return lines[0][:_MESSAGE_MAX] if lines else ""
