"""Request units as the service charges them, and a budget that runs out and comes back."""

from __future__ import annotations

import pytest

from local.cosmos import charges
from local.cosmos.charges import Budget

SINK_POLICY = {"includedPaths": [{"path": "/meter/?"}, {"path": "/window_start/?"}], "excludedPaths": [{"path": "/*"}]}


@pytest.mark.parametrize(("kilobytes", "units"), [(1, 4.95), (2, 6.29), (4, 6.67)])
def test_an_insert_costs_what_the_documentation_says(kilobytes: int, units: float) -> None:
    assert charges.create(kilobytes * 1024, 0) == units


def test_an_overwrite_costs_about_twice_an_insert_and_a_point_read_one() -> None:
    assert charges.replace(1024, 0) == pytest.approx(10.8, abs=0.05)
    assert charges.patch(1024, 0, 2) == pytest.approx(11.6, abs=0.05)
    assert charges.read(700) == 1.0


def test_every_indexed_value_costs_a_little_and_an_excluded_one_nothing() -> None:
    document = {
        "id": "x",
        "meter": "calls",
        "window_start": "t",
        "value": "1",
        "_ts": 5,
        "receipt": {"a": 1, "b": [1, 2]},
    }
    everything = {"includedPaths": [{"path": "/*"}], "excludedPaths": []}
    assert charges.indexed_terms(document, SINK_POLICY) == 2
    assert charges.indexed_terms(document, everything) == 7
    assert charges.indexed_terms(document, {"indexingMode": "none"}) == 0
    assert charges.create(1024, 7) == pytest.approx(charges.create(1024, 0) + 1.4)


def test_a_spent_second_refuses_until_the_next_one() -> None:
    budget = Budget(10)
    assert budget.wait_ms(5_000) == 0
    budget.spend(12, 5_000)
    assert budget.wait_ms(5_250) == 750
    assert budget.wait_ms(6_000) == 0


def test_a_debt_of_several_seconds_is_paid_second_by_second() -> None:
    budget = Budget(10)
    budget.spend(35, 5_000)
    assert budget.wait_ms(5_000) == 3_000
    assert budget.wait_ms(7_000) == 1_000
    assert budget.wait_ms(8_000) == 0
