"""Envelopes: bounded, in order per partition, nothing lost."""

from __future__ import annotations

import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from schemas.hashing import partition_for
from transport.packing import ENVELOPE_BYTES, Envelope, Packer

EVENTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 400)), max_size=60)


@given(EVENTS, st.integers(1, 5))
def test_nothing_is_lost_and_each_partition_keeps_its_order(events: list[tuple[str, int]], partitions: int) -> None:
    packer = Packer(partitions, envelope_bytes=1000)
    envelopes: list[Envelope] = []
    expected = defaultdict(list)
    for number, (subject, size) in enumerate(events):
        event = json.dumps({"subject": subject, "number": number, "pad": "x" * size})
        expected[partition_for(subject, partitions)].append(number)
        envelopes += packer.add(subject, event.encode())
    envelopes += packer.rest()
    found: dict[int, list[int]] = defaultdict(list)
    for envelope in envelopes:
        body = json.loads(envelope.value)
        packed = body if isinstance(body, list) else [body]
        assert len(packed) == envelope.events
        assert envelope.key.decode() == packed[0]["subject"]
        assert len(envelope.value) <= 1000
        found[envelope.partition] += [event["number"] for event in packed]
    assert found == expected


def test_an_event_larger_than_an_envelope_goes_alone_as_it_is() -> None:
    packer = Packer(1)
    large = b'{"pad":"' + b"x" * ENVELOPE_BYTES + b'"}'
    assert list(packer.add("a", b"{}")) == []
    assert [envelope.value for envelope in packer.add("a", large)] == [b"{}"]
    assert [envelope.value for envelope in packer.rest()] == [large]


def test_a_full_envelope_stays_under_what_event_hubs_bills_as_one() -> None:
    packer = Packer(1)
    envelopes = [envelope for number in range(3000) for envelope in packer.add("a", b'{"n":%d}' % number)]
    envelopes += packer.rest()
    assert max(len(envelope.value) for envelope in envelopes) <= ENVELOPE_BYTES < 64 * 1024
