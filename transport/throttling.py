"""Throttling as data: what a broker asked to wait, and a producer that waits instead of failing.

Event Hubs throttles by delaying answers, and says in them by how much (`throttle_time_ms`); a produce that would be delayed
for longer than a request may take is refused with POLICY_VIOLATION (azure-docs, Event Hubs' Kafka troubleshooting guide).
aiokafka does nothing about the first and takes the second for final, which would end a membership, and the next one too.
So a refused produce is sent again from below aiokafka's producer (`Patient`): the same bytes, after a jittered back-off, while
what follows on that broker waits behind it, so that the order stays. A refusal that outlasts `PATIENCE_S` is given to
aiokafka, and is then a failed send (design §2.4).

A record that no attempt can get through (larger than its tier takes) is refused with the same code on Event Hubs: the error
that comes after the patience names both causes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.protocol.produce import ProduceRequest

from schemas.errors import SendFailed

log = logging.getLogger("meterline.broker")

FIRST_S, MOST_S, PATIENCE_S = 0.5, 10.0, 120.0
"""Of the back-off: the first pause, the longest, and how long in all. Each is drawn between half of it and itself."""
SAY_EVERY_S = 10.0
TOLD_MS = 100
"""A delay from which on the log says it; less is no trouble, and in the metric all the same."""

_REFUSED = errors.PolicyViolationError.errno
_BUY = "raise the namespace's throughput units (or let it inflate them); `python app.py check --load` says how many a load needs"


class Throttling:
    """What throttling has cost so far. By request (produce, fetch, commit): requests, and seconds.

    delayed: by what the broker said of its answers. refused: produces that it refused; seconds that were waited for them.
    waiting: how many produces wait now.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.delayed: Counter[str] = Counter()
        self.delayed_s: defaultdict[str, float] = defaultdict(float)
        self.refused = 0
        self.refused_s = 0.0
        self.waiting = 0
        self._monotonic_s = monotonic_s
        self._say_at_s = 0.0

    def answered(self, request: str, response: Any) -> None:
        """An answer came; it may say by how much it was delayed, or what the next one has to expect."""
        delay_ms = getattr(response, "throttle_time_ms", 0)
        if delay_ms > 0:
            self.delayed[request] += 1
            self.delayed_s[request] += delay_ms / 1000
            if delay_ms >= TOLD_MS:
                self._say("the broker throttles: a %s was delayed by %.1f s -> %s", request, delay_ms / 1000, _BUY)

    def refuses(self, where: Sequence[str], pause_s: float) -> None:
        """A produce was refused, and will be sent again."""
        self.refused += len(where)
        self.refused_s += pause_s
        text = "the broker throttles: POLICY_VIOLATION at %s; the same records again in %.1f s -> %s"
        self._say(text, ", ".join(where), pause_s, _BUY)

    def describe(self) -> dict[str, Any]:
        """As JSON, for /v1/status."""
        return {
            "delayed": dict(self.delayed),
            "delayed_s": {request: round(seconds, 3) for request, seconds in self.delayed_s.items()},
            "refused": self.refused,
            "refused_s": round(self.refused_s, 3),
            "waiting": self.waiting,
        }

    def _say(self, text: str, *figures: Any) -> None:
        now_s = self._monotonic_s()
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + SAY_EVERY_S
            log.warning(text, *figures)


class Patient:
    """A producer's client that sends what is refused for throttling again, for a while."""

    def __init__(
        self,
        client: Any,
        throttling: Throttling,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._client = client
        self._throttling = throttling
        self._rng = rng
        self._sleep = sleep
        self._patience_s = patience_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """As the client's; the answer to a produce names no partition as refused for throttling before the patience ends."""
        if not isinstance(request, ProduceRequest):
            return await self._client.send(node_id, request, **options)
        response = await self._answer(node_id, request, options)
        refused = _refused(response)
        if not refused:
            return response
        answers, pause_s, left_s = _by_place(response), FIRST_S, self._patience_s
        self._throttling.waiting += 1
        try:
            while refused and left_s > 0:
                drawn_s = min(left_s, self._rng.uniform(pause_s / 2, pause_s))
                self._throttling.refuses([f"{topic}[{partition}]" for topic, partition in refused], drawn_s)
                await self._sleep(drawn_s)
                pause_s, left_s = min(2 * pause_s, MOST_S), left_s - drawn_s
                response = await self._answer(node_id, _only(request, refused), options)
                answers |= _by_place(response)
                refused = _refused(response)
        finally:
            self._throttling.waiting -= 1
        response.topics = [(topic, [answer]) for (topic, _), answer in answers.items()]
        return response

    async def _answer(self, node_id: int, request: Any, options: dict[str, Any]) -> Any:
        response = await self._client.send(node_id, request, **options)
        self._throttling.answered("produce", response)
        return response


def be_patient(producer: AIOKafkaProducer, throttling: Throttling, rng: random.Random | None = None) -> None:
    """From now on the producer waits where it is throttled. To be called before it sends."""
    producer._sender.client = Patient(producer._sender.client, throttling, rng or random.Random())


def not_acknowledged(what: str, error: BaseException) -> SendFailed:
    """The error of a record that was not acknowledged: what it means, and whether another attempt may help."""
    failed = SendFailed(f"{what}: {type(error).__name__}", hint=_hint(error))
    failed.retryable = not isinstance(error, errors.MessageSizeTooLargeError | errors.RecordTooLargeError)
    return failed


def _hint(error: BaseException) -> str:
    if isinstance(error, errors.PolicyViolationError):
        return (
            f"for {PATIENCE_S:.0f} s the broker refused it: either it throttles ({_BUY}), or it never takes such a record "
            "(on Event Hubs: more than the tier's 256 KB or 1 MB, or compressed on Standard)"
        )
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordTooLargeError):
        return "the broker takes no record of this size: raise its max.message.bytes (Event Hubs: another tier)"
    if isinstance(error, errors.TopicAuthorizationFailedError | errors.ClusterAuthorizationFailedError):
        return "the key, or the identity, needs Send on this topic"
    return ""


def _by_place(response: Any) -> dict[tuple[str, int], Any]:
    return {(topic, answer[0]): answer for topic, answers in response.topics for answer in answers}


def _refused(response: Any) -> list[tuple[str, int]]:
    return [place for place, answer in _by_place(response).items() if answer[1] == _REFUSED]


def _only(request: ProduceRequest, places: Sequence[tuple[str, int]]) -> ProduceRequest:
    """The same request without the partitions that took theirs."""
    topics = [
        (topic, [(partition, records) for partition, records in partitions if (topic, partition) in places])
        for topic, partitions in request._topics
    ]
    return ProduceRequest(
        request._transactional_id,
        request._required_acks,
        request._timeout,
        [(topic, partitions) for topic, partitions in topics if partitions],
    )
