"""A quantity is the exact decimal that was written, or it is refused (design §5)."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal, Inexact
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.numbers import AVG, SUM, canonical_number, describe, format_quantity, quantity

QUANTITIES = st.builds(
    lambda whole, fraction, places, sign: sign * (Decimal(whole) + Decimal(fraction % 10**places).scaleb(-places)),
    st.integers(0, 10**20 - 1),
    st.integers(0, 10**18 - 1),
    st.integers(0, 18),
    st.sampled_from([1, -1]),
)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (0, "0"),
        (-5, "-5"),
        (10**20 - 1, "9" * 20),
        (Decimal("1.50"), "1.5"),
        (Decimal("1E+5"), "100000"),
        (Decimal("1E-18"), "0.000000000000000001"),
        (Decimal("100"), "100"),
        (Decimal("-0.0"), "0"),
        (Decimal("0E+400"), "0"),
        (Decimal("0E-400"), "0"),
        (Decimal("1." + "0" * 500), "1"),
        (Decimal("9" * 20 + "." + "9" * 18), "9" * 20 + "." + "9" * 18),
        ("1.5", "1.5"),
        ("+1.50", "1.5"),
        (".5", "0.5"),
        ("1E+5", "100000"),
        ("-0", "0"),
    ],
)
def test_a_quantity_is_what_was_written(found: object, text: str) -> None:
    assert format_quantity(quantity(found)) == text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "found null,"),
        (True, "found true,"),
        (False, "found false,"),
        (1.5, "found 1.5,"),
        (10**20, "found 100000000000000000000,"),
        (-(10**20), "found -100000000000000000000,"),
        (10**60, "found 1" + "0" * 39 + "…,"),
        (Decimal("1e400"), "found 1E+400,"),
        (Decimal("1E-19"), "found 1E-19,"),
        (Decimal("1E+20"), "found 1E+20,"),
        (Decimal("1.0000000000000000001"), "found 1.0000000000000000001,"),
        (Decimal("NaN"), "found NaN,"),
        (Decimal("sNaN"), "found sNaN,"),
        (Decimal("Infinity"), "found Infinity,"),
        (Decimal("-Infinity"), "found -Infinity,"),
        ("", "found the text '',"),
        ("abc", "found the text 'abc',"),
        ("NaN", "found the text 'NaN',"),
        ("Infinity", "found the text 'Infinity',"),
        ("1_000", "found the text '1_000',"),
        (" 1", "found the text ' 1',"),
        ("1,5", "found the text '1,5',"),
        ("0x10", "found the text '0x10',"),
        ("١", "found the text '١',"),
        ("1e400", "found 1E+400,"),
        ("1e99999999", "found the text '1e99999999',"),
        ("9" * 200, "found the text '" + "9" * 60 + "'…,"),
        ({}, "found an object,"),
        ([1], "found an array,"),
    ],
)
def test_what_is_no_quantity_is_refused_with_what_was_found_and_expected(found: object, words: str) -> None:
    with pytest.raises(DataError) as refused:
        quantity(found)
    assert refused.value.reason == "invalid"
    assert refused.value.detail.startswith(words)
    assert refused.value.detail.endswith(
        "expected a decimal number with at most 20 digits before and 18 after the point"
    )


@pytest.mark.parametrize("setting", ["0", "640", "100000"])
def test_which_numbers_can_be_read_is_no_setting_of_the_process(setting: str) -> None:
    read = "import msgspec, schemas.reader; msgspec.json.decode(b'9' * 4300); print('read'); msgspec.json.decode(b'9' * 4301)"
    environ = os.environ | {"PYTHONINTMAXSTRDIGITS": setting}
    done = subprocess.run([sys.executable, "-c", read], env=environ, capture_output=True, text=True)
    assert "Integer value out of range" in done.stderr and done.stdout == "read\n", done.stderr


def test_an_integer_too_long_to_be_printed_is_refused_all_the_same() -> None:
    with pytest.raises(DataError, match="found an integer of 16610 bits"):
        quantity(10**5000)


@given(QUANTITIES)
def test_every_valid_quantity_comes_back_from_its_text_unchanged(value: Decimal) -> None:
    text = format_quantity(value)
    assert "E" not in text
    assert not (text.endswith("0") and "." in text)
    assert quantity(text) == quantity(value) == value
    assert format_quantity(quantity(text)) == text


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_decimal_is_either_kept_exactly_or_refused(value: Decimal) -> None:
    small = not value or abs(value.adjusted()) < 100
    fits = small and (Fraction(value) * 10**18).denominator == 1 and abs(value) < 10**20
    try:
        assert quantity(value) == value
        assert fits
    except DataError:
        assert not fits


@given(st.lists(QUANTITIES, max_size=50))
def test_a_sum_is_exact_in_any_order(values: list[Decimal]) -> None:
    forth = back = Decimal(0)
    for value in values:
        forth = SUM.add(forth, value)
    for value in reversed(values):
        back = SUM.add(back, value)
    scaled = sum(int(value.scaleb(18)) for value in values)
    assert forth == back == Decimal(scaled).scaleb(-18, SUM)


def test_a_sum_that_would_have_to_be_rounded_is_an_error() -> None:
    with pytest.raises(Inexact):
        SUM.add(Decimal(10) ** 59, Decimal("0.01"))


def test_an_average_is_rounded_once_half_to_even_at_34_digits() -> None:
    assert str(AVG.divide(Decimal(2), Decimal(3))) == "0." + "6" * 33 + "7"
    assert AVG.divide(Decimal(10**34 + 5), Decimal(10)) == Decimal(10**33)


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity")])
def test_what_is_no_number_has_no_text(value: Decimal) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        format_quantity(value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (Decimal("1.0"), "1"),
        (Decimal("1E+2"), "100"),
        (10**60, "1" + "0" * 60),
        (Decimal("-0.0"), "0"),
        (Decimal("1.50E+999999"), "1.5E+999999"),
        (Decimal("0E+999999"), "0"),
        (Decimal("1E-999999"), "1E-999999"),
    ],
)
def test_equal_numbers_of_any_size_have_one_text_and_none_is_huge(number: int | Decimal, text: str) -> None:
    assert canonical_number(number) == text


def test_what_is_found_is_described_shortly() -> None:
    assert describe("x" * 1_000_000) == "the text '" + "x" * 60 + "'…"
    assert len(describe(Decimal("1." + "3" * 100_000))) < 50
    assert len(describe(object())) < 80
