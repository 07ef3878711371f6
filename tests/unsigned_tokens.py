"""Tokens that Apache Kafka's unsecured validator takes, in place of Entra ID's."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field

from azure.core.credentials import AccessToken


def unsigned_token(subject: str, expires_s: float) -> str:
    """A JWT without a signature."""
    claims = {"sub": subject, "iat": time.time() - 1, "exp": expires_s}
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


@dataclass
class Identity:
    """As much of an azure-identity credential as is asked: each token is good for `lifetime_s`."""

    lifetime_s: float
    given: list[str] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)

    def get_token(self, *scopes: str) -> AccessToken:
        """The next one."""
        self.scopes.update(scopes)
        expires_s = time.time() + self.lifetime_s
        self.given.append(unsigned_token(f"worker-{len(self.given)}", expires_s))
        return AccessToken(self.given[-1], int(expires_s))
