"""What is no event says what was found and what was expected."""

from __future__ import annotations

import pytest

from schemas.events import decode
from tests.schemas.samples import event_bytes, reason

GOOD = event_bytes()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "found a null value (a tombstone), expected a CloudEvent"),
        (b"", "found nothing, expected a CloudEvent 1.0 in JSON"),
        (b" \n", "found nothing, expected a CloudEvent 1.0 in JSON"),
        (b"hello", "found bytes that are not JSON (invalid character (byte 0)), expected a CloudEvent 1.0 in JSON"),
        (b"\xef\xbb\xbf" + GOOD, "found a byte order mark, expected a CloudEvent 1.0 in JSON"),
        (b"\xff\xfe{", "found the byte 0xff at 0, which is not UTF-8, expected a CloudEvent 1.0 in JSON"),
        (GOOD + GOOD, f"found bytes that are not JSON (trailing characters (byte {len(GOOD) + 1}))"),
        (b"5", "found 5, expected a CloudEvent 1.0 in JSON, an object"),
        (b"null", "found null, expected a CloudEvent 1.0 in JSON, an object"),
        (b'"text"', 'found the text "text", expected a CloudEvent 1.0 in JSON, an object'),
        (
            b'{"tokens":1}',
            "found no specversion and no id and no source and no type, "
            "expected a CloudEvent 1.0 with specversion, id, source, type",
        ),
        (event_bytes(source=...), "found no source, expected a CloudEvent 1.0 with specversion, id, source, type"),
        (event_bytes(id=None), "found no id, expected a CloudEvent 1.0 with specversion, id, source, type"),
        (event_bytes(specversion="0.3"), 'found specversion "0.3", expected "1.0"'),
        (event_bytes(specversion=1.0), "found 1.0 in specversion, expected a text"),
        (event_bytes(id=5), "found 5 in id, expected a text"),
        (event_bytes(id={"a": 1}), "found an object in id, expected a text"),
        (event_bytes(source=""), "found an empty source, expected a text that is not empty"),
        (event_bytes(type=""), "found an empty type, expected a text that is not empty"),
        (event_bytes(time=1700000000), "found 1700000000 in time, expected a text"),
        (event_bytes(subject=["a"]), "found an array in subject, expected a text"),
        (event_bytes(data_base64=1), "found 1 in data_base64, expected a text"),
        (GOOD.replace(b'"id":', b'"id":"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"id":', b'"\\u0069d":"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"id":', b'"id" :"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"id":', b'"id"\t:"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"id":', b'"id"\r:"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"id":', b'"id"\n:"e-0","id":'), "found the attribute id 2 times, expected it once"),
        (GOOD.replace(b'"time":', b'"subject":null,"time":'), "found the attribute subject 2 times, expected it once"),
        (
            GOOD.replace(b":12,", b":" + b"[" * 127 + b"]" * 127 + b","),
            "found more than 128 levels of objects and arrays, expected at most 128",
        ),
        (
            GOOD.replace(b'"id":', b'"extension":' + b"[" * 128 + b"]" * 128 + b',"id":'),
            "found more than 128 levels of objects and arrays, expected at most 128",
        ),
        (
            b'{"a":' * 100_000,
            "found more than 128 levels of objects and arrays, expected at most 128",
        ),
    ],
)
def test_it_says_what_was_found_and_what_was_expected(value: bytes | None, words: str) -> None:
    assert reason(value).startswith(words)


def test_a_lone_surrogate_is_called_so() -> None:
    assert "a lone surrogate" in reason(GOOD.replace(b"contoso", rb"con\ud800toso"))


def test_a_reason_is_short_whatever_was_found() -> None:
    assert len(reason(event_bytes(specversion="x" * 1_000_000))) < 200
    assert len(reason(b'"' + b"x" * 1_000_000 + b'"')) < 200
    assert len(reason(b"x" * 1_000_000)) < 200


def test_an_event_alone_in_an_envelope_may_not_be_an_envelope_again() -> None:
    (event,) = decode(b"[[" + GOOD + b"]]")
    assert getattr(event, "reason", "").startswith("found an array, expected a CloudEvent")
