"""Binary mode: the attributes are `ce_*` headers, the value is the data (CloudEvents Kafka binding)."""

from __future__ import annotations

import orjson
import pytest

from tests.schemas.samples import EVENT, event_bytes, measure, one, reason, refusal

DATA = orjson.dumps(EVENT["data"])
HEADERS = [(f"ce_{name}", str(value).encode()) for name, value in EVENT.items() if name != "data"]


def without(name: str) -> list[tuple[str, bytes]]:
    return [header for header in HEADERS if header[0] != f"ce_{name}"]


def test_the_attributes_come_from_the_headers_and_the_value_is_the_data() -> None:
    event = one(DATA, ("content-type", b"application/json"), ("ce_traceparent", b"00"), *HEADERS)
    assert (event.id, event.source, event.type) == ("e-1", "/shop", "api.request")
    assert (event.subject, event.time) == ("contoso", "2026-01-31T12:00:00Z")
    assert bytes(event.data) == event.raw == DATA
    assert measure(event).measurements[0].quantity == 12


def test_it_means_the_same_as_the_event_in_structured_mode() -> None:
    assert measure(one(DATA, *HEADERS)) == measure(one(event_bytes()))


def test_header_names_are_read_without_regard_to_case() -> None:
    assert one(DATA, *[(name.upper(), value) for name, value in HEADERS]).id == "e-1"


def test_headers_of_something_else_leave_it_structured() -> None:
    assert one(event_bytes(), ("traceparent", b"00"), ("content-type", b"text/plain")).id == "e-1"


def test_the_content_type_says_structured_even_if_there_are_ce_headers() -> None:
    event = one(
        event_bytes(id="in-the-body"), ("content-type", b"application/cloudevents+json; charset=utf-8"), *HEADERS
    )
    assert event.id == "in-the-body"


def test_text_that_was_sent_over_amqp_is_unwrapped() -> None:
    long = b"s" * 300
    headers = [("ce_id", b"\xa1\x03abc"), ("ce_subject", b"\xb1" + len(long).to_bytes(4, "big") + long)]
    event = one(DATA, *headers, *[header for header in HEADERS if header[0] not in ("ce_id", "ce_subject")])
    assert (event.id, event.subject) == ("abc", long.decode())


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (without("id"), "found no id, expected a CloudEvent 1.0 with"),
        (without("specversion"), "found no specversion, expected"),
        ([*without("id"), ("ce_id", b"")], "found an empty id, expected a text that is not empty, in the headers ce_*"),
        ([*without("id"), ("ce_id", b"\xff")], "found bytes that are not UTF-8 in the header ce_id, expected text"),
    ],
)
def test_bad_headers_make_it_malformed(headers: list[tuple[str, bytes]], words: str) -> None:
    assert reason(DATA, *headers).startswith(words)


def test_a_null_value_is_malformed() -> None:
    assert reason(None, *HEADERS) == "found a null value (a tombstone), expected the data of a CloudEvent"


@pytest.mark.parametrize(
    "value", [b"not json", b"[1]", b"[", b" [{}, 2", b"", b"\xff", b'{"tokens":1,"x":' + b"[" * 100_000]
)
def test_data_that_is_no_json_object_is_invalid_not_malformed(value: bytes) -> None:
    event = one(value, *HEADERS)
    assert event.raw == value
    assert "data" in refusal(event)
