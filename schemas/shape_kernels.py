"""Kernels of reading: events by their shape, texts told apart, times and numbers (`schemas/shapes.py`, `schemas/columns.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import kernel, part

Array = Any
"""A numpy array; each kernel's docstring says of what."""

_QUOTE, _BACKSLASH, _SPACE, _COMMA, _OPEN, _CLOSE = 34, 92, 32, 44, 91, 93
_MINUS, _POINT, _NULL, _NINE = 45, 46, 48, 57
_T, _Z, _COLON, _PLUS = 84, 90, 58, 43
_SECONDS = 19
"""Letters of a time up to its seconds."""
_MOST_DIGITS = 18
_LONG = 256
"""Letters of a number at which it is left to a decoder: those refuse what has some thousands."""


@kernel
def same(letters: Array, at: int, others: Array, other: int, size: int) -> Any:
    """Whether `size` bytes at two places are the same; both must be inside."""
    mine, theirs = letters[at : at + size], others[other : other + size]
    different = np.uint8(0)
    for i in range(size):
        different |= mine[i] ^ theirs[i]
    return different == 0


@kernel
def end_of_text(letters: Array, at: int, end: int) -> int:
    """Where a text that begins at `at` ends: at its quote; -1 where a control character, an escape or the end comes first.

    -1, too, where it is not UTF-8 (Unicode 16, table 3-7: no surrogates, nothing written longer than it has to be).
    """
    while at < end:
        letter = letters[at]
        if letter == _QUOTE:
            return at
        if letter < _SPACE or letter == _BACKSLASH:
            return -1
        if letter >= 0x80:
            more = 1 if letter < 0xE0 else 2 if letter < 0xF0 else 3
            if letter < 0xC2 or letter > 0xF4 or at + more >= end:
                return -1
            second = letters[at + 1]
            least = 0xA0 if letter == 0xE0 else 0x90 if letter == 0xF0 else 0x80
            most = 0x9F if letter == 0xED else 0x8F if letter == 0xF4 else 0xBF
            if second < least or second > most:
                return -1
            for i in range(2, more + 1):
                if letters[at + i] & 0xC0 != 0x80:
                    return -1
            at += more
        at += 1
    return -1


@kernel
def end_of_number(letters: Array, at: int, end: int) -> int:
    """Where a number that begins at `at` ends, as JSON writes it, without an exponent; -1 where there is none, or a long one."""
    begin = at
    if at < end and letters[at] == _MINUS:
        at += 1
    first = at
    while at < end and _NULL <= letters[at] <= _NINE:
        at += 1
    if at == first or (letters[first] == _NULL and at > first + 1):
        return -1
    if at < end and letters[at] == _POINT:
        at += 1
        first = at
        while at < end and _NULL <= letters[at] <= _NINE:
            at += 1
        if at == first:
            return -1
    return at if at - begin < _LONG else -1


@part
def _matched(
    letters: Array, at: int, end: int, constants: Array, bounds: Array, numbers: Array, filled: Array, first: int, last: int,
    starts: Array, stops: Array, row: int,
) -> int:  # fmt: skip
    """Where an event of one shape that begins at `at` ends; -1 where there is none. first, last: the shape's bounds."""
    for number in range(first, last):
        constant = bounds[number]
        size = bounds[number + 1] - constant
        if at + size > end or not same(letters, at, constants, constant, size):
            return -1
        at += size
        if number < last - 1:
            stop = end_of_number(letters, at, end) if numbers[number] else end_of_text(letters, at, end)
            if stop < at + filled[number]:  # -1, too
                return -1
            starts[number - first, row], stops[number - first, row] = at, stop
            at = stop
    return at


