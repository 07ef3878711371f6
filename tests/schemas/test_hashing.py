"""A subject's partials land where every Kafka client would put them."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.hashing import murmur2, partition_for, partitions_for
from schemas.texts import Texts
from schemas.windows import WindowKey, encode_key, subjects_of


@given(st.binary(max_size=80))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == theirs(bytearray(data)) & 0xFFFFFFFF


@given(st.text(max_size=40), st.integers(1, 1024))
def test_a_key_goes_to_the_partition_of_kafkas_default_partitioner(key: str, partitions: int) -> None:
    assert partition_for(key, partitions) == (theirs(bytearray(key.encode())) & 0x7FFFFFFF) % partitions


@settings(deadline=None)
@given(st.lists(st.text(max_size=70), min_size=1, max_size=8), st.integers(1, 64))
def test_many_subjects_go_where_each_would_and_are_read_out_of_their_windows_keys(
    subjects: list[str], many: int
) -> None:
    expected = [partition_for(subject, many) for subject in subjects]
    assert partitions_for(Texts.of([subject.encode() for subject in subjects]), many).tolist() == expected
    keys = Texts.of([encode_key(WindowKey(subject, "m", (), 0, "PT1H")) for subject in subjects])
    assert [text.decode() for text in subjects_of(keys).tolist()] == subjects
