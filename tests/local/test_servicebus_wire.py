"""The wire: values, frames and messages survive every cut and every form that other SDKs use."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.servicebus import codec, message
from local.servicebus.codec import DecodeError, Frame, Framer
from local.servicebus.links import AttachRequest

VALUES = st.one_of(
    st.just(codec.NULL),
    st.booleans().map(codec.boolean),
    st.integers(0, 2**32 - 1).map(codec.uint),
    st.integers(0, 2**64 - 1).map(codec.ulong),
    st.integers(-(2**63), 2**63 - 1).map(codec.long),
    st.integers(-(2**31), 2**31 - 1).map(codec.int32),
    st.text(max_size=400).map(codec.string),
    st.text("abc-:", max_size=300).map(codec.symbol),
    st.binary(max_size=400).map(codec.binary),
    st.uuids().map(codec.uuid_value),
)
NESTED = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(codec.list_of),
        st.lists(st.tuples(inner, inner), max_size=4).map(codec.map_of),
        st.tuples(st.integers(0, 255), inner).map(lambda pair: codec.described(*pair)),
    ),
    max_leaves=12,
)


@given(st.lists(NESTED, max_size=300))
def test_what_is_put_in_a_list_comes_out_byte_for_byte(items: list[bytes]) -> None:
    assert codec.items_of(codec.list_of(items)) == items
    assert codec.end_of(codec.list_of(items), 0) == len(codec.list_of(items))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=300))
def test_an_array_of_longs_is_read_back_by_the_sdk(numbers: list[int]) -> None:
    assert codec.decode(codec.array_of([codec.wide_long(number) for number in numbers])) == numbers


@given(NESTED, st.data())
def test_a_value_that_is_cut_short_is_an_error_and_never_a_crash(value: bytes, data: st.DataObject) -> None:
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    with pytest.raises(DecodeError):
        codec.end_of(cut, 0)


@given(st.binary(max_size=60))
def test_no_bytes_whatever_crash_the_readers(noise: bytes) -> None:
    for read in (
        lambda: list(Framer(4096).feed(codec.frame(0, noise) if noise else b"")),
        lambda: message.incoming(noise),
        lambda: message.request(noise),
        lambda: message.batch(noise),
    ):
        try:
            read()
        except DecodeError:
            pass


@given(st.lists(st.integers(1, 40), max_size=30))
def test_frames_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    flow = codec.composite(codec.FLOW, codec.NULL, codec.uint(5), codec.uint(0), codec.uint(5))
    stream = codec.AMQP_PROTOCOL + codec.HEARTBEAT + codec.frame(3, flow) + codec.frame(4, flow)
    framer, got = Framer(4096), []
    for cut in [*cuts, len(stream)]:
        got += list(framer.feed(stream[:cut]))
        stream = stream[cut:]
    assert got[0] == codec.AMQP_PROTOCOL
    assert [(f.channel, f.code, f.fields[1]) for f in got[1:] if isinstance(f, Frame)] == [(3, 0x13, 5), (4, 0x13, 5)]


def test_an_eight_byte_descriptor_means_the_same() -> None:
    body = b"\x00\x80" + (0x13).to_bytes(8, "big") + codec.list_of([codec.NULL, codec.uint(5)])
    (frame,) = Framer(4096).feed(codec.frame(0, body))
    assert isinstance(frame, Frame) and (frame.code, frame.fields[1]) == (codec.FLOW, 5)


def test_an_error_always_carries_its_three_fields() -> None:
    """With two, the Python SDK hangs in a send (azure.md 3.5, item 8)."""
    assert len(codec.fields_of(codec.error("amqp:not-found", "x"))) == 3


def _attach(session_filter: bytes) -> AttachRequest:
    pairs = codec.map_of([(codec.symbol("com.microsoft:session-filter"), session_filter)])
    source = codec.composite(codec.SOURCE, codec.string("q"), *[codec.NULL] * 6, pairs)
    return AttachRequest("l", 0, True, 0, 1, source, codec.NULL, "q", "", {})


@pytest.mark.parametrize("described", [b"", b"\x00" + codec.symbol("com.microsoft:session-filter")])
@pytest.mark.parametrize("asked", [codec.string("s"), codec.NULL])
def test_a_session_filter_goes_back_in_the_form_it_came(described: bytes, asked: bytes) -> None:
    """Go and .NET describe it, Python and JavaScript do not, and each reads only its own form."""
    request = _attach(described + asked)
    wanted = None if asked == codec.NULL else "s"
    present, value = request.filter("com.microsoft:session-filter")
    assert present and codec.text(value) == wanted
    answer = codec.fields_of(request.source_with_filter("com.microsoft:session-filter", codec.string("s")))
    ((_, told),) = codec.pairs_of(answer[7])
    assert told == described + codec.string("s") and len(answer) == 11


def test_a_correlation_id_goes_back_with_the_type_it_came_with() -> None:
    for identifier in (codec.string("1"), codec.uuid_value(uuid.uuid4()), codec.ulong(300), codec.binary(b"\x01")):
        asked = message.request(codec.composite(codec.PROPERTIES, identifier))
        reply = message.Reply(200, "OK").encoded(asked, hyphens=False)
        _, _, value_at, end = next(codec.sections_of(reply))
        assert codec.items_of(reply[value_at:end])[5] == identifier


def test_the_last_journeys_annotations_are_not_carried_into_the_next() -> None:
    """A dead letter that is sent again must not say its old sequence number."""
    kept = (codec.symbol("x-opt-partition-key"), codec.string("k"))
    old = (codec.symbol("x-opt-sequence-number"), codec.long(7))
    annotated = codec.described(codec.ANNOTATIONS, codec.map_of([old, kept]))
    got = message.incoming(annotated + codec.described(codec.DATA, codec.binary(b"x")))
    assert codec.pairs_of(got.annotations) == [kept]
