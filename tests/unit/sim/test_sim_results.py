"""Summaries, comparisons, options and sweeps: what the numbers mean and what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slurmsia.sim.compare import comparison, load_runs, ratio
from slurmsia.sim.neighbours import Waiting, pooled
from slurmsia.sim.result import SUMMARY_KEYS, JobResult, RunResult, Segment, as_json, summary
from slurmsia.sim.runner import RunSpec
from slurmsia.sim.settings import SettingError, config_from, split_options
from slurmsia.sim.sweep import combinations


def result(workload: str, policy: str, hours: list[float]) -> RunResult:
    jobs = tuple(
        JobResult(
            name=f"j{i}",
            application="small",
            submit_s=100.0 + i,
            start_s=100.0 + i,
            end_s=100.0 + i + 3600.0 * jct,
            restarts=i % 2,
            gpu_s=7200.0,
            rho=jct,
            segments=(Segment(100.0 + i, 100.0 + i + 3600.0 * jct, "t4", 1, 2),),
        )
        for i, jct in enumerate(hours)
    )
    return RunResult(workload, policy, {"cluster": "c", "seed": 0}, jobs, 3, (1.0, 2.0, 3.0), 0, (1, 2, 3), 0.5, 50.0)


def test_the_summary_has_exactly_the_promised_keys_in_order() -> None:
    assert tuple(summary(result("w/1", "sia", [1.0, 2.0]))) == SUMMARY_KEYS


def test_p99_is_the_element_at_int_of_99_percent_and_makespan_counts_from_the_first_submission() -> None:
    said = summary(result("w/1", "sia", [float(i + 1) for i in range(160)]))
    assert said["p99_jct_h"] == pytest.approx(159.0)
    assert said["makespan_h"] == pytest.approx((159 + 160 * 3600) / 3600)
    assert said["gpu_h_per_job"] == pytest.approx(2.0)


def test_unfair_jobs_are_those_that_took_longer_than_on_their_share() -> None:
    said = summary(result("w/1", "sia", [0.5, 0.9, 1.3, 2.0]))
    assert said["worst_rho"] == 2.0
    assert said["unfair_fraction"] == 0.5


def test_the_ratio_of_a_policy_to_itself_is_one_and_needs_three_workloads_for_an_interval() -> None:
    two = {w: summary(result(w, "sia", [1.0, 2.0])) for w in ("a", "b")}
    assert ratio(two, two, "avg_jct_h") == {"mean": 1.0, "low": None, "high": None}
    three = {w: summary(result(w, "sia", [1.0, 2.0])) for w in ("a", "b", "c")}
    assert ratio(three, three, "avg_jct_h") == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_policies_are_compared_over_the_workloads_both_ran(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    runs = [result("a", "sia", [1.0]), result("b", "sia", [2.0]), result("a", "las", [3.0])]
    file.write_text(json.dumps(as_json(runs)))
    table = comparison(load_runs([file]), "sia")
    las = next(row for row in table["policies"] if row["policy"] == "las")
    assert las["ratio"]["avg_jct_h"]["mean"] == pytest.approx(3.0)
    with pytest.raises(ValueError, match="fifo"):
        comparison(load_runs([file]), "fifo")


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_text("[]")
    with pytest.raises(ValueError, match=r"odd\.json"):
        load_runs([file])


def test_options_reach_the_policy_file_and_the_simulations_own_keys_do_not() -> None:
    theirs, own = split_options(["sia.p=-0.25", "project=false", "solver.gap=0.001"])
    config = config_from(theirs, "sia", 120.0)
    assert own == {"project": "false"}
    assert (config.policy.sia.p, config.solver.gap, config.policy.round_s) == (-0.25, 0.001, 120.0)


@pytest.mark.parametrize(
    ("option", "says"), [("sia.pp=1", "did you mean"), ("nonsense", "key=value"), ("sia.lambda_n=-3", "sia.lambda_n")]
)
def test_a_wrong_option_is_a_sentence(option: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        config_from(split_options([option])[0], "sia", 60.0)


def test_a_sweep_is_every_combination_with_a_label_of_its_own() -> None:
    specs = combinations([RunSpec("sia"), RunSpec("las")], ["sia.p=-1,-0.5", "seed=1,2,3"])
    assert len(specs) == 12
    assert len({(spec.policy, spec.label) for spec in specs}) == 12
    assert specs[5].seed == 3
    assert "sia.p=-0.5" in specs[5].options


def waited(seed: int, jobs: int, without_s: float, with_s: float) -> Waiting:
    return Waiting("w/1", "sia", jobs, without_s, with_s, 0.0, 0.0, 0.0, 0.0, 1.0, seed)


def test_pooled_waits_count_each_undeclared_job_once() -> None:
    together = pooled([waited(0, 10, 100.0, 130.0), waited(1, 30, 200.0, 170.0)])
    assert (together.jobs, together.runs, together.runs_that_hold) == (40, 2, 1)
    assert together.mean_without_s == pytest.approx(175.0)
    assert together.mean_with_s == pytest.approx(160.0)
    assert together.longer == pytest.approx(-15.0 / 175.0)
    assert together.low is None


def test_the_promise_to_neighbours_holds_only_if_chance_could_not_break_it() -> None:
    sure = pooled([waited(seed, 10, 100.0, 103.0) for seed in range(5)])
    assert sure.holds
    assert sure.low == pytest.approx(0.03)
    unsure = pooled([waited(seed, 10, 100.0, 160.0 if seed == 0 else 60.0) for seed in range(3)])
    assert unsure.longer < 0
    assert not unsure.holds
