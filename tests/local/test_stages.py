"""What the partials log adds up to: whatever zombies and resends left in it, folds sent are folds joined, or it is told."""

from __future__ import annotations

import pytest

from local.stages import Joined
from schemas.hashing import partition_for
from schemas.partials import Contribution, Partial, Partials, Watermark

TARGETS = 4
SUBJECT = "contoso"
TARGET = partition_for(SUBJECT, TARGETS)


def partial(events: int, through: int, start_ms: int = 0) -> Partials:
    share = Contribution(events, bytes([events]) * 16, 0, through)
    return Partials(0, [Partial(SUBJECT, "requests", (), start_ms, "PT1M", 1, share)])


def mark(folds: int, through: int) -> Watermark:
    return Watermark(0, 1000, through, folds)


def joined(*messages: Partials | Watermark) -> Joined:
    result = Joined()
    for message in messages:
        result.join(TARGET, message)
    return result


LOG = (partial(2, 5), partial(1, 6, 60_000), mark(3, 6), partial(4, 9), mark(5, 9))


def test_the_newest_of_each_window_counts_whatever_a_zombie_sends_after_it() -> None:
    assert joined(*LOG).compare({(0, SUBJECT): 5}, TARGETS) == []
    assert joined(*LOG, partial(2, 5), mark(3, 6)).compare({(0, SUBJECT): 5}, TARGETS) == []


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (LOG[:-1], "folds sent, as its last watermark says"),
        (LOG[1:3] + LOG[4:], "folds joined"),
        ((*LOG, mark(6, 9)), "folds sent, as its last watermark says"),
        ((*LOG, partial(1, 12, 120_000)), "folds joined"),
    ],
    ids=["the last watermark is missing", "a partial is missing", "one fold too many is claimed", "a partial too many"],
)
def test_a_difference_is_told(messages: tuple[Partials | Watermark, ...], what: str) -> None:
    found = joined(*messages).compare({(0, SUBJECT): 5}, TARGETS)
    assert [mismatch.what for mismatch in found] == [what]


def test_what_nobody_sent_is_missing() -> None:
    found = joined().compare({(1, SUBJECT): 5}, TARGETS)
    assert {mismatch.where for mismatch in found} == {f"usage partition 1 to partials partition {TARGET}"}


def test_two_contents_of_one_through_are_told_even_where_the_sums_agree() -> None:
    other = partial(4, 9)
    other.items[0].share.digest = b"x" * 16
    found = joined(*LOG, other).compare({(0, SUBJECT): 5}, TARGETS)
    assert [mismatch.what for mismatch in found] == ["one content per `through`"]
