"""Read by its shape or exactly, an event means the same; and what has no shape is left alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.columns import Columns, readable, shaped
from schemas.definitions import Definitions, Meter
from schemas.errors import DataError
from schemas.events import RawEvent, decode
from schemas.reader import Measured, Measurement, Reader
from schemas.shapes import MOST, VALUES_MOST, Shape, Shapes
from schemas.texts import Texts
from schemas.written import Scaled
from tests.schemas.samples import a_meter, event_bytes
from tests.schemas.test_plain import ODD, PLAIN, TAKEN

METERS = (
    a_meter(slug="sum"),
    a_meter("count", None, slug="count", group_by={"model": "/model"}),
    a_meter("latest", "/more/deep", slug="deep", minimum=Decimal(-1)),
    a_meter("max", slug="most", group_by={"model": "/model", "zone": "/zone"}),
    a_meter("unique_count", "/user", slug="users"),
)


def texts_of(values: Sequence[bytes | None]) -> Texts:
    """Values of records, one behind the other."""
    return Texts.of([value or b"" for value in values])


def measured(event: RawEvent, reader: Reader) -> Measured | None:
    """None for one that is invalid."""
    try:
        return reader.measure(event)
    except DataError:
        return None


def agree(values: Sequence[bytes | None], meters: tuple[Meter, ...] = METERS, shapes: Shapes | None = None) -> set[int]:
    """Whatever has a shape is what exact decoding and reading says of it. The numbers of the records that were left."""
    reader = Reader(Definitions(meters=meters))
    found, left = (shapes or Shapes()).split(texts_of(values), None)
    seen: dict[int, set[int]] = {}
    for matched in found:
        names = matched.shape.attributes
        for kind, events in matched.told_apart(names["type"]).items():
            texts = [
                [text.decode() for text in events.texts(names[name]).tolist()]
                for name in ("id", "source", "subject", "time")
            ]
            plan = reader.plan(kind)
            columns = shaped(plan, events) if plan is not None and readable(plan, matched.shape) else None
            for row, (number, place) in enumerate(zip(events.records.tolist(), events.places.tolist(), strict=True)):
                assert place not in seen.setdefault(number, set())
                seen[number].add(place)
                exact = decode(values[number])[place]
                assert isinstance(exact, RawEvent), values[number]
                assert [column[row] for column in texts] == [exact.id, exact.source, exact.subject, exact.time]
                assert exact.type == kind
                if columns is not None and row not in columns.odd:
                    assert _row(columns, row) == measured(exact, reader)
    for number, places in seen.items():
        assert places == set(range(len(decode(values[number])))), "of a record all events, or none"
    assert sorted([*seen, *left]) == list(range(len(values)))
    return set(left)


def _row(columns: Columns, row: int) -> Measured:
    def of(slot: Any, nothing: Any = None) -> Any:
        if slot is None:
            return nothing
        if isinstance(slot, Scaled):
            return Decimal(int(slot.units[row])).scaleb(-slot.places)
        return slot.names[slot.codes[row]] if hasattr(slot, "codes") else slot[row]

    slots = columns.slots
    measurements = [
        Measurement(meter, of(slots[group], ()), of(slots[amount]), of(slots[member]))
        for meter, group, amount, member in columns.plan.meters
    ]
    subject = columns.subjects.names.text(columns.subjects.codes[row]).decode()
    return Measured(int(columns.times_ms[row]), subject, tuple(measurements))


def drawn(rng: random.Random, kind: int) -> bytes:
    """An event of one of a few producers."""
    number = rng.choice(["0", "7", "4095", "0.5", "-1", "-0.0", "12.250", "1099511627776", "0.1234567890123456789"])
    tokens: Any
    tokens, deep = (orjson.Fragment((number if rng.random() < 0.1 else str(rng.randrange(99))).encode()) for _ in "ab")
    if kind == 0:  # as a text, as meterline-client writes decimals
        written = ["12.5"] * 30 + ["1e3", "+7", ".5", "1.", "007", "", "no", "-1", "1" * 30]
        tokens = rng.choice([str(rng.randrange(99)), rng.choice(written)])
    data: dict[str, Any] = {
        "tokens": tokens,
        "model": rng.choice(["a", "b", "", "ü" * 300]),
        "user": f"u{rng.randrange(9)}",
    }
    if kind != 2:
        data["more"] = {"deep": deep, "list": [True, None, {"x": "y"}]}
    if kind == 1:
        data = {"zone": rng.choice(["west", "north"]), **data}
    time = rng.choice(
        ["2026-01-31T12:00:00.000Z"] * 9 + ["2026-02-28T23:59:59.999Z", "2026-01-31T12:00:00Z", "soon", ""]
    )
    more: dict[str, Any] = {"traceparent": f"00-{rng.randrange(99)}"} if kind == 1 else {}
    return event_bytes(
        id=f"e-{rng.randrange(1 << rng.choice([4, 60]))}",
        source=rng.choice(["/a", "/b", "/ü"]),
        type=rng.choice(["api.request", "api.request", "other"]),
        subject=rng.choice(["contoso", "ü & co", "x" * 513, "x" * 129]),
        time=time,
        data=data,
        **more,
    )


@pytest.mark.parametrize("seed", range(60))
def test_what_has_a_shape_means_what_exact_reading_says(seed: int) -> None:
    rng = random.Random(seed)
    shapes = Shapes()
    for _ in range(3):
        values = []
        for _ in range(rng.choice([1, 4, 60])):
            kind = rng.randrange(3)
            events = [drawn(rng, kind) for _ in range(rng.choice([1, 1, 5]))]
            values.append(events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]")
        left = agree(values, shapes=shapes)
        assert len(left) < len(values) or len(values) < 3


@pytest.mark.parametrize("seed", range(150))
def test_bytes_that_were_changed_are_found_out_or_mean_what_they_say(seed: int) -> None:
    """Letters replaced, taken out, put in and doubled, in single events and in envelopes, among good ones."""
    rng = random.Random(seed)
    letters = b'{}[]",:0123456789.-+eE\\ \n\ttrufalsn\x00\x7f\xff\xc3a'
    values: list[bytes | None] = []
    for _ in range(60):
        events = [drawn(rng, seed % 3) for _ in range(rng.choice([1, 3]))]
        value = bytearray(events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]")
        for _ in range(rng.choice([0, 1, 1, 2])):
            at = rng.randrange(len(value))
            end = at + rng.choice([0, 1, 1, 8])
            value[at:end] = rng.choice(
                [b"", bytes(rng.choices(letters, k=rng.randint(1, 3))), bytes(value[at:end]) * 2]
            )
        values.append(bytes(value))
    agree(values)


NUMBERS = {
    "0": True, "-0": True, "7": True, "10": True, "0.5": True, "-12.250": True, "123456789012345678901234567890": True,
    "01": False, "-01": False, "00.5": False, "1.": False, ".5": False, "-": False, "+1": False, "1e3": False, "1E2": False,
    "--1": False, "1-": False, "1.2.3": False, "-.5": False, "": False, " 1": False, "1 ": False, "true": False, "[1]": False,
    "{}": False, "1,2": False, "NaN": False, "0x1": False, "1_0": False,
}  # fmt: skip


@pytest.mark.parametrize("written", NUMBERS)
def test_a_number_is_what_json_calls_one_without_an_exponent(written: str) -> None:
    good, value = (b'{"tokens":%b,"model":"m"}' % text for text in (b"5", written.encode()))
    head = event_bytes(data=...)[:-1] + b',"data":'
    for place in range(3):
        values = [head + good + b"}"] * 3
        values[place] = head + value + b"}"
        shapes = Shapes()
        assert agree([head + good + b"}"], shapes=shapes) == set()
        left = agree(values, (a_meter(),), shapes)
        assert left == (set() if NUMBERS[written] else {place}) or written in ("true", "{}", "[1]", "1 ", " 1")


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_what_is_odd_is_left_alone_or_read_exactly(value: bytes | None) -> None:
    assert agree([PLAIN] * 3 + [value] + [PLAIN] * 3) <= {3}
    agree([value])


@pytest.mark.parametrize(
    "name", ["plain", "an envelope", "white space behind colons", "letters beyond ASCII", "no data"]
)
def test_what_is_usual_has_a_shape(name: str) -> None:
    assert agree([TAKEN[name]]) == set()


def test_an_envelope_of_several_shapes_is_read_by_them() -> None:
    """As many are learned from a batch as may be; the next ones know them."""
    kinds = [event_bytes(id=str(n), data={f"key{n % 3}": n, "text": "t"}) for n in range(9)]
    shapes = Shapes()
    assert agree([b"[" + b",".join(kinds) + b"]"], shapes=shapes) == {0}, "two of three are learned"
    assert (
        agree([b"[" + b",".join(kinds) + b"]", kinds[1], b"[" + b",".join(kinds[::-1]) + b"]"], shapes=shapes) == set()
    )


def test_an_extension_costs_nothing() -> None:
    assert agree([event_bytes(traceparent="00"), event_bytes(id="2", traceparent="01")]) == set()


@pytest.mark.parametrize(
    "event",
    [
        ODD["a key of data twice"],
        ODD["an attribute twice"],
        ODD["data in base64"],
        ODD["a list for data"],
        ODD["no subject"],
        ODD["an escape"],
        event_bytes(time=...),
        event_bytes(data=orjson.Fragment(b'{"tokens":1e3}')),
        event_bytes(data=orjson.Fragment(b'{"list":[1,2]}')),
        event_bytes(specversion="0.3"),
        event_bytes(data={"list": ["x"] * VALUES_MOST}),
        event_bytes(data={f"key-{number}": number for number in range(VALUES_MOST)}),
        b" [" + PLAIN + b"]",
        b"[[" + PLAIN + b"]]",
        PLAIN[:-1],
        b"",
    ],
)
def test_what_no_shape_is_learned_from(event: bytes) -> None:
    assert Shape.of(event) is None


@pytest.mark.parametrize(
    "value",
    [
        b"[" + PLAIN + b"," + PLAIN,
        PLAIN + b"," + PLAIN + b"]",
        b"[" + PLAIN + b", " + PLAIN + b"]",
        b"[" + PLAIN + PLAIN + b"]",
        b"[" + PLAIN + b"," + PLAIN + b",]",
        b"[," + PLAIN + b"," + PLAIN + b"]",
        PLAIN + PLAIN,
        PLAIN + b"," + PLAIN,
        b"[" + PLAIN + b"];[" + PLAIN + b"]",
        b"[" + PLAIN + b";" + PLAIN + b"]",
        b"[" + PLAIN + b"," + PLAIN + b"}",
        b"[" + PLAIN + b")",
        b"{" + PLAIN + b"}",
        b'["",' + PLAIN + b"]",
    ],
)
def test_an_envelope_that_is_not_made_of_commas_and_brackets_alone_is_left(value: bytes) -> None:
    shapes = Shapes()
    assert agree([PLAIN], shapes=shapes) == set()
    assert agree([PLAIN, value, b"[" + PLAIN + b"]"], shapes=shapes) == {1}


def test_two_records_are_never_read_as_one() -> None:
    """Cut where it may be: between the two halves there is no text that goes on."""
    for at in range(1, len(PLAIN)):
        agree([PLAIN, PLAIN[:at], PLAIN[at:], PLAIN])


def test_headers_of_binary_mode_are_not_looked_at() -> None:
    assert Shapes().split(texts_of([PLAIN, PLAIN]), np.array([True, False]))[1] == [1]


def test_so_many_shapes_are_remembered_and_those_of_use_stay() -> None:
    shapes = Shapes()
    usual = [event_bytes(data={"tokens": 1})]
    agree(usual, shapes=shapes)
    for number in range(3 * MOST):
        agree([*usual, event_bytes(data={"tokens": 1, f"key{number}": "x"})], shapes=shapes)
    assert len(shapes._shapes) == MOST
    first = Shape.of(usual[0])
    assert first is not None and first.constants in [shape.constants for shape in shapes._shapes[:2]]


def test_more_types_than_are_looked_for_at_once_are_all_told_apart() -> None:
    values = [
        event_bytes(id=str(number), type=f"kind-{number % 20}" if number % 3 else "api.request") for number in range(99)
    ]
    assert agree(values) == set()


def test_quantities_written_as_texts_are_read_together_too() -> None:
    reader = Reader(Definitions(meters=(a_meter(),)))
    plan = reader.plan("api.request")
    assert plan is not None
    ((matched,), left) = Shapes().split(
        texts_of([event_bytes(data={"tokens": text}) for text in ("12.5", "7", "0.25")]), None
    )
    read = shaped(plan, matched)
    assert readable(plan, matched.shape) and left == [] and read.odd == set()
    assert read.slots[1].units.tolist() == [1250, 700, 25] and read.slots[1].places == 2
