"""The plan has both sides of every bar in every round, and a run that was cut goes on with what is missing, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.field.__main__ import ALL, left_out, planned
from bench.field.bars import bars
from bench.field.catalogue import Catalogue
from bench.field.inputs import Keys, make, tenants, zipf
from bench.field.job import WINDOW_MS
from bench.field.judge import Verdict
from bench.field.measure import Crash, Latency, Speed, warming
from bench.field.plan import BARRED, FULL, ONCE, QUICK, Plan, Step, missing, parts
from bench.field.records import Run, Runs
from bench.field.titles import ENVELOPES, MILLION, NEW_KEYS, ONE_K, TRACE, TRACE_ENVELOPES, UNIFORM

HOUR_MS = 1_700_000_000_000 // WINDOW_MS * WINDOW_MS
TRACE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
RIGHT = Verdict(1, 0, 0, 0, 0, 0)
FIGURES: dict[str, Speed | Latency | Crash] = {
    "speed": Speed(100, 1.0, 1.0, 1.0, RIGHT),
    "latency": Latency(1.0, 0.1, 0.2, 10, 0),
    "crash": Crash(0.3, 1.0, 100, RIGHT),
}
EVERYTHING = planned(FULL, ALL, Path("trace"))


def kept(directory: Path, steps: list[Step], sitting: str = "") -> Runs:
    path = directory / "runs.jsonl"
    runs = Runs.load(path) if path.exists() else Runs(path)
    for step in steps:
        runs.add(Run(step.contestant, step.given, step.number, step.kind, FIGURES[step.kind], "", sitting))
    return runs


def test_a_whole_run_measures_every_bar_and_its_ratios_within_every_round(tmp_path: Path) -> None:
    runs = kept(tmp_path, EVERYTHING)
    assert [bar.what for bar in bars(runs) if bar.met is None] == []
    for given, names in BARRED.items():
        for name in names:
            assert set(runs.speeds(name, given)) == set(range(FULL.rounds)), (name, given)


def test_everybody_is_in_the_plan_by_the_name_that_it_has() -> None:
    names = {member.name for member in ALL}
    assert {name for some in (*BARRED.values(), *ONCE.values()) for name in some} == names
    packed = {member.name for member in ALL if member.envelopes}
    for given, some in [*BARRED.items(), *ONCE.items()]:
        assert all((name in packed) == given.endswith(", envelopes") for name in some), given


def test_every_input_is_in_the_plan_and_the_trace_where_it_is_there() -> None:
    given = {step.given for step in EVERYTHING}
    assert given == set(BARRED) | set(ONCE)
    assert {ONE_K, ENVELOPES, MILLION, UNIFORM, NEW_KEYS, TRACE} < given
    assert given - {step.given for step in planned(FULL, ALL, None)} == {TRACE, TRACE_ENVELOPES}
    assert {step.given for step in planned(QUICK, ALL, Path("trace"))} == {ONE_K, ENVELOPES}


def test_a_round_mixes_the_inputs_in_an_order_of_its_own() -> None:
    barred = {(name, given) for given, names in BARRED.items() for name in names}
    speeds = [step for step in EVERYTHING if step.kind == "speed"]
    once = [step for step in speeds if step[1:3] not in barred]
    rounds = [[s for s in speeds if s.number == n and s not in once] for n in range(FULL.rounds)]
    assert [*(step for one in rounds for step in one), *once] == speeds
    first, second, third = ([(s.contestant, s.given) for s in one] for one in rounds)
    assert second != third and sorted(first) == sorted(second) == sorted(third) == sorted(barred)
    behind = EVERYTHING[EVERYTHING.index(once[0]) :]
    assert behind[: len(once)] == once, "what no bar compares comes last"
    assert planned(FULL, ALL, Path("trace")) == EVERYTHING, "the same whenever it is asked"


def test_nobody_is_timed_or_killed_before_its_speed_is_known() -> None:
    for number, step in enumerate(EVERYTHING):
        if step.kind != "speed":
            assert Step("speed", step.contestant, step.given, 0) in EVERYTHING[:number], step
    cut = parts(EVERYTHING)
    assert [step for part in cut for step in part] == EVERYTHING and len(cut) == 2
    for part in cut:
        kinds = [step.kind for step in part]
        assert kinds[kinds.index("crash") :] == ["crash"] * kinds.count("crash")


def test_whoever_can_be_judged_is_killed_and_whoever_shows_totals_is_timed() -> None:
    killed = {step.contestant for step in EVERYTHING if step.kind == "crash"}
    timed = {step.contestant for step in EVERYTHING if step.kind == "latency"}
    assert killed == {member.name for member in ALL if member.adds_up} - {"meterline-two"}
    assert timed == killed - {"bytewax"}


def test_a_run_that_was_cut_goes_on_with_what_is_missing_and_says_which_rounds_are_torn(tmp_path: Path) -> None:
    first = next(n for n, step in enumerate(EVERYTHING) if step.number == 1) + 3
    kept(tmp_path, EVERYTHING[:first], "the evening")
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"contestant": "meterl')  # it was killed while it wrote
    runs = Runs.load(tmp_path / "runs.jsonl")
    assert missing(EVERYTHING, runs.done()) == EVERYTHING[first:]
    assert (runs.sittings(), runs.torn()) == (["the evening"], [])
    runs = kept(tmp_path, EVERYTHING[first:], "the morning")
    assert missing(EVERYTHING, runs.done()) == []
    assert (runs.sittings(), runs.torn()) == (["the evening", "the morning"], [0, 1])


def test_what_a_run_that_was_cut_did_not_come_to_is_told(tmp_path: Path) -> None:
    runs = kept(tmp_path, [step for step in EVERYTHING if step.kind != "crash" and step.contestant != "quix"])
    told = [line for line in left_out(FULL, Path("trace"), ALL, runs) if "was cut" in line]
    assert f"speed, {ONE_K}, round 3: the run was cut before it came to Quix Streams" in told
    (crash,) = [line for line in told if line.startswith(f"crash, {ONE_K}, round 1: ")]
    assert "stock Faust" in crash and "Quix" not in crash, "a kill goes by a speed that is not known either"


def test_what_has_failed_is_tried_again_and_is_no_failure_once_it_is_measured(tmp_path: Path) -> None:
    step = EVERYTHING[0]
    runs = Runs(tmp_path / "runs.jsonl")
    runs.add(Run(step.contestant, step.given, step.number, step.kind, None, "it ended"))
    assert missing(EVERYTHING, runs.done())[0] == step
    assert [run.failure for run in runs.failures()] == ["it ended"]
    kept(tmp_path, [step])
    assert Runs.load(tmp_path / "runs.jsonl").failures() == []


def test_every_input_is_made_once_and_is_long_enough_to_warm_up_and_to_be_measured(tmp_path: Path) -> None:
    (tmp_path / "AzureLLMInferenceTrace_code.csv").write_text(TRACE_HEAD + "2023-11-16 18:00:02.5000000,30,4\n" * 200)
    (tmp_path / "AzureLLMInferenceTrace_conv.csv").write_text(TRACE_HEAD + "2023-11-16 18:00:03.0000000,30,4\n" * 200)
    catalogue = Catalogue(40_000, HOUR_MS, tmp_path)
    for title in (ONE_K, ENVELOPES, NEW_KEYS, TRACE, TRACE_ENVELOPES):
        given = catalogue.given(title)
        assert catalogue.given(title) is given
        assert given.opening == 0 and given.closes == (title != NEW_KEYS)
        opening = warming(given, 1e9)
        assert 1 <= opening <= len(given.blocks) // 3, "most of it is left, whatever is asked for"
    catalogue.keep([ONE_K])
    assert catalogue.given(ENVELOPES) is not given


def test_the_keys_of_an_opening_are_all_live_before_anything_is_measured() -> None:
    keys = Keys(tenants(20_000))
    given = make("test", keys, zipf(20_000, 10_000, HOUR_MS, 7, live=True), 7, opening=20_000)
    assert warming(given, 5_000) == given.opening
    assert sum(len(block.keys) for block in given.blocks[: given.opening]) == 20_000


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_no_step_is_planned_twice(plan: Plan) -> None:
    found = planned(plan, ALL, Path("trace"))
    assert len(set(found)) == len(found) > 0
