"""Every crash point and every torn flush of small worlds, told to their ends."""

from __future__ import annotations

import pytest

from simulation import exhaustive


@pytest.mark.timeout(1500)
def test_no_interruption_of_a_small_world_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    found = exhaustive.explore()
    with capsys.disabled():
        print(f"\n{found.describe()}")
    assert found.broken == [], found.describe()
    assert found.interruptions > 1000
    assert all(50 < effects <= exhaustive.EFFECTS_MAX for effects in found.effects)


@pytest.mark.parametrize("world", range(len(exhaustive.WORLDS)))
def test_each_effect_of_a_small_world_meets_all_that_can_befall_it(world: int) -> None:
    ending = exhaustive.undisturbed(world)
    assert ending.promise is None
    faults = list(exhaustive.misfortunes(ending))
    for number, (name, records) in enumerate(ending.script, start=1):
        kinds = [fault for fault in faults if fault.at == number]
        assert {"crash_before", "crash_after"} <= {fault.kind for fault in kinds}
        if name == "Produce":
            lost = {fault.fates for fault in kinds if "lost" in fault.fates}
            assert len(lost) == 2**records - 1, "every subset of the flush"
    assert {"Produce", "Commit", "ReadLog", "servicebus"} <= {name for name, _ in ending.script}
    assert any(name.startswith("cosmos") for name, _ in ending.script)
    assert max(records for _, records in ending.script) >= 4


def test_the_small_worlds_have_what_can_go_wrong() -> None:
    """Usage counted, twice, late, invalid and malformed; a window closed, revised late, another after it; ticks."""
    texts = [value for sent in exhaustive.ONE for value in [sent.value or b""]]
    assert sum(b'"id":"a"' in text for text in texts) == 2
    ending = exhaustive.undisturbed(0)
    assert sum(" Commit " in line for line in ending.lines) > 10
    assert ending.recoveries == 4
