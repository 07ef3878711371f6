"""Kernels over the bytes of a fetch: record batches of Kafka's format 2, to where everything of them stands.

What is checked is what aiokafka checks (`aiokafka/record/default_records.py`, 0.14.0), checksums apart. Nothing is
explained here: NOT_UNDERSTOOD sends the fetch to aiokafka's own parser, which raises, decompresses, or knows an old format.
"""

from __future__ import annotations

import numpy as np

from schemas.compiled import kernel
from schemas.texts import Flags, Letters, Places

NOT_UNDERSTOOD = -1

BEGIN, END, BASE_OFFSET, NEXT_OFFSET, FIRST_MS, APPENDED_MS, COUNT, CONTROL = range(8)
"""Of a batch: where it begins and ends in the fetch, its offsets, its first timestamp, its append time (or NO_APPEND_TIME),
how many records it says to hold, and whether they are control records."""

OFFSET, TIMESTAMP_MS, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END = range(8)
"""Of a record: the same column by column. What is null is empty."""

NO_APPEND_TIME = -1
HEADER_BYTES = 61
CHECKSUM_AT, CHECKED_AT = 17, 21
"""Where in a batch its checksum stands, and from where on it is one."""

_LENGTH_AT, _MAGIC_AT, _ATTRIBUTES_AT, _LAST_DELTA_AT, _FIRST_MS_AT, _MAX_MS_AT, _COUNT_AT = 8, 16, 21, 23, 27, 35, 57
_LENGTH_END = 12
_CODEC, _APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_LEAST_RECORD = 7
"""Bytes of a record without key, value and headers."""
_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF


@kernel
def big_endian(letters: Letters, at: int, size: int) -> int:
    """A signed number of so many bytes."""
    value = np.int64(0)
    if letters[at] >= 128:
        value = np.int64(-1)
    for number in range(size):
        value = (value << 8) | np.int64(letters[at + number])
    return value  # type: ignore[return-value]


@kernel
def find_batches(letters: Letters, found: Places) -> int:
    """The whole batches of a fetch into `found`, a row each; how many they are, or NOT_UNDERSTOOD.

    A batch that is cut off at the end is none. `found` has a row for every HEADER_BYTES bytes of the fetch, or more.
    """
    size = len(letters)
    at, batches = 0, 0
    while size - at >= _LENGTH_END:
        end = at + _LENGTH_END + big_endian(letters, at + _LENGTH_AT, 4)
        if end > size:
            break
        if end - at < HEADER_BYTES or letters[at + _MAGIC_AT] != 2:
            return NOT_UNDERSTOOD
        attributes = big_endian(letters, at + _ATTRIBUTES_AT, 2)
        count = big_endian(letters, at + _COUNT_AT, 4)
        base = big_endian(letters, at, 8)
        if attributes & _CODEC or count < 0 or count * _LEAST_RECORD > end - at - HEADER_BYTES:
            return NOT_UNDERSTOOD
        row = found[batches]
        row[BEGIN], row[END], row[BASE_OFFSET], row[COUNT] = at, end, base, count
        row[NEXT_OFFSET] = base + big_endian(letters, at + _LAST_DELTA_AT, 4) + 1
        row[FIRST_MS] = big_endian(letters, at + _FIRST_MS_AT, 8)
        row[APPENDED_MS] = NO_APPEND_TIME
        if attributes & _APPEND_TIME:
            row[APPENDED_MS] = big_endian(letters, at + _MAX_MS_AT, 8)
            if row[APPENDED_MS] < 0:
                return NOT_UNDERSTOOD
        row[CONTROL] = attributes & _CONTROL
        batches += 1
        at = end
    return batches


@kernel
def variable(letters: Letters, at: int, end: int) -> tuple[int, int]:
    """A signed number of variable length that must stand before `end`, and where it ends; NOT_UNDERSTOOD as its end."""
    value, shift = np.int64(0), 0
    while at < end and shift < 64:
        byte = np.int64(letters[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return ((value >> 1) & _POSITIVE) ^ -(value & 1), at  # type: ignore[return-value]
        shift += 7
    return 0, NOT_UNDERSTOOD


@kernel
def bounded(letters: Letters, at: int, end: int) -> tuple[int, int, bool]:
    """Bytes that follow their length: where they begin and end, or NOT_UNDERSTOOD as their end; whether they are null."""
    length, at = variable(letters, at, end)
    if at == NOT_UNDERSTOOD or length > end - at:
        return at, NOT_UNDERSTOOD, False
    if length < 0:
        return at, at, True
    return at, at + length, False


@kernel
def split_records(letters: Letters, batches: Places, position: int, found: Places, keyless: Flags, nulls: Flags) -> int:
    """The records of batches into the columns of `found`, and which keys and values are null; how many, or NOT_UNDERSTOOD.

    batches: rows of `find_batches`. position: the offset that was asked for; what lies below it, or below what came
    before, is left out, and so are control records.
    """
    rows = 0
    for batch in batches:
        at, end = batch[BEGIN] + HEADER_BYTES, batch[END]
        if not batch[CONTROL]:
            for _ in range(batch[COUNT]):
                length, at = variable(letters, at, end)
                if at == NOT_UNDERSTOOD or length < 1 or length > end - at or letters[at] >= 128:
                    return NOT_UNDERSTOOD
                stop = at + length
                delta_ms, at = variable(letters, at + 1, stop)
                if at == NOT_UNDERSTOOD:
                    return NOT_UNDERSTOOD
                delta, at = variable(letters, at, stop)
                if at == NOT_UNDERSTOOD:
                    return NOT_UNDERSTOOD
                key, key_end, no_key = bounded(letters, at, stop)
                if key_end == NOT_UNDERSTOOD:
                    return NOT_UNDERSTOOD
                value, value_end, no_value = bounded(letters, key_end, stop)
                if value_end == NOT_UNDERSTOOD:
                    return NOT_UNDERSTOOD
                headers, at = variable(letters, value_end, stop)
                if at == NOT_UNDERSTOOD or headers < 0:
                    return NOT_UNDERSTOOD
                headers_at = at if headers else stop
                for _ in range(headers):
                    _, at, no_name = bounded(letters, at, stop)
                    if at == NOT_UNDERSTOOD or no_name:
                        return NOT_UNDERSTOOD
                    _, at, _ = bounded(letters, at, stop)
                    if at == NOT_UNDERSTOOD:
                        return NOT_UNDERSTOOD
                if at != stop:
                    return NOT_UNDERSTOOD
                offset = batch[BASE_OFFSET] + delta
                if offset >= position:
                    found[OFFSET, rows] = offset
                    appended_ms = batch[APPENDED_MS]
                    found[TIMESTAMP_MS, rows] = batch[FIRST_MS] + delta_ms if appended_ms < 0 else appended_ms
                    found[KEY, rows], found[KEY_END, rows] = key, key_end
                    found[VALUE, rows], found[VALUE_END, rows] = value, value_end
                    found[HEADERS, rows], found[HEADERS_END, rows] = headers_at, stop
                    keyless[rows], nulls[rows] = no_key, no_value
                    rows += 1
                    position = offset + 1
            if at != end:
                return NOT_UNDERSTOOD
        position = batch[NEXT_OFFSET]
    return rows
