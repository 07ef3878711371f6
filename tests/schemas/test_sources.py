"""A source turns foreign records into events without code: exact, repeatable, and no bad row ends the reading."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError, DataError
from schemas.events import RawEvent, decode, envelope
from schemas.meters import parse
from schemas.sources import Source, map_record, read_events, read_rows

CSV = """
  format: csv
  type: llm.inference
  source: /trace
  subject: "{Tenant}/{Plan}"
  id: "{row}"
  time: {from: At, format: "%Y-%m-%d %H:%M:%S.%f"}
  data:
    tokens: {from: Tokens, as: number}
    model: Model
    kind: {constant: chat}
    price: {constant: 0.10}
    sandbox: {constant: no}
    tries: {from: Tries, as: number, default: 1}
"""
NDJSON = """
  format: ndjson
  type: compute.job
  subject: "{/customer/id}"
  time: {from: /ended, format: epoch_s}
  data:
    cpu_seconds: /usage/cpu
    exact: {from: /usage/text, as: number}
    label: {from: /label, as: text}
    tags: /tags
"""
HEADER = b"At,Tenant,Plan,Tokens,Model,Tries\r\n"
ROW = b"2023-11-16 18:15:46.6805900,contoso,pro,374,gpt-4o,2\r\n"


def a_source(stanza: str, **changes: str) -> Source:
    """A source from its stanza, lines replaced by key."""
    lines = [line for line in stanza.strip("\n").split("\n") if line.split(":")[0].strip() not in changes]
    lines += [f"  {key}: {value}" for key, value in changes.items() if value]
    meters = "meters: [{slug: a, event_type: t, aggregation: count}]\nsources:\n x:\n"
    return parse(meters + "\n".join(lines)).sources["x"]


def events(source: Source, file: Iterable[bytes] | bytes) -> list[Any]:
    """What comes of a file: events as their JSON, and refusals as their words."""
    lines = file.splitlines(keepends=True) if isinstance(file, bytes) else file
    found = list(read_events(source, lines))
    return [event.detail if isinstance(event, DataError) else orjson.loads(orjson.dumps(event)) for _, event in found]


def test_a_csv_row_becomes_a_cloudevent() -> None:
    assert events(a_source(CSV), HEADER + ROW) == [
        {
            "specversion": "1.0",
            "id": "2",
            "source": "/trace",
            "type": "llm.inference",
            "subject": "contoso/pro",
            "time": "2023-11-16T18:15:46.680Z",
            "datacontenttype": "application/json",
            "data": {"tokens": 374, "model": "gpt-4o", "kind": "chat", "price": 0.1, "sandbox": False, "tries": 2},
        }
    ]


def test_a_json_object_becomes_a_cloudevent() -> None:
    line = (
        b'{"customer":{"id":17},"ended":1700158546.5,"usage":{"cpu":1.50,"text":"007"},"label":true,"tags":["a",1e2]}\n'
    )
    (event,) = events(a_source(NDJSON), b"\n" + line)
    assert event["source"] == "/sources/x"
    assert event["subject"] == "17"
    assert event["time"] == "2023-11-16T18:15:46.500Z"
    assert event["data"] == {"cpu_seconds": 1.5, "exact": "007", "label": "true", "tags": ["a", 100.0]}
    assert event["id"].startswith("2-"), "empty lines count, so that a row is a line of the file"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("374", b"374"),
        ("0.10", b"0.10"),
        ("-1.5E+3", b"-1.5E+3"),
        ("12345678901234567890.123456789012345678", b"12345678901234567890.123456789012345678"),
        ("+1", b'"+1"'),
        (".5", b'".5"'),
        ("007", b'"007"'),
    ],
)
def test_a_number_leaves_with_the_digits_it_came_with(written: str, sent: bytes) -> None:
    source = a_source(CSV)
    record = {"At": "2023-11-16 18:15:46.0", "Tenant": "a", "Plan": "b", "Tokens": written, "Model": "", "Tries": ""}
    assert b'"tokens":' + sent + b"," in orjson.dumps(map_record(source, record, 1))


@pytest.mark.parametrize("written", ["0.10", "1E+400", "123456789012345678901234567890", "-0.0", "9007199254740993"])
def test_a_json_number_is_copied_through_as_it_is(written: str) -> None:
    line = f'{{"customer":{{"id":1}},"ended":1700158546,"usage":{{"cpu":{written},"text":"{0}"}},"label":""}}'.encode()
    ((_, event),) = read_events(a_source(NDJSON), [line])
    assert isinstance(event, dict)
    assert b'"cpu_seconds":' + written.encode() + b"," in envelope([event])


QUANTITIES = st.decimals(min_value=-(10**19), max_value=10**19, places=9, allow_nan=False)


@given(QUANTITIES)
def test_no_digit_is_lost_between_a_csv_and_a_decoded_event(value: Decimal) -> None:
    row = f"2023-11-16 18:15:46.0,a,b,{value},m,\n".encode()
    ((_, event),) = read_events(a_source(CSV), [HEADER, row])
    assert isinstance(event, dict)
    (raw,) = decode(envelope([event]))
    assert isinstance(raw, RawEvent)
    assert f'"tokens":{value},'.encode() in bytes(raw.data)


def test_a_bad_row_is_an_answer_and_never_ends_the_reading() -> None:
    bad = [
        ROW.replace(b"374", b"many"),
        ROW.replace(b"374", b""),
        ROW.replace(b"2023-11-16 ", b"16.11.2023 "),
        ROW.replace(b"contoso", b""),
        ROW.replace(b"contoso", b"cont\xffoso"),
        ROW.replace(b",gpt-4o", b""),
        ROW.replace(b"gpt-4o", b'"gpt"4o'),
        b"\r\n",
        ROW.replace(b"2\r\n", b"1e40\r\n"),
    ]
    found = events(a_source(CSV), [HEADER, *[line for row in bad for line in (row, ROW)]])
    expected = "expected a decimal number with at most 20 digits before and 18 after the point"
    assert [answer for answer in found if isinstance(answer, str)] == [
        f"row 2: column Tokens: found the text 'many', {expected}",
        "row 4: column Tokens: found nothing, expected a value",
        "row 6: column At: found '16.11.2023 18:15:46.6805900', expected a time like %Y-%m-%d %H:%M:%S.%f",
        "row 8: column Tenant: found nothing, expected a value",
        "row 10: column Tenant: found bytes that are not UTF-8, expected text",
        "row 12: found 5 columns, expected 6",
        "row 14: found no CSV in lines 14 to 14: ',' expected after '\"'",
        "row 18: column Tries: found 1E+40, " + expected,
    ]
    assert [answer["id"] for answer in found if isinstance(answer, dict)] == [str(row) for row in range(3, 20, 2)]


def test_a_bad_line_of_json_is_an_answer_and_never_ends_the_reading() -> None:
    good = b'{"customer":{"id":1},"ended":1700158546,"usage":{"cpu":1,"text":"2"},"label":"x"}'
    bad = [
        b"not json",
        b"[1]",
        b'{"a":\xff}',
        b'{"ended":1,"ended":2}',
        b'{"a":' + b"[" * 100_000,
        good.replace(b'"id":1', b'"id":{}'),
        good.replace(b'{"id":1}', b"{}"),
        good.replace(b'"2"', b'"two"'),
        good.replace(b"1700158546", b'"soon"'),
        good.replace(b'"x"', b"[]"),
    ]
    found = events(a_source(NDJSON), [line for row in bad for line in (row, good)])
    words = [answer for answer in found if isinstance(answer, str)]
    starts = [
        "row 1: found no JSON (",
        "row 3: found an array, expected a JSON object",
        "row 5: found no JSON (",
        "row 7: found the key 'ended' more than once in one object",
        "row 9: found more than 128 levels of objects and arrays",
        "row 11: /customer/id: found an object, expected a scalar",
        "row 13: /customer/id: found nothing, expected a value",
        "row 15: /usage/text: found the text 'two', expected a decimal number",
        "row 17: /ended: found the text 'soon', expected a decimal number",
        "row 19: /label: found an array, expected a scalar",
    ]
    assert [word[: len(start)] for word, start in zip(words, starts, strict=True)] == starts
    assert len(found) == 20


def test_the_id_is_the_same_for_the_same_file_and_tells_equal_rows_apart() -> None:
    source = a_source(CSV, id="")
    first, second = events(source, HEADER + ROW + ROW), events(source, HEADER + ROW + ROW)
    assert first == second
    assert len({event["id"] for event in first}) == 2
    assert first[0]["id"].startswith("2-")


def test_a_content_hash_depends_on_the_content_and_on_nothing_else() -> None:
    source = a_source(CSV, id='"{hash}"')
    ids = [event["id"] for event in events(source, HEADER + ROW + ROW + ROW.replace(b"374", b"375"))]
    assert ids[0] == ids[1] != ids[2]
    line = b'{"customer":{"id":1},"ended":1700158546,"usage":{"cpu":1,"text":"2"},"big":123456789012345678901234567890}'
    spaced = line.replace(b",", b" , ")
    job = a_source(NDJSON, id='"{hash}"')
    assert [event["id"] for event in events(job, [line])] == [event["id"] for event in events(job, [spaced])]


def test_columns_can_be_named_by_the_stanza_and_parted_by_another_character() -> None:
    source = a_source(CSV, columns="[At, Tenant, Plan, Tokens, Model, Tries]", delimiter='"\\t"')
    (event,) = events(source, ROW.replace(b",", b"\t"))
    assert event["id"] == "1"
    assert event["data"]["tokens"] == 374


def test_braces_are_written_twice() -> None:
    (event,) = events(a_source(CSV, subject='"{{{Tenant}}}"'), HEADER + ROW)
    assert event["subject"] == "{contoso}"


def test_quoted_cells_may_hold_anything_and_a_byte_order_mark_does_no_harm() -> None:
    row = ROW.replace(b"gpt-4o", b'"a ""model"",\r\nin two lines"')
    first, second = events(a_source(CSV), b"\xef\xbb\xbf" + HEADER + row + ROW)
    assert first["data"]["model"] == 'a "model",\r\nin two lines'
    assert (first["id"], second["id"]) == ("2", "3"), "rows count as a spreadsheet's do"


def test_a_file_that_lacks_a_column_is_refused_before_the_first_row() -> None:
    with pytest.raises(ConfigurationError) as refused:
        list(read_rows(a_source(CSV), [HEADER.replace(b"Tokens", b"tokens"), ROW]))
    assert str(refused.value).startswith("source x: the file has no column Tokens; its first row is 'At', 'Tenant',")


def test_a_file_that_names_a_column_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names a column twice"):
        list(read_rows(a_source(CSV), [HEADER.replace(b"Tries", b"Model"), ROW]))


def test_an_empty_file_has_no_events() -> None:
    assert events(a_source(CSV), b"") == events(a_source(CSV), HEADER) == events(a_source(NDJSON), b"\n\n") == []


def test_a_text_that_is_missing_is_left_out_and_a_default_stands_in_for_a_number() -> None:
    (event,) = events(a_source(NDJSON), [b'{"customer":{"id":1},"ended":1700158546,"usage":{"cpu":null,"text":"2"}}'])
    assert event["data"] == {"cpu_seconds": None, "exact": 2}
    (event,) = events(a_source(CSV), HEADER + ROW.replace(b",2\r\n", b",\r\n"))
    assert event["data"]["tries"] == 1


def test_a_row_without_a_time_is_refused() -> None:
    no_time = b",contoso,pro,374,gpt-4o,2\r\n"
    assert events(a_source(CSV), HEADER + no_time) == ["row 2: column At: found nothing, expected a value"]


def test_a_record_cannot_take_a_type_that_is_the_streams_own() -> None:
    assert events(a_source(CSV, type='"{Model}"'), HEADER + ROW.replace(b"gpt-4o", b"meterline.tick")) == [
        "row 2: found the type 'meterline.tick', but meterline.* is the stream's own"
    ]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=5))
def test_every_cell_of_a_well_formed_csv_arrives(rows: list[list[str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([["A", "B"], *rows])
    source = a_source("  {format: csv, type: t, subject: s, time: A, data: {b: B}}")
    found = [record for _, record in read_rows(source, io.BytesIO(file.getvalue().encode()))]
    assert found == [{"A": first, "B": second} for first, second in rows]


def test_a_header_that_is_not_utf_8_is_refused_with_its_column() -> None:
    """Also of a column that nothing reads: the default id is made of all of them."""
    file = ["a,b,Gr\u00f6\u00dfe\n".encode("latin-1"), b"1,2,3\n"]
    with pytest.raises(
        ConfigurationError, match="column 3 of the file's first row is not UTF-8 -> save the file as UTF-8"
    ):
        list(read_rows(a_source(CSV), file))
