"""A time stamp is read by its declared format, exactly, and no zone is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.stamps import Stamp
from schemas.times import format_rfc3339


@pytest.mark.parametrize(
    ("stamp", "text", "time"),
    [
        (Stamp(), "2026-01-31T12:00:00.5+01:00", "2026-01-31T11:00:00.500Z"),
        (Stamp("%Y-%m-%d %H:%M:%S.%f"), "2023-11-16 18:15:46.6805900", "2023-11-16T18:15:46.680Z"),
        (Stamp("%Y-%m-%d %H:%M:%S.%f"), "2023-11-16 18:15:46.6", "2023-11-16T18:15:46.600Z"),
        (Stamp("%Y-%m-%d %H:%M:%S", "+02:00"), "2026-07-01 00:30:00", "2026-06-30T22:30:00Z"),
        (Stamp("%Y-%m-%dT%H:%M:%S%z"), "2026-07-01T00:30:00-0130", "2026-07-01T02:00:00Z"),
        (Stamp("%Y-%m-%dT%H:%M:%S%z"), "2026-07-01T00:30:00Z", "2026-07-01T00:30:00Z"),
        (Stamp("%m/%d/%Y %I:%M %p"), "1/5/2026 12:07 AM", "2026-01-05T00:07:00Z"),
        (Stamp("%m/%d/%Y %I:%M %p"), "1/5/2026 12:07 pm", "2026-01-05T12:07:00Z"),
        (Stamp("%d/%b/%Y:%H:%M:%S %z"), "07/MAR/2026:23:59:59 +0000", "2026-03-07T23:59:59Z"),
        (Stamp("%d.%m.%Y"), "31.1.2026", "2026-01-31T00:00:00Z"),
        (Stamp("100%% %Y%m%d"), "100% 20260131", "2026-01-31T00:00:00Z"),
        (Stamp("epoch_s"), "1700158546.6805900", "2023-11-16T18:15:46.680Z"),
        (Stamp("epoch_s"), "1700158546", "2023-11-16T18:15:46Z"),
        (Stamp("epoch_ms"), "1700158546680.9", "2023-11-16T18:15:46.680Z"),
        (Stamp("epoch_ms"), "1.700158546680E+12", "2023-11-16T18:15:46.680Z"),
    ],
)
def test_it_reads_what_its_format_says(stamp: Stamp, text: str, time: str) -> None:
    assert format_rfc3339(stamp.parse(text)) == time


@pytest.mark.parametrize(
    ("stamp", "text", "words"),
    [
        (Stamp(), "2026-01-31 12:00:00", "is not an RFC 3339 time with zone"),
        (Stamp("%Y-%m-%d"), "2026-01-31x", "found '2026-01-31x', expected a time like %Y-%m-%d"),
        (Stamp("%Y-%m-%d"), "2026-02-30", "which is not a time: day is out of range"),
        (Stamp("%Y-%m-%d"), "٢٠٢٦-01-31", "expected a time like"),
        (Stamp("%Y-%m-%d"), "1969-12-31", "expected a time between the years 1970 and 9999"),
        (Stamp("%d %b %Y"), "1 Foo 2026", "which is not a time"),
        (Stamp("%Y-%m-%d %I %p"), "2026-01-31 13 PM", "hour must be in 1..12"),
        (Stamp("%Y-%m-%d %H:%M"), "2026-01-31 24:00", "hour must be in 0..23"),
        (Stamp("%Y-%m-%d%z"), "2026-01-31+99:00", "found the time zone '+99:00'"),
        (Stamp("epoch_s"), "now", "found the text 'now', expected a decimal number"),
        (Stamp("epoch_s"), "-1", "expected a time between"),
        (Stamp("epoch_ms"), "1e19", "expected a time between"),
    ],
)
def test_what_does_not_fit_is_refused(stamp: Stamp, text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        stamp.parse(text)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("", "expected rfc3339, epoch_s, epoch_ms or a pattern"),
        ("iso", "expected rfc3339, epoch_s, epoch_ms or a pattern"),
        ("%", "expected rfc3339, epoch_s, epoch_ms or a pattern"),
        ("%Y-%m-%d %", "expected rfc3339, epoch_s, epoch_ms or a pattern"),
        ("%Y-%m-%d %j", "found %j in"),
        ("%Y-%Y-%m-%d", "found %Y twice"),
        ("%H:%M", "expected a pattern with the whole date"),
        ("%Y-%m-%d %I:%M", "expected %I and %p together"),
    ],
)
def test_a_format_it_does_not_know_is_refused(format: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        Stamp(format)
    assert words in str(refused.value)


@pytest.mark.parametrize("zone", ["", "CET", "Europe/Berlin", "+2", "+24:00", "+01:60"])
def test_a_zone_that_is_no_fixed_offset_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="expected UTC or an offset like"):
        Stamp("%Y-%m-%d", zone)


@given(st.integers(0, 253_402_300_799_999), st.sampled_from(["0000", "9999", ""]))
def test_what_is_finer_than_a_millisecond_is_cut_off_never_rounded(time_ms: int, finer: str) -> None:
    seconds, ms = divmod(time_ms, 1000)
    date, clock = format_rfc3339(seconds * 1000)[:-1].split("T")
    assert Stamp("%Y-%m-%d %H:%M:%S.%f").parse(f"{date} {clock}.{ms:03d}{finer}") == time_ms
    assert Stamp("epoch_s").parse(f"{seconds}.{ms:03d}{finer}") == time_ms
