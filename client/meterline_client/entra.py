"""Entra ID over Kafka (SASL OAUTHBEARER): tokens for an Event Hubs namespace, renewed before they expire.

A token is asked for per connection, and a broker closes a connection whose token has expired; what was on the road is then
tried again over a new one, as after any loss of a connection.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

RENEW_S = 300.0
"""A token is renewed so long before it expires, or in its last quarter, whichever is shorter."""


class NoToken(errors.KafkaConnectionError):  # type: ignore[misc]
    """The credential gave no token; the message says why."""


class EntraTokens(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens of one credential for one namespace. The token is in no repr and no error."""

    def __init__(self, namespace: str, credential: AsyncTokenCredential) -> None:
        self.scope = f"https://{namespace}/.default"
        self._credential = credential
        self._lock = asyncio.Lock()
        self._renew_s = 0.0
        self._token = ""

    def __repr__(self) -> str:
        return f"EntraTokens({self.scope!r})"

    async def token(self) -> str:
        """A token that is good for a while. Raises NoToken."""
        async with self._lock:  # connections come at once
            now_s = time.time()
            if now_s >= self._renew_s:
                try:
                    got = await self._credential.get_token(self.scope)
                except Exception as error:  # each credential has its own; whatever it is, it is tried again
                    raise NoToken(f"no token for {self.scope}: {getattr(error, 'message', None) or error}") from None
                self._token = got.token
                self._renew_s = got.expires_on - min(RENEW_S, (got.expires_on - now_s) / 4)
            return self._token
