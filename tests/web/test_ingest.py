"""`POST /v1/events` accepts what the broker has acknowledged, and answers per event."""

from __future__ import annotations

import orjson
import pytest

from schemas.errors import ConfigurationError, SendFailed
from tests.web.doubles import Json, MemoryView, Worker, workers

ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"


class MemoryTopic:
    """Acknowledges into a list; refuses where told."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes]] = []
        self.down_after: int | None = None

    async def publish(self, key: bytes | None, value: bytes) -> tuple[int, int]:
        if self.down_after is not None and len(self.records) >= self.down_after:
            raise SendFailed("no acknowledgement")
        self.records.append((key, value))
        return 1, len(self.records) - 1


def an_event(id: str = "e-1", **fields: object) -> Json:
    """One CloudEvent."""
    return {
        "specversion": "1.0",
        "type": "api.request",
        "source": "/test",
        "id": id,
        "subject": "acme",
        "time": "2026-01-31T12:00:00Z",
        "data": {"tokens": 5},
        **fields,
    }


async def _post(worker: Worker, body: bytes, content_type: str = ONE) -> tuple[int, Json]:
    async with worker.http.post("/v1/events", data=body, headers={"Content-Type": content_type}) as response:
        return response.status, orjson.loads(await response.read())


async def test_an_event_is_accepted_with_its_place_in_the_log() -> None:
    topic = MemoryTopic()
    raw = b'{"specversion":"1.0","type":"t","source":"s","id":"i","subject":"\xc3\xa9t\xc3\xa9","data":{"v":1.10}}'
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, body = await _post(worker, raw)
    assert status == 200
    accepted = {"index": 0, "id": "i", "status": "accepted", "partition": 1, "offset": 0, "reason": None}
    assert body["events"] == [accepted]
    assert topic.records == [("été".encode(), raw)], "produced as it was written, decimals too"


async def test_a_batch_is_answered_event_by_event() -> None:
    topic = MemoryTopic()
    batch = [an_event("a"), an_event("b", type="meterline.tick"), {"id": "c"}, an_event("d", subject=None)]
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, body = await _post(worker, orjson.dumps(batch), MANY)
    assert status == 207
    assert [e["status"] for e in body["events"]] == ["accepted", "rejected", "rejected", "accepted"]
    assert [e["index"] for e in body["events"]] == [0, 1, 2, 3]
    assert (body["accepted"], body["rejected"], body["unknown"]) == (2, 2, 0)
    assert [key for key, _ in topic.records] == [b"acme", b"/test/d"], "routed by a function of the event"


@pytest.mark.parametrize("kind", ["meterline.tick", "meterline.definitions", "meterline.anything"])
async def test_a_reserved_type_is_refused_and_never_produced(kind: str) -> None:
    topic = MemoryTopic()
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, body = await _post(worker, orjson.dumps(an_event(type=kind)))
    assert (status, body["status"], topic.records) == (422, 422, [])
    assert "reserved" in body["detail"]


async def test_what_the_broker_did_not_acknowledge_is_unknown_and_to_be_sent_again() -> None:
    topic = MemoryTopic()
    topic.down_after = 1
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, body = await _post(worker, orjson.dumps([an_event("a"), an_event("b")]), MANY)
    assert status == 503
    assert [e["status"] for e in body["events"]] == ["accepted", "unknown"]
    assert "counted once" in body["events"][1]["reason"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", ONE, 400),
        (b"not json", ONE, 400),
        (b"3", ONE, 400),
        (b"[]", MANY, 400),
        (b"[1, ", MANY, 400),
        (b"{", ONE, 422),
        (b"{}", ONE, 422),
        (b"\xff\xfe", ONE, 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{" + b" " * 1_000_000, ONE, 413),
    ],
)
async def test_bad_bodies_are_problems_and_nothing_is_produced(body: bytes, content_type: str, status: int) -> None:
    topic = MemoryTopic()
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        found, problem = await _post(worker, body, content_type)
    assert (found, problem["status"], topic.records) == (status, status, [])
    assert problem["type"].startswith("urn:meterline:problem:")
    assert problem["hint"]


async def test_many_events_in_one_body_keep_their_order() -> None:
    topic = MemoryTopic()
    batch = [an_event(f"e{n}", data=None) for n in range(1200)]
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, body = await _post(worker, orjson.dumps(batch), MANY)
    assert (status, body["accepted"]) == (200, 1200)
    assert [orjson.loads(value)["id"] for _, value in topic.records] == [f"e{n}" for n in range(1200)]


async def test_without_a_producer_there_is_no_such_route() -> None:
    async with workers(MemoryView()) as (worker,):
        status, problem = await _post(worker, b"{}")
    assert (status, problem["status"]) == (404, 404)


async def test_what_no_broker_takes_is_rejected_and_never_asked_for_again() -> None:
    """A client that sends again what is `unknown` would do so for ever."""

    async def publish(key: bytes | None, value: bytes) -> tuple[int, int]:
        error = SendFailed("usage[0]: the record is too large", hint="split it")
        error.retryable = False
        raise error

    async with workers(MemoryView(), publish=publish) as (worker,):
        status, body = await _post(worker, orjson.dumps(an_event()))
    assert (status, body["rejected"], body["unknown"]) == (422, 1, 0)
    assert body["events"][0]["reason"] == "usage[0]: the record is too large -> split it"


async def test_more_elements_than_a_megabyte_of_events_can_have_are_refused() -> None:
    topic = MemoryTopic()
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        status, problem = await _post(worker, b"[" + b"1," * 20_000 + b"1]", MANY)
    assert (status, topic.records) == (413, [])
    assert problem["detail"] == "the body has more than 20000 events"


async def test_a_body_that_is_not_compressed_as_it_says_is_a_bad_request() -> None:
    topic = MemoryTopic()
    headers = {"Content-Type": ONE, "Content-Encoding": "gzip"}
    async with (
        workers(MemoryView(), publish=topic.publish) as (worker,),
        worker.http.post("/v1/events", data=b"no gzip", headers=headers) as response,
    ):
        assert response.status == 400 and "Content-Encoding" in orjson.loads(await response.read())["detail"]
    assert topic.records == []


async def test_a_key_that_is_refused_makes_an_event_unknown_and_never_rejected() -> None:
    """Somebody mends the key, and then it is taken."""

    async def publish(key: bytes | None, value: bytes) -> tuple[int, int]:
        raise ConfigurationError("the key was refused")

    async with workers(MemoryView(), publish=publish) as (worker,):
        status, body = await _post(worker, orjson.dumps(an_event()))
    assert (status, body["unknown"]) == (503, 1)
