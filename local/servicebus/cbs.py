"""Claims-based security: which tokens open which entities, checked as Azure checks them.

A client puts a shared access signature on `$cbs` before it attaches a link. The signature is
base64(HMAC-SHA256(key, "<sr>\\n<se>")) over the resource and the expiry exactly as the token spells them; it is
verified in constant time, and so are the key's name, the expiry and that the resource covers what the token is put
for. The signature decides, not the token's declared type: the Service Bus SDKs say `jwt` even for SAS (azure.md 3.5).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from . import codec, errors
from .errors import Refusal
from .message import Reply, Request


@dataclass(frozen=True)
class Grant:
    """What a verified token allows: the entity at `path` and everything below it, until `expires_s` (unix)."""

    path: str
    expires_s: float

    def covers(self, path: str, now_s: float) -> bool:
        if now_s >= self.expires_s:
            return False
        return self.path == "" or path == self.path or path.startswith(self.path + "/")


@dataclass(frozen=True)
class Authority:
    """Who may come in: one key, as a Service Bus namespace has at least one."""

    key_name: str
    key: str = field(repr=False)

    def verify(self, token: str, audience: str, now_s: float) -> Grant:
        """The grant of a token put for `audience`. Raises Refusal with Azure's words; never quotes the token."""
        scheme, _, rest = token.partition(" ")
        # The raw spelling of `sr` is what was signed; everything else is decoded.
        raw = dict(part.partition("=")[::2] for part in rest.split("&"))
        plain = dict(parse_qsl(rest, keep_blank_values=True))
        if scheme != "SharedAccessSignature" or not {"sr", "sig", "se", "skn"} <= plain.keys():
            raise Refusal(errors.AUTH_FAILED, "MalformedToken: The token is malformed.")
        # skn is compared with the signature, so that a wrong name is not told from a wrong key.
        wanted = base64.b64encode(
            hmac.new(self.key.encode(), f"{raw['sr']}\n{raw['se']}".encode(), hashlib.sha256).digest()
        )
        genuine = hmac.compare_digest(wanted, plain["sig"].encode("utf-8", "replace"))
        named = hmac.compare_digest(self.key_name.encode(), plain["skn"].encode("utf-8", "replace"))
        if not (genuine and named):
            raise Refusal(errors.AUTH_FAILED, "InvalidSignature: The token has an invalid signature.")
        try:
            expires_s = float(plain["se"])
        except ValueError:
            raise Refusal(errors.AUTH_FAILED, "MalformedToken: The token is malformed.") from None
        if now_s >= expires_s:
            at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(expires_s))
            raise Refusal(errors.AUTH_FAILED, f"ExpiredToken: The token is expired. Expiration time: '{at}'")
        grant = Grant(path_of(plain["sr"]), expires_s)
        if not grant.covers(path_of(audience), now_s):
            raise Refusal(
                errors.AUTH_FAILED,
                "InvalidAudience: The authorization header contains a token with a wrong audience.",
            )
        return grant


def path_of(address: str) -> str:
    """The entity path of an address: `sb://host:port/Queue/`, `amqps://…/queue` or `queue` all mean `queue`."""
    address = unquote_plus(address) if "%" in address else address
    path = urlsplit(address).path if "://" in address else address
    return path.strip("/").lower()


def put_token(request: Request, authority: Authority, now_s: float) -> tuple[Grant, Reply]:
    """Answer a request on `$cbs`. Raises Refusal, whose status goes into the answer."""
    if request.operation() != "put-token":
        raise Refusal(errors.NOT_IMPLEMENTED, f"The operation '{request.operation()}' is not supported on $cbs.")
    token = codec.text(request.body)
    audience = codec.text(request.properties.get("name"))
    if not token or audience is None:
        raise Refusal(errors.AUTH_FAILED, "MalformedToken: The token is malformed.")
    return authority.verify(token, audience, now_s), Reply(202, "Accepted")
