"""Master-key signatures: who may speak, and how a wrong key is told.

Source: learn.microsoft.com/rest/api/cosmos-db/access-control-on-cosmosdb-resources. The signed text is
``verb\\nresource type\\nresource link\\nx-ms-date\\ndate\\n``, all but the link in lower case.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote

from local.cosmos.exceptions import CosmosError

DATE_TOLERANCE_MS = 15 * 60_000
"""How far a request's date may be from the server's clock (the service allows 15 minutes)."""


class MasterKey:
    """The account key. Its repr says nothing; ValueError, without the text, when it is not base64."""

    def __init__(self, key: str) -> None:
        try:
            self._secret = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the Cosmos key is not base64") from None
        if not self._secret:
            raise ValueError("the Cosmos key is empty")

    def __repr__(self) -> str:
        return "MasterKey(***)"

    def sign(self, text: str) -> str:
        """The signature of `text`, base64."""
        return base64.b64encode(hmac.new(self._secret, text.encode(), hashlib.sha256).digest()).decode()


def resource_of(parts: Sequence[str]) -> tuple[str, str]:
    """Resource type and link of a request path: `dbs d colls c docs` is (`docs`, `dbs/d/colls/c`)."""
    if not parts:
        return "", ""
    if len(parts) % 2:
        return parts[-1], "/".join(parts[:-1])
    return parts[-2], "/".join(parts)


def signed_headers(key: MasterKey, verb: str, path: str, now_ms: int) -> dict[str, str]:
    """The headers by which a request without SDK, such as one to `/_local/faults`, is let in."""
    date = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    text = _signed_text(verb, [part for part in path.split("/") if part], date, "")
    return {"x-ms-date": date, "authorization": quote(f"type=master&ver=1.0&sig={key.sign(text)}", safe="")}


def verify(key: MasterKey, verb: str, parts: Sequence[str], headers: Mapping[str, str], now_ms: int) -> None:
    """Pass when the request is signed with `key` and dated now; raise 401 or 403 as Azure does otherwise.

    parts: the path's segments, unquoted.
    """
    given = headers.get("authorization")
    if not given:
        raise CosmosError(
            401, "Required Header authorization is missing. Ensure a valid Authorization token is passed."
        )
    fields = dict(part.partition("=")[::2] for part in unquote(given).split("&"))
    if fields.get("type") != "master":
        raise CosmosError(401, "The local Cosmos DB takes master keys only (authorization type=master).")
    x_date = headers.get("x-ms-date", "")
    date = headers.get("date", "")
    text = _signed_text(verb, parts, x_date, "" if x_date else date)
    if not hmac.compare_digest(key.sign(text).encode(), fields.get("sig", "").strip().encode()):
        raise CosmosError(
            401,
            "The MAC signature found in the HTTP request is not the same as the computed signature. The input"
            " authorization token can't serve the request. Please check that the expected payload is built as per the"
            f" protocol, and check the key being used. Server used the following payload to sign: '{text}'",
        )
    _check_date(x_date or date, now_ms)


def _signed_text(verb: str, parts: Sequence[str], x_date: str, date: str) -> str:
    kind, link = resource_of(parts)
    return f"{verb.lower()}\n{kind.lower()}\n{link}\n{x_date.lower()}\n{date.lower()}\n"


def _check_date(text: str, now_ms: int) -> None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        raise CosmosError(401, "The request date header is missing or is not an RFC 1123 date.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if abs(int(moment.timestamp() * 1000) - now_ms) > DATE_TOLERANCE_MS:
        server = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        raise CosmosError(
            403,
            "The authorization token is not valid at the current time. Please create another token and retry"
            f" (token date: {text}, current server time: {server}).",
        )
