"""A subject's partials land where every Kafka client would put them."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from schemas.hashing import murmur2, partition_for


@given(st.binary(max_size=80))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == theirs(bytearray(data)) & 0xFFFFFFFF


@given(st.text(max_size=40), st.integers(1, 1024))
def test_a_key_goes_to_the_partition_of_kafkas_default_partitioner(key: str, partitions: int) -> None:
    assert partition_for(key, partitions) == (theirs(bytearray(key.encode())) & 0x7FFFFFFF) % partitions
