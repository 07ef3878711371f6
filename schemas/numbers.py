"""Numbers: exact decimals from the wire to the document (design §5). No binary float in here, and none that gets in.

Valid are at most 20 digits before the point and 18 after it, judged by value: `1.50` and `1.5` are the same number.
"""

from __future__ import annotations

import re
import sys
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)

from schemas.errors import DataError

INTEGER_DIGITS = 20
FRACTION_DIGITS = 18
READ_DIGITS = 4300
"""An event with a longer integer anywhere in it is invalid: msgspec reads none. A process may be set to read less than that
(PYTHONINTMAXSTRDIGITS), but what becomes of an event depends on nothing but the log (design §2)."""
sys.set_int_max_str_digits(READ_DIGITS)

SUM = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
"""Sums run here: 60 digits, and an inexact result is an error, never a rounded total. Immutable by convention."""
AVG = Context(prec=34, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
"""An average is rounded once, at its end, here: 34 digits, half-even."""

_VALID = Context(prec=INTEGER_DIGITS + FRACTION_DIGITS, traps=[InvalidOperation, Overflow, Inexact])
_EXACT = Context(prec=10_000, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Overflow, Inexact])
_QUANTUM = Decimal(1).scaleb(-FRACTION_DIGITS)
_BOUND = 10**INTEGER_DIGITS
_ZERO = Decimal(0)
_SMALL = {number: Decimal(number) for number in range(1024)}
_TEXT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,6})?\Z", re.ASCII)
_TEXT_MAX = 128
_EXPECTED = (
    f"expected a decimal number with at most {INTEGER_DIGITS} digits before and {FRACTION_DIGITS} after the point"
)


def quantity(value: object) -> Decimal:
    """The exact quantity of what JSON decoded: an int, a Decimal, or a decimal text such as `"1.5"`.

    Equal quantities come back equal, zero is never negative. Raises DataError("invalid", …) for everything else: bool,
    null, float, NaN and Infinity, more than 20 digits before or 18 after the point (design §5).
    """
    if type(value) is int:
        small = _SMALL.get(value)
        if small is not None:
            return small
        if -_BOUND < value < _BOUND:
            return Decimal(value)
    elif type(value) is Decimal and value.is_finite():
        if not value:
            return _ZERO
        text = str(value)
        if len(text) <= FRACTION_DIGITS + 1 and "E" not in text:
            return value  # written in so few places that neither side of the point can be too long
        try:
            return _VALID.normalize(_VALID.quantize(value, _QUANTUM))
        except (InvalidOperation, Inexact, Overflow):
            pass
    elif type(value) is str and len(value) <= _TEXT_MAX and _TEXT.match(value):
        return quantity(Decimal(value))
    raise DataError("invalid", f"found {describe(value)}, {_EXPECTED}")


def format_quantity(value: Decimal) -> str:
    """Plain notation, no exponent, no trailing zeros, no negative zero: `1.5`, `100`, `0`. How quantities leave.

    Raises ValueError for NaN and Infinity, which no quantity is.
    """
    if not value.is_finite():
        raise ValueError(f"{value} is not a quantity")
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def canonical_number(value: int | Decimal) -> str:
    """One exact text per number of any size: plain up to 512 places, else with an exponent; `1e999999` stays short.

    Raises DataError for one of more than 10,000 digits that would need an exponent.
    """
    if type(value) is int:
        return str(value)
    assert isinstance(value, Decimal)
    if abs(value.adjusted()) <= 512:
        return format_quantity(value)
    try:
        return str(value.normalize(_EXACT))
    except Inexact:
        raise DataError(
            "invalid", f"found {describe(value)}, expected a number of at most {_EXACT.prec} digits"
        ) from None


def describe(value: object) -> str:
    """What was found, shortened, in JSON's words: for error texts."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {_shorten(repr(value[:60]), len(value) > 60)}"
    if isinstance(value, int):
        text = str(value) if value.bit_length() < 4096 else f"an integer of {value.bit_length()} bits"
        return _shorten(text[:40], len(text) > 40)
    if isinstance(value, Decimal):
        text = str(value)
        return _shorten(text[:40], len(text) > 40)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return _shorten(repr(value)[:60], len(repr(value)) > 60)


def _shorten(text: str, cut: bool) -> str:
    return f"{text}…" if cut else text
