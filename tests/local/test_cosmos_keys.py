"""Partition keys hash as the SDK hashes them, or its session tokens and feed ranges would look in the wrong place."""

from __future__ import annotations

from typing import Any

import pytest
from azure.cosmos.partition_key import PartitionKey
from hypothesis import given
from hypothesis import strategies as st

from local.cosmos import keys
from local.cosmos.exceptions import CosmosError

SCALARS = st.one_of(
    st.none(), st.booleans(), st.text(max_size=40), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, width=32)
)


@given(SCALARS)
def test_a_single_key_hashes_as_the_sdk_hashes_it(value: Any) -> None:
    assert keys.epk([value], False) == PartitionKey("/a")._get_effective_partition_key_string([value])


@given(st.lists(SCALARS, min_size=2, max_size=3))
def test_a_hierarchical_key_hashes_as_the_sdk_hashes_it(values: list[Any]) -> None:
    paths = ["/a", "/b", "/c"][: len(values)]
    assert keys.epk(values, True) == PartitionKey(paths)._get_effective_partition_key_string(values)


@given(SCALARS)
def test_every_key_is_in_exactly_one_physical_partition(value: Any) -> None:
    effective = keys.epk([value], False)
    assert [low <= effective < high for _, low, high in keys.RANGES].count(True) == 1


def test_the_ranges_touch_each_other_and_cover_everything() -> None:
    assert keys.RANGES[0][1] == "" and keys.RANGES[-1][2] == "FF"
    assert all(left[2] == right[1] for left, right in zip(keys.RANGES, keys.RANGES[1:], strict=False))


def test_a_missing_property_is_the_undefined_key_and_null_is_not() -> None:
    definition = keys.KeyDefinition.of({"paths": ["/a/b"]})
    assert definition.extract({"a": 1}) == [keys.UNDEFINED]
    assert definition.extract({"a": {"b": None}}) == [None]
    assert keys.canonical([keys.UNDEFINED]) != keys.canonical([None])


@pytest.mark.parametrize("paths", [[], ["subject"], "subject", ["/a", "/b"], None])
def test_a_key_definition_that_is_none_is_refused(paths: Any) -> None:
    with pytest.raises(CosmosError) as refused:
        keys.KeyDefinition.of({"paths": paths})
    assert refused.value.status == 400
