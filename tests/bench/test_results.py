"""The section of `bench/RESULTS.md` says what was measured, what was missed and what was left out, and no more."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import results
from bench.field import plot
from bench.field.bars import bars
from bench.field.course import busy_for_s
from bench.field.judge import Verdict
from bench.field.measure import Crash, Latency, Speed, quantile
from bench.field.meterline import MEMBERS, TWO_WORKERS
from bench.field.peers import FLOORS, PEERS
from bench.field.records import Run, Runs
from bench.field.report import Occasion, section, write_plots
from bench.field.titles import ENVELOPES, MILLION, ONE_K, UNIFORM

ALL = (*MEMBERS, TWO_WORKERS, *PEERS, *FLOORS)
RIGHT = Verdict(1000, 0, 0, 0, 0, 0)
OCCASION = Occasion("make bench", "2026-01-31", "a machine", "idle", ["meterline 1"], ["Faust: not installed"])


def speed(per_cpu_s: float, verdict: Verdict | None = RIGHT) -> Speed:
    return Speed(int(per_cpu_s * 10), 12.0, 10.0, 100.0, verdict)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    kept = Runs(tmp_path / "runs.jsonl")
    for number, (ours, theirs) in enumerate([(30_000, 10_000), (20_000, 10_000), (44_000, 11_000)]):
        kept.add(Run("meterline", ONE_K, number, "speed", speed(ours)))
        kept.add(Run("kafka-streams", ONE_K, number, "speed", speed(theirs)))
    kept.add(Run("meterline", MILLION, 0, "speed", speed(10_000)))
    kept.add(Run("kafka-streams", ONE_K, 0, "crash", Crash(0.4, 9.0, 500_000, Verdict(1000, 0, 37, 0, 5, 0))))
    kept.add(Run("meterline", ONE_K, 0, "crash", Crash(0.35, 9.0, 500_000, RIGHT)))
    kept.add(Run("meterline", ONE_K, 0, "latency", Latency(15_000.0, 0.6, 1.2, 800, 0)))
    kept.add(Run("flink", ONE_K, 0, "speed", None, "it ended"))
    return kept


def test_runs_are_the_same_when_read_back(runs: Runs, tmp_path: Path) -> None:
    assert Runs.load(tmp_path / "runs.jsonl").runs == runs.runs


def test_a_ratio_is_taken_within_a_round_and_its_spread_is_told(runs: Runs) -> None:
    found = runs.ratio(("meterline", ONE_K), ("kafka-streams", ONE_K))
    assert found is not None
    assert (found.median, found.least, found.most) == (3.0, 2.0, 4.0)


def test_a_bar_is_met_missed_or_not_measured(runs: Runs) -> None:
    found = {bar.what: bar for bar in bars(runs)}
    assert found["single records: Kafka Streams, in memory, without"].met is True
    assert (
        found["single records: cost of an event, 1,000,000 keys over 1,000"].met is False
    )  # 30,000 to 10,000 in the one round of both
    assert found["single records: stock Faust"].met is None
    assert found["single records: event to visible total, p99, at half speed"].met is True


def test_a_probe_that_was_never_seen_leaves_the_bar_unmet(runs: Runs) -> None:
    runs.add(Run("meterline", ONE_K, 0, "latency", Latency(15_000.0, 0.6, 1.2, 800, 1)))
    found = {bar.what: bar for bar in bars(runs)}
    assert found["single records: event to visible total, p99, at half speed"].met is None


def test_the_section_holds_every_column_and_what_was_left_out(runs: Runs) -> None:
    text = section(runs, ALL, OCCASION)
    assert "- Faust: not installed" in text
    assert "failed: it ended" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| Kafka Streams, in memory ") and "37" in line]
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["0", "37", "0", "5 of 1,000"]
    assert "3.00x (2.00..4.00)" in text
    assert "**not met**" in text
    assert "not measured" in text


def test_the_cost_over_keys_is_told_with_its_factor_within_a_round(runs: Runs) -> None:
    runs.add(Run("meterline", UNIFORM, 0, "speed", speed(5_000)))
    runs.add(Run("kafka-streams", MILLION, 0, "speed", speed(7_000)))
    text = section(runs, ALL, OCCASION).partition("### Cost over keys")[2].partition("### How")[0]
    cost, others = text.split("### Other inputs")
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in _cells(cost)}
    assert rows[ONE_K] == ["33.33 (22.73..50.00)", "100", ""]
    assert rows[MILLION] == ["100.00", "100", "3.00x"]
    assert rows[UNIFORM] == ["200.00", "100", "6.00x"]
    named = [cells[1].strip() for cells in _cells(others)]
    assert named == [f"{MILLION}: meterline", f"{MILLION}: Kafka Streams, in memory"]


def _cells(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.splitlines() if line.startswith("| ") and not line.startswith("|  ")]


def test_a_run_that_was_cut_says_when_each_part_was_measured_and_which_round_is_of_two_times(tmp_path: Path) -> None:
    cut = Runs(tmp_path / "cut.jsonl")
    cut.add(Run("meterline", ONE_K, 0, "speed", speed(30_000), "", "on Friday"))
    assert "Measured in one sitting, begun on Friday." in section(cut, ALL, OCCASION)
    cut.add(Run("kafka-streams", ONE_K, 0, "speed", speed(10_000), "", "on Saturday"))
    text = section(cut, ALL, OCCASION)
    assert "Measured in 2 sittings" in text and "- begun on Friday\n- begun on Saturday" in text
    assert "Round 1 lies in more than one, so its ratios may compare different times." in text


def test_a_run_with_wrong_totals_is_not_called_right(runs: Runs) -> None:
    runs.add(Run("meterline-envelopes", ENVELOPES, 0, "speed", speed(90_000, Verdict(1000, 3, 0, 0, 0, 0))))
    assert "3 lost, 0 doubled" in section(runs, ALL, OCCASION)


def test_the_other_sections_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    results.write_section("Recovery", "what is there")
    results.write_section("Field", "first\n\n### Bars\n\none")
    results.write_section("Field", "second\n\n### Bars\n\ntwo")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "what is there" in text
    assert "second" in text
    assert "first" not in text
    assert text.count("## Field") == 1


def test_plots_are_svg_and_a_longer_bar_is_a_larger_figure(runs: Runs, tmp_path: Path) -> None:
    write_plots(runs, ALL, tmp_path / "plots")
    for name in ("field-speed.svg", "field-latency.svg", "field-cost.svg", "field-inputs.svg"):
        ET.parse(tmp_path / "plots" / name)  # noqa: S314 - our own file
    drawn = ET.fromstring(plot.bars("t", [_bar(100.0), _bar(1_000.0), _bar(2_000.0)]))  # noqa: S314
    widths = [float(rect.attrib["width"]) for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3
    drawn = ET.fromstring(plot.bars("t", [_bar(100.0), _bar(1_000.0), _bar(2_000.0)], from_zero=True))  # noqa: S314
    widths = [float(rect.attrib["width"]) for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] / widths[0] == pytest.approx(10, abs=0.1) and widths[2] / widths[1] == pytest.approx(2, abs=0.1)


def _bar(value: float) -> plot.Bar:
    return plot.Bar("a < b", value, value, value, True, "x")


def test_wall_time_is_how_long_it_worked_not_when_it_committed_or_made_a_checkpoint() -> None:
    worked = [(n * 0.05, min(n * 0.05, 2.0)) for n in range(100)]
    assert busy_for_s(worked) == pytest.approx(2.0)
    assert busy_for_s([*worked, (9.0, 2.08)]) == pytest.approx(2.1, abs=0.06)
    assert busy_for_s([(0.0, 0.0), (0.05, 0.0)]) == 0.0
    idling = [*worked[:41], *((2 + after / 20, 2 + after / 400) for after in range(1, 101))]
    assert busy_for_s(idling) == pytest.approx(2.0, abs=0.06), (
        "heartbeats and the questions of the benchmark are no work"
    )


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 201)], 0.99) == 198.0
    assert quantile([7.0], 0.99) == 7.0
