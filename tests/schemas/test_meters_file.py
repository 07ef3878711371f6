"""A meters file is read as it is written, and refused with everything that is wrong with it at once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from schemas.definitions import Definitions, Meter, StreamSettings, Window
from schemas.errors import ConfigurationError
from schemas.meters import load, parse
from schemas.pointers import Pointer

GOLDEN = Path(__file__).parent / "meters"
MINIMAL = "meters: [{slug: requests, event_type: api.request, aggregation: count}]"


def problems(text: str) -> list[str]:
    """The problems of a file, without its name and the line that counts them."""
    with pytest.raises(ConfigurationError) as refused:
        parse(text, name="m")
    assert not refused.value.retryable
    first, *rest = str(refused.value).split("\n")
    assert first == f"m: {len(rest)} problem{'s' if len(rest) > 1 else ''} in the meters file"
    return [line.removeprefix("  m:") for line in rest]


def test_everything_that_can_be_said_is_read() -> None:
    definitions = parse("""
stream: {max_delay: PT10S, future_tolerance: PT1M, correct_for: P2D, revise_every: PT0.5S}
meters:
  - slug: api_tokens
    event_type: api.request
    aggregation: sum
    value: /usage/tokens
    group_by: {region: /region, model: /model}
    windows: [PT60M, PT1M]
    timezone: UTC
    grace: PT5S
    minimum: 0.10
    description: Tokens
    unit: tokens
