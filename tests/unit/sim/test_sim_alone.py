"""The bound beside quality tables: a job alone on the cluster, at its best configuration from start to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from sim_profiles import write_profiles, write_workload

from slurmsia.sim.alone import alone, fastest_s
from slurmsia.sim.clusters import SimCluster, TypeNodes, load_cluster
from slurmsia.sim.profiles import Profiles
from slurmsia.sim.runner import RunSpec, run_one
from slurmsia.sim.workloads import load_workload


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(write_profiles(tmp_path / "profiles", epoch_iterations=6000.0))


def test_on_one_gpu_the_bound_is_the_work_at_the_best_batch_of_each_epoch_and_one_load(profiles: Profiles) -> None:
    truth = profiles.application("small")
    one = SimCluster("one", (TypeNodes("a100", 1, 1),))
    profile, seconds, before = truth.on("a100"), 0.0, 0.0
    for epoch, progress in enumerate(truth.progress):
        speeds = []
        for local in range(32, 129):
            step_s, sync_s = profile.step_and_sync_s((1,), local)
            for extra in (0, 1, 3):
                batch = local * (extra + 1)
                square, variance = truth.moments(batch, epoch)
                gain = (variance + square) / (variance * 32 / batch + square)
                speeds.append(gain / (step_s + (step_s - sync_s) * extra))
        seconds += (progress - before) / max(speeds)
        before = progress
    assert fastest_s(truth, one) == pytest.approx(1.2 * seconds + 0.75 * 30.0, rel=0.01)


def test_a_larger_cluster_never_makes_the_bound_longer(profiles: Profiles) -> None:
    truth = profiles.application("small")
    small = SimCluster("small", (TypeNodes("t4", 1, 4),))
    assert fastest_s(truth, load_cluster("hetero64")) <= fastest_s(truth, small)


def test_no_simulated_job_ends_before_its_bound(tmp_path: Path, profiles: Profiles) -> None:
    file = write_workload(tmp_path / "small" / "workload-1.csv", jobs=6)
    bound = {job.name: job.jct_s for job in alone(load_workload(file), load_cluster("hetero64"), profiles)}
    result = run_one(RunSpec("goodput", workload_file=file, profiles_dir=tmp_path / "profiles", options=("noise=0",)))
    assert all(job.jct_s >= bound[job.name] for job in result.jobs)


def test_the_quality_bench_prints_ratios_bound_and_promises_and_uses_kept_runs(tmp_path: Path) -> None:
    from slurmsia_cli.bench_quality import quality_bench

    write_workload(tmp_path / "workloads" / "small" / "workload-1.csv", jobs=4)
    write_profiles(tmp_path / "profiles")
    kept = tmp_path / "kept.json"
    common = ["--data", str(tmp_path), "--workload", "small/1"]
    first = CliRunner().invoke(quality_bench, [*common, "--keep", str(kept)])
    assert first.exit_code == 0, first.output
    lines = [line.split() for line in first.output.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["small/1"]] == ["bound", "goodput", "sia"]
    assert sum(line[:1] in (["holds:"], ["MISSED:"]) for line in lines) >= 4
    before = kept.stat().st_mtime_ns
    again = CliRunner().invoke(quality_bench, [*common, "--from", str(kept), "--json"])
    said = json.loads(again.output)
    assert kept.stat().st_mtime_ns == before
    assert said["bound_h"]["small/1"]["avg_jct_h"] > 0
    assert {row["policy"] for row in said["comparison"]["policies"]} == {"goodput", "sia"}
