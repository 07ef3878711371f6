"""What the Cosmos SDK does between a call and the wire: `azure-cosmos` 4.17.1, read from its source.

Measured too, in azure.md §4.4, and side by side in `tests/simulation/test_cosmos_client_beside_the_sdk.py`:

- the first preferred region that is not marked unavailable takes reads and writes; reads and writes are marked apart;
- no connection, a cut one and silence are asked again in the same region (`retry_connect`, `retry_read`), then in the next,
  and mark the region (`_retry_utility_async`, `_service_request_retry_policy`); aiohttp doubles a GET or PUT whose connection
  is cut: so a create may be applied four times, and a replace be asked for eight times;
- 503 goes to the next region and back, without a mark (`_service_unavailable_retry_policy`); 408 and 5xx only for reads
  (`_timeout_failover_retry_policy`); 404/1002 asks every region, then forgets the session (`_session_retry_policy`);
- marks end with the health check, at the start and every five minutes (`_global_endpoint_manager_async`);
- `timeout` is looked at between tries, not within one.

The exceptions are the SDK's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

import aiohttp
import orjson
from azure.core.exceptions import AzureError, ServiceRequestError, ServiceResponseTimeoutError
from azure.cosmos.documents import DatabaseAccount
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosClientTimeoutError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
    _InternalCosmosException,
)

from local.cosmos.exceptions import CosmosError, throttled, unavailable
from simulation.cosmos import Outcome, Region, TwoRegions
from simulation.wire import NoAnswer, Refused, Throttled, Unavailable, Unsure, Wire

T = TypeVar("T")

REFRESH_S = 300.0
"""How often the client looks at the account and the health of its regions (`DefaultEndpointsRefreshTime`)."""

HEALTH_PATIENCE_S = (3.0, 5.0, 10.0, 10.0)
"""How long each try to read the account waits (`DBAReadTimeout`, then `HealthCheckRetryPolicy`)."""

PAUSE_S = 0.5
"""Before the next region is asked because of a status (`_ServiceUnavailableRetryPolicy`, `_TimeoutFailoverRetryPolicy`)."""

SESSION_NOT_AVAILABLE = 1002
_IDEMPOTENT = frozenset({"account", "read_database", "read_container", "read", "replace"})
"""GET and PUT: aiohttp itself sends them once more over a new connection when theirs is cut (`ClientSession._request`)."""

_ERRORS = {404: CosmosResourceNotFoundError, 409: CosmosResourceExistsError, 412: CosmosAccessConditionFailedError}


def service(region: str) -> str:
    """What the weather knows a region as."""
    return f"cosmos/{region}"


class Connection:
    """What one client knows of the account and its regions, and how it asks them.

    preferred: regions, the first first; empty for the account's own order. may_write_anywhere: else only its first region
    is written to. retry_connect, retry_read: how often one region is asked again.
    """

    def __init__(
        self,
        account: TwoRegions,
        wire: Wire,
        *,
        preferred: Sequence[str],
        may_write_anywhere: bool,
        read_timeout_s: float,
        retry_connect: int,
        retry_read: int,
    ) -> None:
        self.account = account
        self.sessions: dict[str, list[int]] = {}
        self._wire = wire
        self._preferred = [name for name in preferred if name in account.regions]
        self._may_write_anywhere = may_write_anywhere
        self._read_timeout_s = read_timeout_s
        self._retry_connect = retry_connect
        self._retry_read = retry_read
        self._marked: dict[tuple[str, bool], None] = {}  # (region, for writes)
        self._refreshed_at_s = 0.0
        self._refresh: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Reads the account, and looks at the health of its regions meanwhile."""
        await self._read_account()
        self._look(self._check_health())

    async def close(self) -> None:
        """Ends the health check. Idempotent."""
        refresh, self._refresh = self._refresh, None
        if refresh is not None:
            refresh.cancel()
            with suppress(asyncio.CancelledError, AzureError):
                await refresh

    # -- which region

    def order(self, write: bool) -> list[Region]:
        """The regions in the order they are asked: marked ones last."""
        if write and not self._may_write_anywhere:
            return [self.account.first]
        wanted = self._preferred or list(self.account.regions)
        if not self._marked:
            return [self.account.regions[name] for name in wanted]
        marked = [name for name in wanted if (name, write) in self._marked]
        return [self.account.regions[name] for name in (*(n for n in wanted if n not in marked), *marked)]

    def _look(self, check: Any) -> None:
        self._refreshed_at_s = asyncio.get_running_loop().time()
        self._refresh = asyncio.ensure_future(check)

    async def _refresh_account(self) -> None:
        with suppress(CosmosHttpResponseError, AzureError):
            await self._read_account()
            await self._check_health()

    async def _check_health(self) -> None:
        names = [region.name for region in self.order(False)]
        await asyncio.gather(*(self._check_region(name) for name in names))

    async def _check_region(self, name: str) -> None:
        try:
            await self.account_at(self.account.regions[name])
        except (CosmosHttpResponseError, AzureError):
            self._marked.update({(name, False): None, (name, True): None})
        else:
            for write in (False, True):
                self._marked.pop((name, write), None)

    async def _read_account(self) -> None:
        """Asks the account's global endpoint, then the preferred regions."""
        try:
            await self.account_at(self.account.first)
        except (CosmosHttpResponseError, AzureError):
            for name in self._preferred:
                try:
                    await self.account_at(self.account.regions[name])
                    return
                except (CosmosHttpResponseError, AzureError):
                    self._marked.update({(name, False): None, (name, True): None})
            raise

    async def account_at(self, region: Region) -> DatabaseAccount:
        """The account as this region's endpoint tells it; asked four times."""
        for attempt, patience_s in enumerate(HEALTH_PATIENCE_S):
            try:
                await self._once(region, "account", region.check_up, patience_s)
                break
            except CosmosHttpResponseError:
                if attempt == len(HEALTH_PATIENCE_S) - 1:
                    raise
                await asyncio.sleep(PAUSE_S)
            except AzureError:
                if attempt == len(HEALTH_PATIENCE_S) - 1:
                    raise
        found = DatabaseAccount()
        found._WritableLocations = [{"name": name} for name in self.account.regions]
        found._ReadableLocations = found._WritableLocations
        found._EnableMultipleWritableLocations = True
        return found

    # -- asking, and asking again

    async def on_account(
        self, operation: str, request: Callable[[Region], T], timeout: float | None, *, write: bool = False
    ) -> T:
        """A request about databases and containers; writes go to the first region."""

        def apply(region: Region) -> Outcome:
            region.check_up()
            try:
                return request(region), ()
            except CosmosError as error:
                return error, ()

        order = (lambda: [self.account.first]) if write else partial(self.order, False)
        result: T = await self._tried(operation, apply, order, None, write, timeout)
        return result

    async def on_items(
        self, operation: str, container: str, request: Callable[[Region], Any], timeout: float | None, *, write: bool
    ) -> Any:
        """A request for items of a container, within the session of this client."""

        def apply(region: Region) -> Outcome:
            session = () if write else tuple(self.sessions.get(container, ()))
            return region.answer(container, session, request)

        return await self._tried(operation, apply, partial(self.order, write), container, write, timeout)

    async def _tried(
        self,
        operation: str,
        apply: Callable[[Region], Outcome],
        order: Callable[[], list[Region]],
        container: str | None,
        write: bool,
        timeout: float | None,
    ) -> Any:
        """As `ExecuteAsync` does: every policy counts for itself."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        first = order()
        region, tries = first[0], len(first)
        unreachable = unavailable_times = failed_times = behind_times = 0
        last: Exception | None = None
        while True:
            if timeout and loop.time() - began_s >= timeout:
                raise CosmosClientTimeoutError(error=last)
            if loop.time() - self._refreshed_at_s > REFRESH_S:
                self._look(self._refresh_account())
            try:
                result, progress = await self._in_region(region, operation, apply, timeout)
                if not isinstance(result, CosmosError) or result.substatus != SESSION_NOT_AVAILABLE:
                    self._saw(container, progress)
                if isinstance(result, CosmosError):
                    _raise(result, region)
                return result
            except CosmosHttpResponseError as error:
                last = error
                if error.status_code == 404 and error.sub_status == SESSION_NOT_AVAILABLE:
                    behind_times += 1
                    if behind_times > tries:
                        self.sessions.pop(container or "", None)
                        raise
                    everywhere = list(self.account.regions.values())
                    region = everywhere[0] if behind_times == 1 else order()[(behind_times - 1) % tries]
                    continue
                if error.status_code == 503:
                    unavailable_times += 1
                    again, turn = unavailable_times <= tries, unavailable_times
                else:
                    failed_times += 1
                    failed = error.status_code == 408 or error.status_code >= 500
                    again, turn = failed and not write and failed_times <= tries, failed_times
                if not again:
                    raise
                region = order()[turn % tries]
                if timeout and loop.time() - began_s >= timeout:
                    raise CosmosClientTimeoutError(error=last) from None
                await asyncio.sleep(PAUSE_S)
            except (ServiceRequestError, ServiceResponseTimeoutError) as error:
                last = error
                self._marked[region.name, write] = None
                unreachable += 1
                if unreachable >= tries:
                    raise
                region = order()[0]

    async def _in_region(
        self, region: Region, operation: str, apply: Callable[[Region], Outcome], timeout: float | None
    ) -> Outcome:
        """As `_ConnectionRetryPolicy` does: the same region again, for connections and for answers apart."""
        loop = asyncio.get_running_loop()
        connects, reads, errors = self._retry_connect, self._retry_read, 0
        left_s = timeout
        while True:
            if left_s is not None and left_s <= 0:
                raise CosmosClientTimeoutError()
            began_s = loop.time()
            try:
                return await self._once(region, operation, partial(apply, region), self._read_timeout_s)
            except ServiceRequestError:
                connects -= 1
                if connects < 0:
                    raise
            except ServiceResponseTimeoutError:
                reads -= 1
                if reads < 0:
                    raise
            errors += 1
            if errors > 1:
                await asyncio.sleep(1.0)
            if left_s is not None:
                left_s -= loop.time() - began_s

    async def _once(
        self, region: Region, operation: str, apply: Callable[[], T], patience_s: float, *, again: bool = True
    ) -> T:
        """One request over the wire; what the SDK's transport makes of its failure."""
        try:
            return await self._wire.ask(service(region.name), operation, apply, patience_s=patience_s)
        except NoAnswer as error:
            if again and not error.silent and operation in _IDEMPOTENT:
                return await self._once(region, operation, apply, patience_s, again=False)
            if error.silent:
                silence = aiohttp.ServerTimeoutError("Timeout on reading data from socket")
                raise ServiceResponseTimeoutError(str(silence), error=silence) from None
            cut = aiohttp.ServerDisconnectedError()
            raise ServiceRequestError(str(cut), error=cut) from None
        except Refused as error:
            refused = aiohttp.ClientConnectionError(str(error))
            raise ServiceRequestError(str(refused), error=refused) from None
        except Throttled as error:
            _raise(throttled(round(error.retry_after_s * 1000)), region)
        except Unavailable:
            _raise(unavailable(), region)
        except Unsure:
            _raise(CosmosError(408, "The request timed out."), region)

    def _saw(self, container: str | None, progress: tuple[int, ...]) -> None:
        if container is not None and self.account.sessions:
            seen = self.sessions.setdefault(container, [0] * len(progress))
            self.sessions[container] = [max(pair) for pair in zip(seen, progress, strict=True)]


def _raise(error: CosmosError, region: Region) -> NoReturn:
    """The SDK's exception for an answer, with the headers and the substatus it takes from them."""
    headers = dict(error.headers)
    if error.substatus:
        headers["x-ms-substatus"] = str(error.substatus)
    response = _InternalCosmosException(error.status, headers, error.code)
    message = orjson.dumps({"code": error.code, "message": error.message}).decode()
    raise _ERRORS.get(error.status, CosmosHttpResponseError)(error.status, message, response, endpoint=region.name)