@kernel
def match(
    letters: Array, begins: Array, ends: Array, chosen: Array, constants: Array, bounds: Array, numbers: Array, filled: Array,
    shapes: Array, most: int, starts: Array, stops: Array, record: Array, place: Array, shape: Array, stuck: Array,
) -> int:  # fmt: skip
    """The events of chosen records, each of one of some shapes; gives how many there are. A record with others is unchosen.

    letters: uint8. begins, ends: of each record. constants: of all shapes, one behind the other; bounds: where each begins
    and the last ends; numbers, filled: whether the value behind a constant is a number, and whether it must not be empty.
    shapes: of each shape the number of its first constant, and behind the last one how many there are. most: events of a
    record. Written, int64: starts, stops (values, events): where each value stands; record, place, shape: of each event;
    stuck: of each record the place of the first event that is of none of the shapes.
    """
    found = 0
    guess = 0
    many = len(shapes) - 1
    for number in range(len(begins)):
        stuck[number] = 0
        if not chosen[number]:
            continue
        at, end = begins[number], ends[number]
        before = found
        packed = at < end and letters[at] == _OPEN
        at += packed
        good = False
        while found - before < most:
            begin, at = at, -1
            for turn in range(many):
                tried = (guess + turn) % many
                at = _matched(
                    letters, begin, end, constants, bounds, numbers, filled, shapes[tried], shapes[tried + 1],
                    starts, stops, found,
                )  # fmt: skip
                if at >= 0:
                    guess = tried
                    break
            if at < 0:
                break
            record[found], place[found], shape[found] = number, found - before, guess
            found += 1
            if not packed:
                good = at == end
                break
            if at + 1 == end and letters[at] == _CLOSE:
                good = True
                break
            if at >= end or letters[at] != _COMMA:
                break
            at += 1
        if not good:
            stuck[number] = found - before
            found = before
            chosen[number] = False
    return found


@kernel
def coded(letters: Array, starts: Array, stops: Array, salt: Any, codes: Array, firsts: Array) -> int:
    """Numbers texts in the order in which they first stand there; gives how many there are.

    salt: uint64. Written, int64: codes, of each text its number; firsts, of each number the row that was first.
    """
    many = len(starts)
    size = 16
    while size < 2 * many:
        size *= 2
    table = np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    names = 0
    for row in range(many):
        start, length = starts[row], stops[row] - starts[row]
        if (
            row
            and length == stops[row - 1] - starts[row - 1]
            and same(letters, start, letters, starts[row - 1], length)
        ):
            codes[row] = codes[row - 1]
            continue
        slot = _mixed(letters, start, length, salt) & mask
        while True:
            name = table[slot]
            if name < 0:
                table[slot] = names
                firsts[names] = row
                codes[row] = names
                names += 1
                break
            first = firsts[name]
            if stops[first] - starts[first] == length and same(letters, starts[first], letters, start, length):
                codes[row] = name
                break
            slot = (slot + np.uint64(1)) & mask
    return names


@kernel
def _mixed(letters: Array, start: int, length: int, salt: Any) -> Any:
    """64 bits of a text, another process's others: eight bytes at a time, multiplied and folded."""
    text = letters[start : start + length]
    mixed = salt ^ (np.uint64(length) * np.uint64(0x9E3779B97F4A7C15))
    whole = length - length % 8
    for at in range(0, whole, 8):
        word = np.uint64(0)
        for i in range(8):
            word |= np.uint64(text[at + i]) << np.uint64(8 * i)
        mixed = (mixed ^ word) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    word = np.uint64(0)
    for at in range(whole, length):
        word = (word << np.uint64(8)) | np.uint64(text[at])
    mixed = (mixed ^ word) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


