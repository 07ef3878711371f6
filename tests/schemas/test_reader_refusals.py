"""An event that cannot be counted in every meter of its type is invalid, and says why (design §4)."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import pytest

from schemas.definitions import Meter
from schemas.reader import UNMATCHED
from tests.schemas.samples import a_meter, event_bytes, measure, one, refusal, with_data

A_DECIMAL = "expected a decimal number with at most 20 digits before and 18 after the point"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": ...}, "time is missing, expected an RFC 3339 time with zone, like 2026-01-31T12:00:00Z"),
        ({"time": None}, "time is missing, expected"),
        ({"time": "2026-01-31T12:00:00"}, "time: '2026-01-31T12:00:00' is not an RFC 3339 time with zone"),
        ({"time": ""}, "time: '' is not an RFC 3339 time"),
        ({"time": "2026-02-30T12:00:00Z"}, "time: '2026-02-30T12:00:00Z' is not a time: day is out of range"),
        ({"time": "2026-01-31T12:00:00.Z"}, "time: '2026-01-31T12:00:00.Z' is not an RFC 3339 time"),
        ({"time": "2026-01-31T12:00:00+0100"}, "time: '2026-01-31T12:00:00+0100' is not an RFC 3339 time"),
        ({"time": "2026-01-31T12:00:00+24:00"}, "time: '2026-01-31T12:00:00+24:00' has an impossible zone offset"),
        ({"time": "9999-12-31T23:59:59-01:00"}, "time: found '9999-12-31T23:59:59-01:00', expected one between"),
        ({"time": "1970-01-01T00:00:00+01:00"}, "time: found '1970-01-01T00:00:00+01:00', expected one between"),
        ({"time": "0001-01-01T00:00:00Z"}, "time: found '0001-01-01T00:00:00Z', expected one between the years 1970"),
        ({"subject": ...}, "subject is missing, expected whom to bill"),
        ({"subject": ""}, "subject is empty, expected whom to bill"),
        ({"subject": "x" * 513}, "subject has 513 UTF-8 bytes, expected at most 512"),
        ({"subject": "€" * 171}, "subject has 513 UTF-8 bytes, expected at most 512"),
        ({"data": ...}, "data is missing, expected a JSON object"),
        ({"data": None}, "data is null, expected a JSON object"),
        ({"data": [1]}, "data is an array, expected a JSON object"),
        ({"data": "{}"}, "data is the text '{}', expected a JSON object"),
        ({"data": {}}, "meter meter: data has no /tokens, expected a decimal number there"),
        ({"data": {"tokens": None}}, f"meter meter: /tokens: found null, {A_DECIMAL}"),
        ({"data": {"tokens": True}}, f"meter meter: /tokens: found true, {A_DECIMAL}"),
        ({"data": {"tokens": "many"}}, f"meter meter: /tokens: found the text 'many', {A_DECIMAL}"),
        ({"data": {"tokens": {"a": 1}}}, f"meter meter: /tokens: found an object, {A_DECIMAL}"),
        ({"data": {"tokens": [1]}}, f"meter meter: /tokens: found an array, {A_DECIMAL}"),
        ({"data_base64": "e30="}, "found both data and data_base64, expected one of them"),
        ({"data": ..., "data_base64": "e30"}, "data_base64 is not base64, expected a JSON object in base64"),
        ({"data": ..., "data_base64": "é"}, "data_base64 is not base64, expected a JSON object in base64"),
        ({"data": ..., "data_base64": "W10="}, "data is an array, expected a JSON object"),
        ({"data": ..., "data_base64": ""}, "data is missing, expected a JSON object"),
    ],
)
def test_it_says_what_was_found_and_what_was_expected(changes: dict[str, Any], words: str) -> None:
    event = one(event_bytes(**changes))
    for _ in range(2):  # what was read before changes nothing
        assert refusal(event).startswith(words)


@pytest.mark.parametrize(
    "text",
    [
        '{"tokens":1,"tokens":1000}',
        '{"tokens":1,"tokens" :1000}',
        '{"tokens":1,"\\u0074okens":1000}',
        '{"tokens":1,"tokens":"\\u003a"}',
        '{"tokens":1,"at":"12:00","tokens":1000}',
        '{"tokens":1,"at":{"tokens":1,"x":[{"tokens":1,"tokens":2}]}}',
    ],
)
def test_a_key_that_is_there_twice_makes_the_data_ambiguous(text: str) -> None:
    assert refusal(with_data(text)) == "data has the key 'tokens' more than once in one object"


@pytest.mark.parametrize(
    "text",
    [
        '{"tokens":1,"a":{"tokens":2},"b":{"tokens":3}}',
        '{"tokens":1,"at":"12:00:00","url:":"https://x:80/?a:b"}',
        '{"tokens" : 1, "text":"\\"tokens\\":5, \\\\ :"}',
        '{"tokens":1,"list":[{"a":":"},{"a":":"},":"]}',
    ],
)
def test_keys_and_colons_in_other_places_are_no_repetition(text: str) -> None:
    assert measure(with_data(text)).measurements[0].quantity == 1


def test_deep_data_in_base64_is_refused_without_a_recursion_error() -> None:
    deep = b'{"tokens":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    event = one(event_bytes(data=..., data_base64=base64.b64encode(deep).decode()))
    assert refusal(event) == "data has more than 128 levels of objects and arrays"


def test_data_in_base64_is_read_like_any_other() -> None:
    event = one(event_bytes(data=..., data_base64=base64.b64encode(b'{"tokens":7}').decode()))
    assert measure(event).measurements[0].quantity == 7


@pytest.mark.parametrize(("tokens", "minimum"), [(-1, "0"), ("0.999", "1"), (Decimal("-0.001"), "0")])
def test_a_quantity_below_the_minimum_is_refused(tokens: object, minimum: str) -> None:
    event = with_data(f'{{"tokens":{tokens}}}')
    words = f"meter meter: /tokens: found {tokens}, expected at least {minimum}"
    assert refusal(event, a_meter(minimum=Decimal(minimum))) == words


@pytest.mark.parametrize("tokens", ["0", "-0", "-0.0", "5"])
def test_the_minimum_itself_is_allowed(tokens: str) -> None:
    assert measure(with_data(f'{{"tokens":{tokens}}}'), a_meter(minimum=Decimal(0))).measurements


@pytest.mark.parametrize(
    ("meter", "words"),
    [
        (a_meter("unique_count", "/user"), "meter meter: data has no /user, expected a text or a number there"),
        (a_meter("unique_count", "/n"), "meter meter: /n: found null, expected a text or a number"),
        (a_meter("unique_count", "/o"), "meter meter: /o: found an object, expected a text or a number"),
        (a_meter(group_by={"g": "/o"}), "group g: /o: found an object, expected a scalar"),
        (a_meter(group_by={"g": "/l"}), "group g: /l: found an array, expected a scalar"),
        (a_meter(group_by={"g": "/long"}), "group g: /long: found 513 UTF-8 bytes, expected at most 512"),
        (a_meter(group_by={"g": "/huge"}), "group g: /huge: found 513 UTF-8 bytes, expected at most 512"),
        (a_meter(group_by={"g": "/absurd"}), "group g: /absurd: found 1e99999999999999999999, expected a scalar"),
        (a_meter(value="/absurd"), f"meter meter: /absurd: found 1e99999999999999999999, {A_DECIMAL}"),
    ],
)
def test_groups_and_members_are_scalars_of_bounded_size(meter: Meter, words: str) -> None:
    long, huge = "€" * 171, "1" * 513
    text = f'{{"tokens":1,"n":null,"o":{{}},"l":[],"long":"{long}","huge":{huge},"absurd":1e99999999999999999999}}'
    assert refusal(with_data(text), meter) == words


def test_one_meter_that_cannot_count_it_makes_it_invalid_for_all() -> None:
    meters = a_meter(slug="a"), a_meter(slug="b", value="/missing")
    assert refusal(one(event_bytes()), *meters).startswith("meter b: data has no /missing")


def test_an_integer_of_more_digits_than_python_reads_is_refused() -> None:
    assert refusal(with_data(f'{{"tokens":1,"x":{"9" * 5000}}}')).startswith(
        "data is not JSON (Integer value out of range"
    )


def test_an_event_of_no_meter_is_unmatched_whatever_else_is_wrong_with_it() -> None:
    event = one(event_bytes(type="portal.page.viewed", time=..., subject=..., data=...))
    assert measure(event) is UNMATCHED
    assert not UNMATCHED.measurements
