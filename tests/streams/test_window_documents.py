"""The one JSON object of a window, and the ids that make delivering it twice delivering it once (design §2.7)."""

from __future__ import annotations

import base64
import hashlib
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.definitions import Window
from schemas.times import format_rfc3339, parse_rfc3339
from schemas.windows import Revision, WindowKey, session_id, window_id
from tests.streams.stage import CLOSES, Stage, digest, key
from tests.usage import NOON

SIZES = [Window.parse(f"PT{minutes}M").size for minutes in range(1, 1441) if 1440 % minutes == 0]
FORBIDDEN = set("/\\?#")


def test_a_window_in_memory_is_found_by_its_id() -> None:
    stage = Stage()
    stage.partial(3, "30.50")
    closing = stage.process.stage
    assert closing.find(window_id(key())) == key()
    assert closing.find(window_id(key(subject="nobody"))) is None
    assert closing.find("another~PT1M~20260101T120000Z~aaaaaaaaaaaaaaaaaaaaaaaaaa") is None


def test_the_windows_of_a_subject_are_those_of_no_other_that_begins_alike() -> None:
    stage = Stage()
    for subject in ("acme", "acme2", "ac", "x" * 40, "x" * 300):
        stage.partial(1, 1, subject=subject)
        stage.partial(1, 1, "max", subject=subject)
    select = stage.process.table.select
    for subject in ("acme", "ac", "x" * 40, "x" * 300):
        assert sorted(key for key, _ in select(subject)) == [key("max", subject), key("sum", subject)]
    assert list(select("a")) == [] and len(list(select())) == 10


def test_a_document_has_exactly_the_promised_fields() -> None:
    stage = Stage()
    stage.partial(3, "30.50")
    stage.mark(CLOSES)
    assert stage.process.run(stage.process.stage.checkpoint())
    (revision,) = stage.process.table.outbox.waiting("cosmos", 9)
    name = window_id(WindowKey("acme", "sum", (), NOON, "PT1M"))
    assert (
        orjson.loads(revision.body)
        == stage.revisions()[0]
        == {
            "id": name,
            "window_id": name,
            "meter": "sum",
            "meter_version": 1,
            "aggregation": "sum",
            "unit": "",
            "subject": "acme",
            "group": {},
            "window_start": "2026-01-01T12:00:00Z",
            "window_end": "2026-01-01T12:01:00Z",
            "window_size": "PT1M",
            "revision": 1,
            "value": "30.5",
            "delta": "30.5",
            "events": 3,
            "reason": "closed",
            "receipt": {
                "events": 3,
                "digest": digest(3).hex(),
                "watermark": "2026-01-01T12:01:05Z",
                "meter_version": 1,
                "sources": [
                    {"partition": 0, "events": 3, "first_offset": 0, "last_offset": 3, "digest": digest(3).hex()}
                ],
            },
        }
    )
    assert (revision.window_id, revision.revision, revision.subject, revision.message_id) == (
        name,
        1,
        "acme",
        f"{name}:1",
    )


def test_a_window_of_today_has_the_id_it_will_always_have() -> None:
    """Written down: an id that changed would bill everything a second time."""
    canonical = b'["acme","api_tokens",{"model":"m"},"2026-01-01T12:00:00Z","PT1M"]'
    digest = base64.b32encode(hashlib.sha256(canonical).digest()[:16]).decode().lower().rstrip("=")
    assert digest == "qxniy3gtpwbakginnba6eqv7me"
    key = WindowKey("acme", "api_tokens", (("model", "m"),), NOON, "PT1M")
    assert window_id(key) == f"api_tokens~PT1M~20260101T120000Z~{digest}"


slugs = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
keys = st.builds(
    WindowKey,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    slugs,
    st.dictionaries(slugs, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3).map(
        lambda group: tuple(sorted(group.items()))
    ),
    st.integers(0, 250_000_000_000).map(lambda second: second * 1000),
    st.sampled_from(SIZES),
)


@settings(max_examples=300, deadline=None)
@given(keys, st.integers(1, 10**6))
def test_ids_fit_service_bus_and_cosmos_whatever_the_subject(key: WindowKey, revision: int) -> None:
    name = window_id(key)
    message_id = Revision(name, revision, key.subject, b"").message_id
    assert len(message_id) <= 128
    assert not FORBIDDEN & set(message_id) and message_id.isascii() and message_id.isprintable()
    assert re.fullmatch(r"[a-z0-9_]+~P[A-Z0-9]+~\d{8}T\d{6}Z~[a-z2-7]{26}", name)


@pytest.mark.parametrize("size", SIZES)
def test_the_longest_slug_with_any_size_fits(size: str) -> None:
    name = window_id(WindowKey("s" * 512, "m" * 63, (), NOON, size))
    assert len(Revision(name, 10**9, "", b"").message_id) <= 128


@settings(max_examples=200, deadline=None)
@given(keys, keys)
def test_two_windows_never_share_an_id(one: WindowKey, other: WindowKey) -> None:
    assert (window_id(one) == window_id(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", (("b", "c"),)), ("a", (("b", ""), ("c", "")))),
        (('a","b', ()), ("a", (("b", ""),))),
        (("a", (("x", "1"), ("y", "2"))), ("a", (("x", "1,y=2"),))),
    ],
)
def test_subject_and_group_cannot_be_taken_for_each_other(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    ids = {window_id(WindowKey(subject, "m", group, NOON, "PT1M")) for subject, group in (one, other)}
    assert len(ids) == 2


def test_the_session_is_the_subject_or_its_hash_where_it_is_too_long() -> None:
    assert session_id("acme") == "acme"
    assert session_id("s" * 128) == "s" * 128
    hashed = session_id("s" * 129)
    assert len(hashed) == 64 and hashed != session_id("s" * 130)


@pytest.mark.parametrize("year", ["0001", "0999", "1969", "2026", "9999"])
def test_times_are_rfc_3339_in_every_year(year: str) -> None:
    """A year has four digits, the first one too: .NET's unset DateTime is in year 1."""
    text = f"{year}-02-03T04:05:06Z"
    assert format_rfc3339(parse_rfc3339(text)) == text