@kernel
def stamps(letters: Array, starts: Array, stops: Array, last_ms: int, times_ms: Array, odd: Array) -> int:
    """Times like 2026-01-31T12:00:00Z, ms UTC, as `schemas.times.parse_rfc3339` has them; gives how many are odd.

    With any fraction of a second, in `Z` or `+00:00`. Odd is what is of another form, no time, before 1970 or behind
    last_ms. Written: times_ms, int64; odd: flags.
    """
    strange = 0
    for row in range(len(starts)):
        odd[row] = True
        times_ms[row] = 0
        millis = _millis(letters, starts[row] + _SECONDS, stops[row])
        if millis >= 0:
            text = letters[starts[row] : stops[row]]
            year = _digits(text, 0, 4)
            month, day = _digits(text, 5, 2), _digits(text, 8, 2)
            hour, minute, second = _digits(text, 11, 2), _digits(text, 14, 2), _digits(text, 17, 2)
            marked = (
                text[4] == _MINUS and text[7] == _MINUS and text[10] == _T and text[13] == _COLON and text[16] == _COLON
            )
            if marked and year >= 1970 and 1 <= month <= 12 and hour >= 0 and minute >= 0 and second >= 0:
                leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
                days = 31
                if month == 2:
                    days = 29 if leap else 28
                elif month == 4 or month == 6 or month == 9 or month == 11:
                    days = 30
                if 1 <= day <= days and hour <= 23 and minute <= 59 and second <= 59:
                    # Days since 1970, counting years from March on: a leap day is a year's last one.
                    years = year - (month <= 2)
                    in_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
                    era = years // 400
                    of_era = years - era * 400
                    since = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + in_year - 719_468
                    time_ms = (((since * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis
                    if time_ms <= last_ms:
                        times_ms[row] = time_ms
                        odd[row] = False
        strange += odd[row]
    return strange


@kernel
def _millis(letters: Array, at: int, end: int) -> Any:
    """The milliseconds of what stands behind the seconds of a time in UTC; -1 where it is something else."""
    millis: Any = 0
    if at < end and letters[at] == _POINT:
        at += 1
        first = at
        while at < end and _NULL <= letters[at] <= _NINE:
            if at < first + 3:
                millis = millis * 10 + (np.int64(letters[at]) - _NULL)
            at += 1
        if at == first:
            return -1
        for _ in range(first + 3 - at):
            millis *= 10
    if end - at == 1 and letters[at] == _Z:
        return millis
    if end - at == 6 and letters[at] == _PLUS and letters[at + 3] == _COLON and _digits(letters, at + 1, 2) == 0:
        return millis if _digits(letters, at + 4, 2) == 0 else -1
    return -1


@kernel
def _digits(text: Array, at: int, many: int) -> Any:
    """The number that so many digits make; negative where one of them is none."""
    number: Any = 0
    strange: Any = False
    for i in range(at, at + many):
        digit = np.int64(text[i]) - _NULL
        strange |= digit < 0 or digit > 9
        number = number * 10 + digit
    return -1 if strange else number


@kernel
def quantities(letters: Array, starts: Array, stops: Array, small: int, units: Array, places: Array) -> int:
    """Numbers as JSON writes them, without an exponent, as whole numbers of 10^-places; gives the most places of all.

    -1 where one of them is none, or has more digits than a machine word, or is not below `small` in the places of all of
    them. Written, int64: units, in these places; places: of each, how many it was written with.
    """
    most = 0
    for row in range(len(starts)):
        at, end = starts[row], stops[row]
        if at == end or end - at > _MOST_DIGITS + 1 or end_of_number(letters, at, end) != end:
            return -1
        negative = letters[at] == _MINUS
        number = np.int64(0)
        behind = -1
        digits = 0
        for i in range(at + negative, end):
            if letters[i] == _POINT:
                behind = i
            else:
                number = number * 10 + (np.int64(letters[i]) - _NULL)
                digits += 1
        if digits > _MOST_DIGITS:
            return -1
        places[row] = end - 1 - behind if behind >= 0 else 0
        units[row] = -number if negative else number
        most = max(most, places[row])
    for row in range(len(starts)):
        for _ in range(most - places[row]):
            if not -small < units[row] < small:
                return -1
            units[row] *= 10
        if not -small < units[row] < small:
            return -1
    return most
