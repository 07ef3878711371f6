"""Read column by column or one by one, an event means the same."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import orjson
import pytest

from schemas.columns import Coded, columns
from schemas.definitions import Definitions, Meter
from schemas.errors import DataError
from schemas.events import RawEvent, decode
from schemas.plain import decode_plain
from schemas.reader import Measured, Reader
from schemas.written import Scaled
from tests.schemas.samples import a_meter, event_bytes

METERS = (
    a_meter(slug="sum"),
    a_meter("count", None, slug="count", group_by={"model": "/model"}),
    a_meter("max", "/more/deep", slug="deep", minimum=Decimal(-1)),
    a_meter(slug="least", minimum=Decimal("0.5"), group_by={"model": "/model", "user": "/user"}),
    a_meter("unique_count", "/user", slug="users"),
)
TIMES = (
    "2026-01-31T12:00:00.000Z", "2026-02-28T23:59:59.999Z", "1970-01-01T00:00:00.000Z", "9999-12-30T23:59:59.999Z",
    "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456Z", "2026-01-31T13:00:00.000+01:00", "2026-01-31T12:00:60.000Z",
    "2026-02-30T12:00:00.000Z", "2026-01-31T24:00:00.000Z", "2026-01-31T12:60:00.000Z", "1969-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59.999Z", "2026-01-31T12:00:00.1Z", "2026-01-31T12:00:00.12+00:00", "2026-01-31T12:00:00+00:00",
    "2026-01-31T12:00:00.Z", "2026-01-31T12:00:00.123-00:00", "2026-01-31T12:00:00.123+00:01", "2000-02-29T12:00:00Z",
    "2100-02-29T12:00:00Z", "2024-02-29T00:00:00.999999999Z", "2026-04-31T12:00:00Z", "2026-13-01T12:00:00Z",
    "2026-00-10T12:00:00Z", "2026-01-00T12:00:00Z", "2026-01-31t12:00:00z", "2026-01-31T12:00:0\u0661Z",
    "2026-01-31 12:00:00.000Z", "2026-01-3\u0661T12:00:00.000Z", "now", "",
)  # fmt: skip
NUMBERS: tuple[object, ...] = (1, 0, -1, 4095, 1 << 39, 1 << 40, "1.5", "1e3", "no", True, None, [], "MISSING")
FRACTIONS = (
    "10000000000000000000",
    "100000000000000000000",
    "0.5",
    "1.50",
    "-0.0",
    "1E2",
    "1e-19",
    "1e99999999999999999999",
)
TEXTS: tuple[object, ...] = ("gpt-4o", "", "m\u00f6bel", "x" * 600, "x" * 300, None, True, 7, {}, "MISSING")


def singly(reader: Reader, value: bytes) -> Measured | None:
    (event,) = decode(value)
    assert isinstance(event, RawEvent)
    try:
        return reader.measure(event)
    except DataError:
        return None


def agree(values: list[bytes], meters: tuple[Meter, ...]) -> int:
    """What every column says is what the reader says, or the event is odd. How many are not."""
    reader = Reader(Definitions(meters=meters))
    plain, odd = decode_plain(values)
    assert odd == []
    plan = reader.plan("api.request")
    assert plan is not None
    read = columns(plan, plain.events)
    for number, value in enumerate(values):
        expected = singly(reader, value)
        if number in read.odd:
            continue
        assert expected is not None, value
        found = [
            (
                meter,
                _of(read.slots[group], number, ()),
                _of(read.slots[amount], number),
                _of(read.slots[member], number),
            )
            for meter, group, amount, member in plan.meters
        ]
        subject = read.subjects.names.text(read.subjects.codes[number]).decode()
        assert (int(read.times_ms[number]), subject) == (expected.time_ms, expected.subject)
        assert found == [tuple(measurement) for measurement in expected.measurements]
    return len(values) - len(read.odd)


def _of(slot: Any, number: int, nothing: Any = None) -> Any:
    if isinstance(slot, Scaled):
        return Decimal(int(slot.units[number])).scaleb(-slot.places)
    if isinstance(slot, Coded):
        return slot.names[slot.codes[number]]
    return nothing if slot is None else slot[number]


def drawn(rng: random.Random, wild: float) -> bytes:
    """An event, any part of which may be strange."""

    def draw(usual: Any, strange: Any) -> Any:
        return rng.choice(strange) if rng.random() < wild else usual

    data = {
        "tokens": draw(rng.randrange(5000), NUMBERS),
        "model": draw("gpt-4o", TEXTS),
        "user": draw("u-1", TEXTS),
        "more": {"deep": draw(3, NUMBERS)},
    }
    if rng.random() < wild:
        data["tokens"] = orjson.Fragment(rng.choice(FRACTIONS).encode())
    data = {name: value for name, value in data.items() if not (isinstance(value, str) and value == "MISSING")}
    subject = draw("contoso", ["x" * 128, "x" * 129, "x" * 512, "x" * 513, "\u20ac" * 170, "\u20ac" * 171])
    value = event_bytes(time=draw(TIMES[0], TIMES), subject=subject, data=data)
    return value if rng.random() > wild / 10 else event_bytes(data=...)


@pytest.mark.parametrize("seed", range(80))
def test_columns_and_reader_agree(seed: int) -> None:
    rng = random.Random(seed)
    wild = rng.choice([0.0, 0.02, 0.1, 0.4])
    values = [drawn(rng, wild) for _ in range(rng.choice([1, 5, 40]))]
    taken = agree(values, METERS)
    assert taken == len(values) if wild == 0.0 else taken >= 0


@pytest.mark.parametrize("time", TIMES)
def test_a_time_is_read_as_the_reader_reads_it(time: str) -> None:
    plain = decode_plain([event_bytes(time=time)] * 3 + [event_bytes(time=TIMES[1])])[0]
    if plain.events:  # one with an escape is no plain event
        agree([event_bytes(time=time)] * 3, (a_meter(),))
        agree([event_bytes(time=time), event_bytes(time=TIMES[1])], (a_meter(),))


def quantities(*written: str) -> Any:
    """The column of quantities that were written so."""
    plan = Reader(Definitions(meters=(a_meter(),))).plan("api.request")
    assert plan is not None
    events = decode_plain([event_bytes(data={"tokens": orjson.Fragment(text.encode())}) for text in written])[0].events
    return columns(plan, events).slots[1]


@pytest.mark.parametrize(
    ("written", "places"),
    [
        (["1", "2"], 0),
        (["1", "2.5"], 1),
        (["0.25", "100.0", "7"], 2),
        (["0.000001", "999999.999999"], 6),
        (["1099511627775", "0"], 0),
        (["-0.5", "-0.0", "-12.25"], 2),
        (["1.50"], 2),
    ],
)
def test_what_fits_into_a_machine_word_is_summed_as_whole_numbers(written: list[str], places: int) -> None:
    found = quantities(*written)
    assert isinstance(found, Scaled) and found.places == places
    assert [Decimal(unit).scaleb(-places) for unit in found.units.tolist()] == list(map(Decimal, written))


@pytest.mark.parametrize(
    ("written", "refused"),
    [
        (["1099511627776"], ()),
        (["0.5", "1099511627776"], ()),
        (["0.000000000001", "1.5"], ()),
        (["1.5", "1e3"], ()),
        (["0.1000000000000000001", "0.5"], (0,)),
        (["123456789012345678901.5", "1.5"], (0,)),
        (["18446744073709551616", "1.5"], ()),
        (["0.123456789", "1234.5"], ()),
    ],
)
def test_what_does_not_is_a_decimal(written: list[str], refused: tuple[int, ...]) -> None:
    found = quantities(*written)
    assert found == [Decimal(0) if n in refused else Decimal(text) for n, text in enumerate(written)]


@pytest.mark.parametrize("seed", range(40))
def test_numbers_that_were_drawn_come_out_as_they_were_written(seed: int) -> None:
    rng = random.Random(seed)
    places, whole = rng.randint(0, 7), rng.randint(1, 5)
    written = []
    for _ in range(rng.choice([1, 3, 500])):
        drawn_places = rng.randint(0, places)
        number = Decimal(rng.randrange(10 ** (drawn_places + whole))).scaleb(-drawn_places)
        written.append(rng.choice(["", "-"]) + f"{number:f}")
    plan = Reader(Definitions(meters=(a_meter(minimum=None),))).plan("api.request")
    assert plan is not None
    events = [event_bytes(data={"tokens": orjson.Fragment(text.encode())}) for text in written]
    found = columns(plan, decode_plain(events)[0].events).slots[1]
    assert isinstance(found, Scaled)
    assert [Decimal(unit).scaleb(-found.places) for unit in found.units.tolist()] == list(map(Decimal, written))
