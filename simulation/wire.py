"""The network between one process and one service: requests travel, and what the weather says befalls them.

A request that was sent is out of its sender's hands. It arrives, and is applied, in a context of no process, whether its
sender is cancelled, frozen or killed meanwhile; only the answer needs somebody who still waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Kind(Enum):
    """What can befall a call."""

    LOST_REQUEST = "lost request"  # never arrives
    LATE_REQUEST = "late request"  # the caller is told of a failure, yet it arrives `late_s` later
    LOST_ANSWER = "lost answer"  # applied, and the caller is told of a failure
    TWICE = "twice"  # applied and answered, and applied once more `late_s` later
    THROTTLED = "throttled"  # not applied: too much was asked of the service
    DOWN = "down"  # nobody listens
    UNAVAILABLE = "unavailable"  # not applied: the service answers that it cannot
    UNSURE = "unsure"  # applied, and the service itself answers that it does not know


@dataclass(frozen=True, slots=True)
class Misfortune:
    """What befalls one call.

    wait_s: when a caller without an answer learns that there will be none, as a cut connection; None for silence, which
    only its own patience ends. late_s: how much later a late request, or the second of two, arrives. retry_after_s: what a
    service that throttles asks for.
    """

    kind: Kind
    wait_s: float | None = None
    late_s: float = 5.0
    retry_after_s: float = 2.0


class Weather(Protocol):
    """What befalls a call; decided by the world from its seed and its plan of faults."""

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        """The misfortune of the call that is made now, or None."""


class FairWeather:
    """Nothing befalls anything."""

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        """Nothing."""
        return None


class WireError(Exception):
    """A call that ended without the service's own answer. Whether it was applied is said by none of them but Refused."""


class NoAnswer(WireError):
    """Nobody answered. silent: the caller's patience ended; else its connection was cut."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__("nobody answered" if silent else "the connection was cut")
        self.silent = silent


class Refused(WireError):
    """Nobody listens there: it was not applied."""


class Throttled(WireError):
    """Not applied: the service asks to come again in `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"come again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Unavailable(WireError):
    """Not applied: the service says that it cannot now."""


class Unsure(WireError):
    """The service gave up waiting for itself; it was applied."""


class Wire:
    """The road of one process to services. latency_s: the least and the most one way takes."""

    def __init__(self, rng: random.Random, weather: Weather, latency_s: tuple[float, float] = (0.002, 0.05)) -> None:
        self._rng = rng
        self._weather = weather
        self._latency_s = latency_s

    async def ask(self, service: str, operation: str, apply: Callable[[], T], *, patience_s: float | None = None) -> T:
        """What `apply` returns, run in the service's own context when the request arrives.

        apply: raises nothing but WireError; what a service refuses is a result too. patience_s: how long the caller waits
        for an answer; None for ever. Raises WireError without the service's answer.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        misfortune = self._weather.befalls(service, operation)
        there_s, back_s = self._rng.uniform(*self._latency_s), self._rng.uniform(*self._latency_s)

        def later(delay_s: float, callback: Callable[..., Any], *arguments: Any) -> None:
            loop.call_later(delay_s, callback, *arguments, context=Context())

        def arrive() -> None:
            try:
                result = apply()
            except WireError as error:
                later(back_s, _tell, answer, error)
            else:
                later(back_s, _give, answer, result)

        match misfortune:
            case None:
                later(there_s, arrive)
            case Misfortune(Kind.TWICE):
                later(there_s, arrive)
                later(there_s + misfortune.late_s, _unheard, apply)
            case Misfortune(Kind.UNSURE):
                later(there_s, _unheard, apply)
                later(there_s + back_s, _tell, answer, Unsure("the service did not hear from itself in time"))
            case Misfortune(Kind.THROTTLED):
                later(there_s + back_s, _tell, answer, Throttled(misfortune.retry_after_s))
            case Misfortune(Kind.UNAVAILABLE):
                later(there_s + back_s, _tell, answer, Unavailable("the service is unavailable"))
            case Misfortune(Kind.DOWN):
                later(there_s + back_s, _tell, answer, Refused("nobody listens"))
            case Misfortune(Kind.LOST_REQUEST | Kind.LATE_REQUEST | Kind.LOST_ANSWER):
                if misfortune.kind is not Kind.LOST_REQUEST:
                    late_s = misfortune.late_s if misfortune.kind is Kind.LATE_REQUEST else 0.0
                    later(there_s + late_s, _unheard, apply)
                if misfortune.wait_s is not None:
                    later(there_s + misfortune.wait_s, _tell, answer, NoAnswer(silent=False))
        # The patience is the caller's own: scheduled in its context, it stands still while its process is frozen.
        patience = loop.call_later(patience_s, _tell, answer, NoAnswer(silent=True)) if patience_s is not None else None
        try:
            return await answer
        finally:
            if patience is not None:
                patience.cancel()


def _give(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _tell(answer: asyncio.Future[Any], error: WireError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _unheard(apply: Callable[[], Any]) -> None:
    """Applies a request that nobody waits for any more; it may find the service down."""
    with suppress(WireError):
        apply()
