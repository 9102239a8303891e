"""Profile files and the benches on them: unknown names, missing files and broken rows are left out, not errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from slurmsia_cli.bench_bootstrap import bootstrap_bench
from slurmsia_cli.bench_fit import fit_bench
from slurmsia_cli.bench_matrix import matrix_bench
from slurmsia_cli.models import models

from slurmsia.models.base import ThroughputParams
from slurmsia.models.profiles import fit_applications, read
from slurmsia.models.throughput import step_time

SPEED = {"aws": 1.0, "dgx-ext": 3.0, "h900": 9.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cifar10", "unheard-of"):
        app = tmp_path / name
        app.mkdir()
        for suffix, speed in SPEED.items():
            params = ThroughputParams(0.1 / speed, 0.001 / speed, 0.1, 0.002, 0.03, 0.001, 1.5)
            rows = ["placement,local_bsz,step_time,sync_time"]
            for place in ("1", "2", "4", "44", "31", "4444"):
                nodes, gpus = len(place), sum(map(int, place))
                for m in (32, 64, 128, 256):
                    step = float(step_time(params, nodes, gpus, m))
                    rows.append(f"{place},{m},{step},{max(step - (0.1 + 0.001 * m) / speed, 0.0)}")
            rows += ["x,32,1,0", "1,32,nan,0", "1,32,-1,0", "1,,1"]
            (app / f"placements-{suffix}.csv").write_text("\n".join(rows) + "\n")
        (app / "validation-128.csv").write_text("progress,iteration,metric,grad_sqr,grad_var\n1,1,0.5,0.25,0.75\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a profile")
    return tmp_path


def test_profiles_are_read_with_our_type_names_and_bad_rows_counted(folder: Path) -> None:
    profiles = read(folder)
    assert [(p.application, p.gpu_type) for p in profiles] == [
        (app, gpu_type) for app in ("cifar10", "unheard-of") for gpu_type in ("t4", "a100", "h900")
    ]
    assert {p.dropped_rows for p in profiles} == {4}
    # unequal nodes are no configuration
    assert (2, 4) not in {(point.nodes, point.gpus) for point in profiles[0].points}
    assert profiles[0].efficiency.square == pytest.approx(0.25)


def test_applications_without_known_limits_are_left_out_of_the_shipped_file(folder: Path, tmp_path: Path) -> None:
    apps = fit_applications(read(folder))
    assert set(apps) == {"cifar10"}
    assert set(apps["cifar10"].types) == {"t4", "a100", "h900"}
    output = tmp_path / "out.json"
    result = CliRunner().invoke(models, ["fit-shipped", "--profiles", str(folder), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "unheard-of" in result.output
    assert set(json.loads(output.read_text())["applications"]) == {"cifar10"}


def test_bench_fit_reports_errors_and_times_for_every_profile_it_finds(folder: Path) -> None:
    result = CliRunner().invoke(fit_bench, ["--profiles", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert len(document["cells"]) == 6
    for cell in document["cells"]:
        assert cell["inside_median_error"] < 0.05
        assert set(cell["outside_by_doubling"]) == {"2->4", "4->8", "8->16"}
    for name in ("cold", "warm"):
        assert 0 < document[name]["median_ms"] <= document[name]["worst_ms"]
    assert CliRunner().invoke(fit_bench, ["--profiles", str(folder)]).output.count("unheard-of") == 3


def test_bench_bootstrap_compares_both_ways_for_pairs_whose_limits_are_known(folder: Path) -> None:
    result = CliRunner().invoke(bootstrap_bench, ["--profiles", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert {(row["from"], row["to"]) for row in document["pairs"]} == {("t4", "a100"), ("a100", "t4")}
    assert set(document["applications"]["cifar10"]) == {"ours", "artifact", "ours_at_least_as_good"}


def test_a_folder_without_profiles_is_said_to_be_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(fit_bench, ["--profiles", str(tmp_path)])
    assert result.exit_code == 1
    assert "no profiles found" in result.output


def test_bench_matrix_prints_fill_and_refresh(tmp_path: Path) -> None:
    result = CliRunner().invoke(matrix_bench, ["--jobs", "40", "--configurations", "20", "--repeat", "1", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert document["fill"]["median_ms"] > 0
    assert document["feasible_share"] > 0.3
