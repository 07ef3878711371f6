"""The outbox: in order, visible when accepted, gone when everybody has it, kept where somebody never will (design §2.6, §6)."""

from __future__ import annotations

from schemas.changelog import Entry
from schemas.windows import Revision
from tables.outbox import Outbox


def revision(window: str, number: int = 1) -> Revision:
    return Revision(window, number, "acme", f"{window} {number}".encode())


def decided(*revisions: Revision) -> Outbox:
    """An outbox of two sinks in whose accepted checkpoint these revisions are; their places in the log are 1, 2, …"""
    outbox = Outbox(("servicebus", "cosmos"))
    for order, item in enumerate(revisions, 1):
        outbox.put(item, order)
    outbox.touched()
    outbox.accepted()
    return outbox


def restored(*entries: Entry) -> Outbox:
    """From entries in the order of a changelog, the last of each key holding."""
    outbox = Outbox(("servicebus", "cosmos"))
    last = {(entry.kind, entry.key): entry.value for entry in entries}
    for (kind, key), value in last.items():
        if value is not None:
            outbox.restore(kind, key, value)
    outbox.restored()
    return outbox


def whole(outbox: Outbox) -> list[Entry]:
    return [entry for unit in outbox.units() for entry in outbox.slice(unit)]


A1, A2, B1 = revision("a"), revision("a", 2), revision("b")


def test_a_revision_is_visible_only_when_the_checkpoint_that_carries_it_is_accepted() -> None:
    outbox = Outbox(("cosmos",))
    outbox.put(A1, 1)
    assert outbox.waiting("cosmos", 9) == [] and outbox.waiting_for_acceptance
    outbox.touched()
    assert outbox.waiting("cosmos", 9) == []
    outbox.put(A2, 2)
    outbox.accepted()
    assert outbox.waiting("cosmos", 9) == [A1], "decided after the checkpoint was begun: the next one carries it"
    assert outbox.waiting_for_acceptance
    assert outbox.count_waiting("cosmos") == 2
    outbox.touched()
    outbox.accepted()
    assert outbox.waiting("cosmos", 9) == [A1, A2] and not outbox.waiting_for_acceptance


def test_revisions_leave_in_the_order_they_were_decided_and_no_more_than_asked_for() -> None:
    outbox = decided(B1, A1, A2)
    assert outbox.waiting("cosmos", 9) == [B1, A1, A2]
    assert outbox.waiting("cosmos", 2) == [B1, A1]


def test_each_sink_has_its_own_line() -> None:
    outbox = decided(A1, A2)
    outbox.mark_delivered(A1.message_id, "cosmos")
    assert outbox.waiting("cosmos", 9) == [A2]
    assert outbox.waiting("servicebus", 9) == [A1, A2]
    assert (outbox.count_waiting("cosmos"), outbox.count_waiting("servicebus")) == (1, 2)


def test_what_every_sink_has_leaves_and_its_removal_is_written() -> None:
    outbox = decided(A1)
    assert outbox.mark_delivered(A1.message_id, "cosmos")
    assert A1.message_id in outbox.items
    assert outbox.mark_delivered(A1.message_id, "servicebus")
    assert not outbox.items
    assert [(entry.kind, entry.value) for entry in outbox.touched()] == [("out", None), ("mark", None), ("mark", None)]
    assert outbox.touched() == []


def test_saying_it_twice_is_no_news_and_writes_nothing() -> None:
    outbox = decided(A1)
    outbox.mark_delivered(A1.message_id, "cosmos")
    outbox.touched()
    assert not outbox.mark_delivered(A1.message_id, "cosmos")
    assert not outbox.park(A1.message_id, "cosmos", "late refusal")
    assert not outbox.mark_delivered("unknown:1", "cosmos")
    assert outbox.touched() == [] and outbox.parked() == []


def test_what_a_sink_refuses_for_good_stays_and_holds_nobody_up() -> None:
    outbox = decided(A1, A2)
    assert outbox.park(A1.message_id, "servicebus", "too large")
    assert outbox.waiting("servicebus", 9) == [A2]
    outbox.mark_delivered(A1.message_id, "cosmos")
    assert outbox.parked() == [("servicebus", A1, "too large")]
    assert A1.message_id in outbox.items


def test_the_reason_of_a_refusal_is_bounded() -> None:
    outbox = decided(A1)
    outbox.park(A1.message_id, "cosmos", "x" * 10_000)
    assert len(outbox.parked()[0][2]) == 500