""")
    assert definitions == Definitions(
        stream=StreamSettings(10_000, 60_000, 172_800_000, 500),
        meters=(
            Meter(
                slug="api_tokens",
                event_type="api.request",
                aggregation="sum",
                value=Pointer("/usage/tokens"),
                group_by=(("model", Pointer("/model")), ("region", Pointer("/region"))),
                windows=(Window("PT1M", 60_000), Window("PT1H", 3_600_000)),
                timezone="UTC",
                grace_ms=5_000,
                minimum=Decimal("0.10"),
                description="Tokens",
                unit="tokens",
            ),
        ),
    )


def test_what_is_left_out_has_a_default() -> None:
    definitions = parse(MINIMAL)
    assert definitions.stream == StreamSettings(30_000, 300_000, 86_400_000, 60_000)
    (meter,) = definitions.meters
    assert meter == Meter("requests", "api.request", "count")
    assert (meter.windows, meter.grace_ms, meter.group_by) == ((Window("PT1H", 3_600_000),), 5_000, ())
    assert (meter.timezone, meter.minimum, meter.version) == ("UTC", None, 1)
    assert not definitions.sources


@pytest.mark.parametrize("none", ["none", '"none"'])
def test_max_delay_none_means_no_automatic_ticks(none: str) -> None:
    assert parse(f"stream: {{max_delay: {none}}}\n{MINIMAL}").stream.max_delay_ms is None


@pytest.mark.parametrize("written", ["0.1", '"0.1"', "1e-1", ".1", "0.10000000000000000"])
def test_a_minimum_is_the_decimal_that_was_written_never_a_float(written: str) -> None:
    text = f"meters: [{{slug: a, event_type: t, aggregation: sum, value: /v, minimum: {written}}}]"
    assert parse(text).meters[0].minimum == Decimal("0.1")


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_problem_is_told_with_its_line_and_key(golden: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(golden.read_text(encoding="utf-8"), name=golden.name)
    assert f"{refused.value}\n" == golden.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "found nothing, expected an event type"),
        ("~", "found '~', which YAML takes for nothing; expected an event type (in quotes, if this is one)"),
        ("no", "found 'no', which YAML takes for true or false; expected an event type (in quotes, if this is one)"),
        ("1.10", "found '1.10', which YAML takes for a number; expected an event type (in quotes, if this is one)"),
        (
            "12:30:45",
            "found '12:30:45', which YAML takes for a number; expected an event type (in quotes, if this is one)",
        ),
        (
            "2026-01-31",
            "found '2026-01-31', which YAML takes for a date; expected an event type (in quotes, if this is one)",
        ),
        ("[a]", "found a list, expected an event type"),
        ("{a: b}", "found a mapping, expected an event type"),
        ("!!binary aGk=", "found 'aGk=', expected an event type"),
        ('""', "found 0 characters, expected an event type of 1 to 255"),
        ("meterline.tick", "found 'meterline.tick', but types meterline.* are the stream's own; expected another one"),
    ],
)
def test_a_text_is_a_text_whatever_yaml_makes_of_it(value: str, words: str) -> None:
    text = f"meters:\n- slug: a\n  aggregation: count\n  event_type: {value}\n"
    assert problems(text) == [f"4: meters[0].event_type: {words}"]


@pytest.mark.parametrize("value", ["no", "1.10", "12:30:45", "2026-01-31", "~"])
def test_in_quotes_it_is_what_it_says(value: str) -> None:
    assert parse(f"meters: [{{slug: a, aggregation: count, event_type: '{value}'}}]").meters[0].event_type == value


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ("{max_delay: }", "max_delay: found nothing, expected an ISO 8601 duration, like PT30S, or none"),
        (
            "{max_delay: 30}",
            "max_delay: found '30', which YAML takes for a number; expected an ISO 8601 duration, like",
        ),
        (
            "{max_delay: off}",
            "max_delay: found 'off', which YAML takes for true or false; expected an ISO 8601 duration",
        ),
        ("{max_delay: 30s}", "max_delay: '30s' is not an ISO 8601 duration; expected one like PT30S"),
        ("{correct_for: none}", "correct_for: 'none' is not an ISO 8601 duration; expected one like"),
        ("{correct_for: P1M}", "correct_for: 'P1M' is a calendar duration, and months and years have no fixed length"),
        ("{correct_for: P401D}", "correct_for: found 'P401D', expected at most P400D"),
    ],
)
def test_durations_are_durations(stream: str, words: str) -> None:
    (problem,) = problems(f"stream: {stream}\n{MINIMAL}")
    assert problem.startswith(f"1: stream.{words}")


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("none", "found 'none', expected UTC: other time zones are not supported yet"),
        ("Europe/Berlin", "found 'Europe/Berlin', expected UTC: other time zones are not supported yet"),
        ("utc", "found 'utc', expected UTC: other time zones are not supported yet"),
        ("", "found nothing, expected UTC"),
    ],
)
def test_the_only_time_zone_is_utc_and_it_says_so(zone: str, words: str) -> None:
    text = f"meters:\n- slug: a\n  event_type: t\n  aggregation: count\n  timezone: {zone}\n"
    assert problems(text) == [f"5: meters[0].timezone: {words}"]


def test_grace_is_at_most_what_the_stream_corrects_for() -> None:
    assert problems(f"stream: {{correct_for: PT1S}}\n{MINIMAL}") == [
        "2: meters[0]: grace is PT5S, expected at most the stream's correct_for, PT1S"
    ]


def test_at_most_sixteen_dimensions() -> None:
    def text(count: int) -> str:
        groups = ", ".join(f"d{number}: /d{number}" for number in range(count))
        return f"meters:\n- {{slug: a, event_type: t, aggregation: count, group_by: {{{groups}}}}}\n"

    assert len(parse(text(16)).meters[0].group_by) == 16
    assert problems(text(17)) == ["2: meters[0].group_by: found 17 dimensions, expected at most 16"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1: the file is empty, expected at least `meters:` with one meter"),
        ("# only a comment\n", "1: the file is empty, expected at least `meters:` with one meter"),
        ("meters:", "1: meters: found nothing, expected a list of meters"),
        ("stream: {}", "1: meters is missing, expected a list with at least one meter"),
        ("\nmeters: []", "2: meters: the list is empty, expected at least one meter"),
        ("- a", "1: found a list, expected a mapping with meters, and maybe stream and sources"),
        ("meters:\n\t- a", "2: this is not YAML: while scanning for the next token, found character '\\t'"),
        ("meters: [", "1: this is not YAML: while parsing a flow node, expected the node content"),
        ("meters: [{slug: a]", "1: this is not YAML: while parsing a flow mapping, expected ',' or '}'"),
        ("a: *b", "1: this is not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "2: this is not YAML: expected a single document in the stream, but found another"),
        ("a: \x01", "1: found a character YAML does not allow, U+0001"),
        ("[" * 5000, "1: found lists or mappings nested too deep to read"),
        ("meters:\n- &a\n  - *a", "2: meters[0]: found a list, expected a meter"),
    ],
)
def test_what_is_no_meters_file_is_refused_with_its_line(text: str, words: str) -> None:
    assert problems(text)[0].startswith(words)


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no such meters file -> write one .* set METERLINE_METERS"):
        load(tmp_path / "meters.yaml")


def test_a_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: .* -> set METERLINE_METERS"):
        load(tmp_path)


def test_a_file_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "meters.yaml"
    path.write_bytes(MINIMAL.encode() + b"\n# caf\xe9")
    with pytest.raises(ConfigurationError, match="is not UTF-8 -> save the meters file as UTF-8"):
        load(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "meters.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace(", ", ",\r\n  ").encode())
    assert load(path) == load(str(path)) == parse(MINIMAL)
