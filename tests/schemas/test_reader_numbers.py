"""A JSON number becomes the decimal that was written, whatever its size, and never passes through a float (design §5)."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.numbers import format_quantity
from tests.schemas.samples import a_meter, measure, refusal, with_data


def quantity_of(written: str) -> Decimal:
    """What a sum makes of a number as it is written in JSON."""
    found = measure(with_data(f'{{"tokens":{written}}}')).measurements[0].quantity
    assert type(found) is Decimal
    return found


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("12", "12"),
        ("0.1", "0.1"),
        ("1.50", "1.5"),
        ("1E5", "100000"),
        ("1e-18", "0.000000000000000001"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("-0e5", "0"),
        ("0e99999", "0"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551617", "18446744073709551617"),
        ("12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
        ("0.30000000000000004", "0.30000000000000004"),
        ('"0.1"', "0.1"),
        ('"12345678901234567890.123456789012345678"', "12345678901234567890.123456789012345678"),
    ],
)
def test_it_is_the_decimal_that_was_written(written: str, text: str) -> None:
    assert format_quantity(quantity_of(written)) == text


@pytest.mark.parametrize(
    "written", ["1" * 60, "1e400", "-1e400", "1e-400", "1e99999999999999999999", "1e-99999999999999999999", "1e20"]
)
def test_what_no_quantity_can_be_is_refused_and_never_infinite(written: str) -> None:
    found = refusal(with_data(f'{{"tokens":{written}}}'))
    assert found.startswith("meter meter: /tokens: found ")
    assert "inf" not in found.lower()


@given(
    st.integers(-(10**20) + 1, 10**20 - 1),
    st.text("0123456789", max_size=18),
    st.sampled_from(["", "e0", "E+0", "e-0"]),
)
def test_every_number_within_bounds_is_kept_digit_by_digit(whole: int, fraction: str, exponent: str) -> None:
    written = f"{whole}.{fraction}{exponent}" if fraction else f"{whole}{exponent}"
    assert quantity_of(written) == Decimal(written)
    assert quantity_of(f'"{written}"') == Decimal(written)


@given(st.integers(-(10**60), 10**60))
def test_integers_of_sixty_digits_group_exactly(number: int) -> None:
    event = with_data(f'{{"tokens":1,"n":{number}}}')
    assert measure(event, a_meter(group_by={"n": "/n"})).measurements[0].group == (("n", str(number)),)
