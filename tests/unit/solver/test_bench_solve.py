"""The bench's own promises: what it reads, what it stacks, and what it prints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from slurmsia_cli.bench_instances import read
from slurmsia_cli.bench_solve import solve_bench


@pytest.fixture
def instances(tmp_path):
    """Two rounds of three jobs on two types; the recorded optimum of the second is wrong on purpose where asked."""
    no = 0.0001
    first = {
        "index": 0,
        "G": [[1.0, 2.0, 1.5, 3.0], [1.0, 1.2, no, no], [1.0, no, 4.0, no]],
        "r": [0.5, 0.9, 1.0],
        "prev": [0, None, 2],
        "pinned": [2],
        "objective_cbc": 0.63 + 1.0 + 0.5,
        "solution": [0, 0, 2],
    }
    data = {
        "configs": [["a", 1, 1], ["a", 1, 2], ["b", 1, 1], ["b", 1, 2]],
        "capacity": {"a": 2, "b": 2},
        "p": -0.5,
        "lambda_n": 1.1,
        "rounds": [first],
    }
    # job 2 pinned on 1 b; job 0 stays on 1 a (1.0), job 1 takes 1 a (1.0): 2.5 in all
    data["rounds"][0]["objective_cbc"] = 2.5
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    return path


def run(*arguments: str):
    result = CliRunner().invoke(solve_bench, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, json.loads(result.stdout)


def test_recorded_programs_are_checked_against_their_optimum_and_the_reference_mode(instances):
    code, report = run("--instances", str(instances))
    assert report["equal_to_recorded"] == report["with_recorded_optimum"] == 1
    assert report["objective_vs_reference_worst"] <= 1e-9
    assert report["gap_worst"] <= 1e-4
    assert code == 0


def test_a_recorded_optimum_that_does_not_match_fails_the_bench(instances):
    data = json.loads(instances.read_text())
    data["rounds"][0]["objective_cbc"] = 2.4
    instances.write_text(json.dumps(data))
    code, report = run("--instances", str(instances))
    assert code == 1
    assert report["not_equal_to_recorded"] == ["0"]


def test_stacked_programs_hold_distinct_jobs_and_scaled_capacity(instances):
    data = read(instances)
    stacked = data.stacked(40, seed=1)
    assert len(np.unique(np.column_stack([stacked.goodput, stacked.factor]), axis=0)) == 40
    assert [row.limit for row in data.sums(64)] == [32, 32]


def test_stacked_programs_are_proven_and_checked_by_highs(instances):
    code, report = run("--instances", str(instances), "--gpus", "40", "--jobs", "25", "--seeds", "3")
    assert report["objective_vs_reference_worst"] <= 1e-6
    assert report["gap_worst"] <= 1e-4
    assert report["jobs"] == 25
    assert code == 0


def test_other_solvers_get_the_identical_program_in_the_same_run(instances):
    _, report = run(
        "--instances",
        str(instances),
        "--gpus",
        "40",
        "--jobs",
        "25",
        "--seeds",
        "1",
        "--compare",
        "--time-limit-s",
        "10",
    )
    by_name = {line["solver"]: line for line in report["compare"]}
    assert {"slurmsia", "HiGHS", "CBC"} <= set(by_name)
    assert all(line["below_best_worst"] <= 1e-6 for line in by_name.values() if line["available"])


def test_a_file_of_another_form_is_a_usage_error_that_names_the_key(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"configs": []}')
    result = CliRunner().invoke(solve_bench, ["--instances", str(path)])
    assert result.exit_code == 2
    assert "rounds" in result.output
