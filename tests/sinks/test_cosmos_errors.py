"""What an error of the Cosmos SDK means for a revision: come again, or never."""

from __future__ import annotations

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.cosmos.exceptions import CosmosHttpResponseError

from sinks.cosmos_errors import is_of_the_account, outcome_of


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ClientAuthenticationError("no token"), "retry", "no Entra ID token for Cosmos DB: give this machine"),
        (ServiceRequestError("no route"), "retry", "no connection to Cosmos DB: check METERLINE_COSMOS_ENDPOINT"),
        (ServiceResponseError("cut off"), "retry", "Cosmos DB did not answer: ServiceResponseError"),
        (TimeoutError(), "retry", "Cosmos DB did not answer: TimeoutError"),
        (ValueError("id is too long"), "refused", "the SDK does not take it: id is too long"),
        (CosmosHttpResponseError(status_code=413, message=""), "refused", "Cosmos DB refused it: 413"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_only_what_cannot_get_better_is_refused(error: Exception, kind: str, words: str) -> None:
    outcome = outcome_of(error)
    assert outcome.kind == kind
    assert outcome.reason.startswith(words)
    assert is_of_the_account(error) == (kind == "retry")


@pytest.mark.parametrize(("written", "wait_s"), [("1500", 1.5), ("soon", None)])
def test_a_throttled_account_is_left_alone_for_as_long_as_it_says_if_that_is_a_number(
    written: str, wait_s: float | None
) -> None:
    error = CosmosHttpResponseError(status_code=429, message="too many")
    error.headers = {"x-ms-retry-after-ms": written}
    outcome = outcome_of(error)
    assert (outcome.kind, outcome.retry_after_s) == ("retry", wait_s)
