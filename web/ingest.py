"""`POST /v1/events`: usage over HTTP, answered per event, and only once the broker has it.

Body: one CloudEvent (`application/cloudevents+json`) or an array of them (`application/cloudevents-batch+json`), at most
1 MB; `application/json` may be either. An event is produced as it was written, keyed by its subject (by source and id
where it has none), so that a retry meets its first try in the same partition and is counted once (design §4).

`accepted` means that the log has it. Whether it is counted is decided there, in order, and told by `/v1/audit`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from aiohttp import web

from schemas.errors import MeterlineError, SendFailed
from schemas.events import RESERVED_PREFIX, Malformed, RawEvent, decode
from schemas.refusals import split_elements
from web.answers import Problem, answer
from web.parameters import Parameters
from web.site import Publish, site_of
from web.view import Json

_log = logging.getLogger(__name__)

_TYPES = ("application/cloudevents+json", "application/cloudevents-batch+json", "application/json")
_ELEMENTS_MOST = 20_000
"""Events in one body: a megabyte of whole ones holds fewer, and each is answered."""
_AT_ONCE = 500
"""Events handed to the producer before the first of them is awaited."""


async def events(request: web.Request) -> web.Response:
    """`{"accepted": n, "rejected": n, "unknown": n, "events": [{"index", "id", "status", "partition", "offset", "reason"}]}`.

    200 where all are accepted, 207 where some are, 422 where none is (a reserved type is one of the reasons), 503 where
    the fate of any is unknown because the broker did not acknowledge: send those again, unchanged.
    """
    site = site_of(request)
    Parameters.of(request, ())
    assert site.publish is not None, "the route exists only with a producer"
    if request.content_type not in _TYPES:
        raise Problem(
            415,
            "unsupported-type",
            "Not a CloudEvent's content type",
            f"the body is {request.content_type}",
            hint=f"send one of: {', '.join(_TYPES)}",
        )
    outcomes = await _publish_all(_elements(await _body(request, site.limits.body_max_bytes)), site.publish)
    counts = {kind: sum(o["status"] == kind for o in outcomes) for kind in ("accepted", "rejected", "unknown")}
    status = 503 if counts["unknown"] else 200 if not counts["rejected"] else 207 if counts["accepted"] else 422
    body: Json = {**counts, "events": outcomes}
    if status == 422:
        body |= {
            "type": "urn:meterline:problem:rejected",
            "title": "No event was accepted",
            "status": 422,
            "detail": str(outcomes[0]["reason"]),
            "hint": "each event's reason is in `events`",
        }
    return answer(body, status=status, headers={"Retry-After": "2"} if status == 503 else None)


async def _body(request: web.Request, most: int) -> bytes:
    """The body, unpacked. Raises Problem (413) as soon as there is more than `most` bytes of it."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > most:
                raise _too_large(f"the body has more than {most} bytes")
    except web.RequestPayloadError as error:
        raise _not_json(f"the body is not what its Content-Encoding says ({error})") from None
    return bytes(body)


def _too_large(what: str) -> Problem:
    hint = "send the events in several requests; an event of that size fits no record of Event Hubs either"
    return Problem(413, "too-large", "The body is too large", what, hint=hint)


def _elements(body: bytes) -> Sequence[bytes]:
    """The bytes of each event. Raises Problem: 400 for what is neither an event nor an array of some, 413 for too many."""
    stripped = body.strip()
    if stripped[:1] != b"[":
        if stripped[:1] != b"{":
            raise _not_json("found neither an object nor an array, expected a CloudEvent or an array of them")
        return [stripped]
    try:
        elements = split_elements(stripped)
    except ValueError as error:
        raise _not_json(str(error)) from None
    if len(elements) > _ELEMENTS_MOST:
        raise _too_large(f"the body has more than {_ELEMENTS_MOST} events")
    if not elements:
        raise _not_json("found an empty array, expected at least one CloudEvent")
    return elements


async def _publish_all(elements: Sequence[bytes], publish: Publish) -> list[Json]:
    outcomes: list[Json] = []
    for start in range(0, len(elements), _AT_ONCE):
        slice_ = elements[start : start + _AT_ONCE]
        outcomes += await asyncio.gather(*(_one(start + i, element, publish) for i, element in enumerate(slice_)))
    return outcomes


async def _one(index: int, element: bytes, publish: Publish) -> Json:
    event = decode(element)[0]
    outcome: Json = {
        "index": index,
        "id": None,
        "status": "rejected",
        "partition": None,
        "offset": None,
        "reason": None,
    }
    if isinstance(event, Malformed):
        return {**outcome, "reason": event.reason}
    outcome["id"] = event.id
    if event.type.startswith(RESERVED_PREFIX):
        return {
            **outcome,
            "reason": f"the type {event.type!r} is reserved: {RESERVED_PREFIX}* belongs to the stream itself",
        }
    try:
        partition, offset = await publish(_key(event), element)
    except MeterlineError as error:
        if isinstance(error, SendFailed) and not error.retryable:  # who sent it again would do so for ever
            return {**outcome, "reason": str(error)}
        _log.warning("an event over HTTP was not acknowledged: %s", error)
        again = "not acknowledged by the broker; send it again, unchanged: it is counted once"
        return {**outcome, "status": "unknown", "reason": again}
    return {**outcome, "status": "accepted", "partition": partition, "offset": offset}


def _key(event: RawEvent) -> bytes:
    return (event.subject or f"{event.source}/{event.id}").encode()


def _not_json(detail: str) -> Problem:
    return Problem(
        400,
        "malformed",
        "Not a CloudEvent",
        detail,
        hint="see https://github.com/cloudevents/spec, JSON event format 1.0",
    )