def test_everything_survives_recovery() -> None:
    outbox = decided(B1, A1, A2)
    outbox.mark_delivered(B1.message_id, "cosmos")
    outbox.park(A1.message_id, "servicebus", "too large")
    again = restored(*whole(outbox))
    assert again.waiting("cosmos", 9) == [A1, A2]
    assert again.waiting("servicebus", 9) == [B1, A2]
    assert again.parked() == [("servicebus", A1, "too large")]
    assert not again.waiting_for_acceptance


def test_a_mark_may_be_read_before_its_revision() -> None:
    outbox = decided(A1)
    outbox.mark_delivered(A1.message_id, "cosmos")
    again = restored(*reversed(whole(outbox)))
    assert again.waiting("cosmos", 9) == [] and again.waiting("servicebus", 9) == [A1]


def test_the_marks_of_two_owners_join() -> None:
    """A zombie told one sink, its successor the other: together everybody has it."""
    first, second = decided(A1), decided(A1)
    entries = whole(first)
    first.mark_delivered(A1.message_id, "cosmos")
    second.mark_delivered(A1.message_id, "servicebus")
    again = restored(*entries, *first.touched(), *second.touched())
    assert not again.items
    assert ("out", b"a:1", None) in again.touched()


def test_marks_whose_revision_has_left_are_dropped() -> None:
    outbox = decided(A1)
    outbox.mark_delivered(A1.message_id, "cosmos")
    marks = outbox.touched()
    assert not restored(*marks).items


def test_two_owners_put_a_revision_in_the_same_place() -> None:
    """The place is the log's, not the owner's: the later chunk of a zombie must not bring revisions out of order."""
    zombie, owner = decided(B1, A1), Outbox(("servicebus", "cosmos"))
    owner.put(A1, 2)
    owner.put(A2, 3)
    again = restored(*whole(owner), *whole(zombie))
    assert again.waiting("cosmos", 9) == [B1, A1, A2]


def test_a_new_revision_after_recovery_comes_after_what_waits() -> None:
    again = restored(*whole(decided(B1, A1)))
    again.put(A2, 3)
    assert again.waiting("cosmos", 9) == [B1, A1]
    again.touched()
    again.accepted()
    assert again.waiting("cosmos", 9) == [B1, A1, A2]


def test_the_highest_revision_of_a_window_is_found_until_it_leaves() -> None:
    outbox = decided(A1, B1, A2)
    assert (outbox.newest("a"), outbox.newest("b"), outbox.newest("c")) == (A2, B1, None)
    for sink in ("servicebus", "cosmos"):
        outbox.mark_delivered(A1.message_id, sink)
    assert outbox.newest("a") == A2
    outbox.mark_delivered(A2.message_id, "cosmos")
    assert outbox.newest("a") == A2, "not everybody has it"
    outbox.mark_delivered(A2.message_id, "servicebus")
    assert outbox.newest("a") is None and list(outbox.newest_of()) == [B1]


def test_what_is_found_last_of_a_window_is_no_earlier_revision_that_stayed() -> None:
    outbox = decided(A1, A2)
    outbox.park(A1.message_id, "servicebus", "too large")
    outbox.mark_delivered(A1.message_id, "cosmos")
    for sink in ("servicebus", "cosmos"):
        outbox.mark_delivered(A2.message_id, sink)
    assert list(outbox.items) == [A1.message_id]
    assert outbox.newest("a") is None and list(outbox.newest_of("acme")) == []


def test_the_highest_revisions_are_found_by_their_subject() -> None:
    other = Revision("c", 1, "zeta", b"c 1")
    outbox = decided(A1, other, B1, A2)
    assert sorted(found.message_id for found in outbox.newest_of("acme")) == ["a:2", "b:1"]
    assert list(outbox.newest_of("zeta")) == [other] and list(outbox.newest_of("nobody")) == []
    assert len(list(outbox.newest_of())) == 3


def test_the_highest_revisions_are_found_again_after_recovery() -> None:
    outbox = decided(B1, A1, A2)
    for sink in ("servicebus", "cosmos"):
        outbox.mark_delivered(B1.message_id, sink)
    again = restored(*reversed(whole(outbox)))
    assert again.newest("a") == A2 and again.newest("b") is None
    assert list(again.newest_of("acme")) == [A2]


def test_what_recovery_finds_delivered_everywhere_is_not_found() -> None:
    outbox, other = decided(A1), decided(A1)
    entries = whole(outbox)
    outbox.mark_delivered(A1.message_id, "cosmos")
    other.mark_delivered(A1.message_id, "servicebus")
    assert restored(*entries, *outbox.touched(), *other.touched()).newest("a") is None
