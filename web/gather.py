"""Scatter and gather: every worker of the deployment is asked `?local=1`, at the same time, and within a bound.

Who is asked comes from `view.peers()`. A worker that does not answer in time is reported with its reason, never left out
in silence; what a gap means (a partial page, or no answer at all) is decided where the answer is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import orjson

from web.limits import Limits
from web.view import Json, View

_PEER_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Gathered:
    """Answers by worker URL, this worker's first, and why the others are missing.

    answers: the JSON body of each worker that answered 200. absent: the workers that answered 404. missing: URL -> reason.
    """

    answers: dict[str, Json]
    absent: tuple[str, ...]
    missing: dict[str, str]

    @property
    def missing_workers(self) -> list[Json]:
        """`[{"worker", "reason"}]`, in the order of the URLs; the shape that every answer uses."""
        return [{"worker": url, "reason": reason} for url, reason in sorted(self.missing.items())]


class Peers:
    """The other workers, over HTTP. One client session, opened at the first need, closed with the application."""

    def __init__(self, view: View, limits: Limits) -> None:
        self._view = view
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    def urls(self) -> set[str]:
        """Advertised URLs of all workers but this one."""
        return set(self._view.peers()) - {self._view.worker_url}

    async def ask(self, path: str, params: Mapping[str, str], own: Json | None) -> Gathered:
        """`GET <peer><path>?<params>&local=1` from all peers; `own` is this worker's answer (None: it has none).

        Takes at most `limits.gather_timeout_s`, whatever the peers do. Raises nothing for what they do.
        """
        urls = sorted(self.urls())
        replies = await asyncio.gather(*(self._one(url, path, {**params, "local": "1"}) for url in urls))
        answers: dict[str, Json] = {} if own is None else {self._view.worker_url: own}
        absent, missing = [], {}
        for url, reply in zip(urls, replies, strict=True):
            if reply is None:
                absent.append(url)
            elif isinstance(reply, str):
                missing[url] = reply
            else:
                answers[url] = reply
        return Gathered(answers, tuple(absent), missing)

    async def _one(self, url: str, path: str, params: Mapping[str, str]) -> Json | str | None:
        """The body; None for 404; the reason as text for everything else."""
        timeout = aiohttp.ClientTimeout(total=self._limits.gather_timeout_s)
        try:
            async with self.session.get(f"{url}{path}", params=params, timeout=timeout) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    return f"answered {response.status}"
                body = orjson.loads(await response.read())
                return body if isinstance(body, dict) else "answered something else than a JSON object"
        except TimeoutError:
            return f"no answer within {self._limits.gather_timeout_s:g} s"
        except aiohttp.ClientConnectorError:
            return "cannot be reached"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"no usable answer ({type(error).__name__})"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The client session, in the running loop. Cookies and redirects have no place between workers."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_PEER_BUFFER_BYTES, trust_env=False
            )
        return self._session

    async def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None
