"""Entra ID instead of a key: tokens for Event Hubs' Kafka endpoint (SASL OAUTHBEARER), renewed before they expire.

A token is asked for per connection; aiokafka never authenticates a connection again, so a broker closes it when its token
expires, and what is sent next connects anew with a new one. That suits everything that is sent again by itself; a commit is
not (design §2.4), so `transport/eventhubs.py` commits over no connection whose token is about to expire.

The token is in no repr, no error and no log of ours.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import Any

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential

RENEW_S = 300.0
"""A token is renewed so long before it expires, or in its last quarter, whichever is shorter."""


class NoToken(errors.AuthenticationFailedError):  # type: ignore[misc]
    """Entra ID gave no token; the message says why. To be tried again: identities come up after machines do."""

    retriable = True


class EntraTokens(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens of one identity for one namespace. One for the whole process: its threads share what is still good.

    credential: azure-identity's, the one without asyncio, since an asyncio one would belong to one thread's loop.
    """

    def __init__(self, scope: str, credential: Any) -> None:
        self.scope = scope
        self.expires_s = 0.0
        """When the newest token expires, seconds since the epoch."""
        self._renew_s = 0.0
        self._token = ""
        self._credential = credential
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"EntraTokens({self.scope!r})"

    async def token(self) -> str:
        """A token that is good for a while. Raises NoToken."""
        return await asyncio.to_thread(self._good)

    def _good(self) -> str:
        with self._lock:
            now_s = time.time()
            if now_s >= self._renew_s:
                try:
                    got = self._credential.get_token(self.scope)
                except AzureError as error:
                    # Its message lists what was tried, and holds no secret; its cause may hold a whole response.
                    raise NoToken(f"no token for {self.scope}: {error.message}") from None
                self._token, self.expires_s = got.token, float(got.expires_on)
                self._renew_s = self.expires_s - min(RENEW_S, (self.expires_s - now_s) / 4)
            return self._token


@functools.cache
def tokens(namespace: str) -> EntraTokens:
    """The tokens of this process's identity for a namespace (`name.servicebus.windows.net`)."""
    return EntraTokens(f"https://{namespace}/.default", DefaultAzureCredential())
