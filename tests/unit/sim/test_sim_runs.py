"""Whole simulations on a small workload: they end, they repeat, and they survive failures and an interrupted batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from sim_profiles import write_profiles, write_workload

from slurmsia.plan import Plan
from slurmsia.round import decide
from slurmsia.sim import honest
from slurmsia.sim.neighbours import waiting
from slurmsia.sim.result import TIMING_KEYS, summary
from slurmsia.sim.runner import RunSpec, run_many, run_one


@pytest.fixture
def small(tmp_path: Path) -> RunSpec:
    return RunSpec(
        "sia",
        workload_file=write_workload(tmp_path / "small" / "workload-1.csv", jobs=10),
        profiles_dir=write_profiles(tmp_path / "profiles", epoch_iterations=6000.0),
    )


def changed(spec: RunSpec, **values: object) -> RunSpec:
    from dataclasses import replace

    return replace(spec, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["slurm", "sia", "sia-artifact", "fifo"])
def test_every_job_ends_and_gpu_hours_are_what_accounting_shows(small: RunSpec, policy: str) -> None:
    result = run_one(changed(small, policy=policy))
    assert len(result.jobs) == 10
    for job in result.jobs:
        assert job.end_s > job.start_s >= job.submit_s
        assert job.gpu_s == pytest.approx(sum((s.end_s - s.start_s) * s.gpus for s in job.segments))
        assert len(job.segments) == job.restarts + 1


def test_never_more_gpus_are_held_than_there_are(small: RunSpec) -> None:
    result = run_one(small)
    moments = sorted({s.start_s for job in result.jobs for s in job.segments})
    totals = {"t4": 24, "a100": 16, "rtx": 24}
    for at_s in moments:
        for name, most in totals.items():
            held = sum(
                s.gpus
                for job in result.jobs
                for s in job.segments
                if s.gpu_type == name and s.start_s <= at_s < s.end_s
            )
            assert held <= most


def test_jobs_survive_failing_nodes(small: RunSpec) -> None:
    failing = changed(small, options=("failures_per_node_day=20", "repair_h=0.2"))
    result = run_one(failing)
    assert len(result.jobs) == 10
    assert all(job.end_s > job.start_s for job in result.jobs)


def test_undeclared_jobs_keep_the_shape_they_asked_for(small: RunSpec) -> None:
    mixed = changed(small, undeclared=0.5)
    with_it, without = run_one(mixed), run_one(changed(mixed, policy="slurm"))
    plain = [job for job in with_it.jobs if not job.declared]
    assert plain
    assert all(job.restarts == 0 and len(job.segments) == 1 for job in plain)
    compared = waiting(without, with_it)
    assert compared.jobs == len(plain)


def test_a_run_that_fails_does_not_end_the_others(small: RunSpec, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("nonsense\n1\n")
    batch = run_many([changed(small, workload_file=bad), changed(small, policy="slurm")], 1)
    assert set(batch.results) == {1}
    assert "bad.csv" in batch.errors[0]


#: numpy and BLAS as on a processor of 2008: other kernels, other last bits.
OLD_PROCESSOR = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL"}

_CHILD = """
import json, sys
from pathlib import Path
from slurmsia.sim.result import TIMING_KEYS, as_json
from slurmsia.sim.runner import RunSpec, run_one
policy, physics, workload, profiles = sys.argv[1:]
files = {"workload_file": Path(workload), "profiles_dir": Path(profiles)}
spec = RunSpec(policy, **files, physics=physics, undeclared=0.2, seed=3)
runs = as_json([run_one(spec)])
for key in TIMING_KEYS:
    del runs["runs"][0]["summary"][key]
print(json.dumps(runs))
"""


@pytest.mark.parametrize(("policy", "physics"), [("sia", "honest"), ("sia-artifact", "artifact")])
def test_the_same_seed_gives_the_same_result_byte_for_byte_across_hash_seeds_and_processors(
    small: RunSpec, policy: str, physics: str
) -> None:
    said = []
    for other in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"} | OLD_PROCESSOR):
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, policy, physics, str(small.workload_file), str(small.profiles_dir)],
            env={**os.environ, **other},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(json.loads(said[0])["runs"][0]["jobs"]) == 10


def test_another_seed_is_another_world(small: RunSpec) -> None:
    one, two = (summary(run_one(changed(small, seed=seed))) for seed in (1, 2))
    assert {key: value for key, value in one.items() if key not in TIMING_KEYS} != {
        key: value for key, value in two.items() if key not in TIMING_KEYS
    }


def test_the_command_runs_compares_and_draws(small: RunSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from click.testing import CliRunner
    from slurmsia_cli.schema import schema_of
    from slurmsia_cli.simulate import simulate

    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    common = ["--workload", str(small.workload_file), "--profiles", str(small.profiles_dir), "--workers", "1"]
    ran = CliRunner().invoke(simulate, [*common, "--policy", "sia", "--policy", "slurm", "--json", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "small/1" in ran.output
    compared = CliRunner().invoke(
        simulate, ["compare", str(out), "--baseline", "slurm", "--plot", str(pictures), "--format", "svg"]
    )
    assert compared.exit_code == 0, compared.output
    as_json = CliRunner().invoke(simulate, ["compare", str(out), "--json"])
    jsonschema.validate(json.loads(out.read_text()), schema_of("simulate run"))
    jsonschema.validate(json.loads(as_json.output), schema_of("simulate compare"))
    drawn = sorted(file.name.split("-")[0] for file in pictures.iterdir())
    assert drawn == ["gantt", "gantt", "jct", "use", "use"]
    assert all(file.stat().st_size > 1000 for file in pictures.iterdir())


def test_a_sweep_runs_every_value_under_its_own_name(small: RunSpec, tmp_path: Path) -> None:
    from click.testing import CliRunner
    from slurmsia_cli.simulate import simulate

    out = tmp_path / "out.json"
    swept = CliRunner().invoke(
        simulate,
        [
            "sweep", "--workload", str(small.workload_file), "--profiles", str(small.profiles_dir), "--workers", "1",
            "--policy", "sia", "--vary", "sia.p=-1,-0.5", "--json", str(out),
        ],
    )  # fmt: skip
    assert swept.exit_code == 0, swept.output
    runs = json.loads(out.read_text())["runs"]
    assert [run["summary"]["policy"] for run in runs] == ["sia sia.p=-1", "sia sia.p=-0.5"]
    assert [run["settings"]["options"] for run in runs] == [["sia.p=-1"], ["sia.p=-0.5"]]


def test_a_wrong_policy_or_no_workload_is_a_usage_error(small: RunSpec) -> None:
    from click.testing import CliRunner
    from slurmsia_cli.simulate import simulate

    wrong = CliRunner().invoke(simulate, ["--workload", str(small.workload_file), "--policy", "siaa"])
    assert wrong.exit_code == 2
    assert "siaa" in wrong.output
    assert CliRunner().invoke(simulate, ["run"]).exit_code == 2


def test_parallel_processes_give_the_same_results_as_one(small: RunSpec) -> None:
    specs = [changed(small, policy="slurm"), changed(small, policy="sia-artifact", physics="artifact")]
    apart, together = run_many(specs, 2), run_many(specs, 1)
    assert apart.errors == together.errors == {}
    for index in (0, 1):
        assert apart.results[index].jobs == together.results[index].jobs


def test_jobs_say_what_the_options_make_them_say_about_their_work(small: RunSpec) -> None:
    """Targets that are wrong or missing change what a policy hears, never what a job does."""
    from slurmsia.sim.honest_job import HonestJob, HonestSettings
    from slurmsia.sim.profiles import Profiles
    from slurmsia.sim.workloads import load_workload

    assert small.workload_file is not None
    assert small.profiles_dir is not None
    truth = Profiles(small.profiles_dir).application("small")
    traces = load_workload(small.workload_file).jobs
    told = [HonestJob(trace, truth, HonestSettings(target_off=2.0))._says for trace in traces]
    assert told == [2.0] * len(traces)
    lies = {HonestJob(trace, truth, HonestSettings(target_lies=10.0))._says for trace in traces}
    assert lies == {0.1, 10.0}
    plain, wrong = run_one(small), run_one(changed(small, options=("target_lies=10",)))
    assert [job.end_s for job in plain.jobs] == [job.end_s for job in wrong.jobs]


@pytest.mark.parametrize("option", ["target_off=0", "own_scripts=1", "all_rigid=1", "target_off=0.5"])
def test_the_default_options_of_robustness_end_every_job(small: RunSpec, option: str) -> None:
    result = run_one(changed(small, policy="goodput", options=(option,)))
    assert len(result.jobs) == 10
    if option == "all_rigid=1":
        assert all(len({s.gpus for s in job.segments}) == 1 for job in result.jobs)


def test_with_early_rounds_jobs_start_sooner_after_they_came(small: RunSpec) -> None:
    plain, early = run_one(small), run_one(changed(small, options=("early_round_after_s=10",)))
    waits = [sum(job.start_s - job.submit_s for job in run.jobs) for run in (plain, early)]
    assert waits[1] < 0.7 * waits[0]


@pytest.mark.parametrize("policy", ["fifo", "gavel"])
def test_a_job_that_only_waits_for_room_is_never_left_to_slurm(
    small: RunSpec, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[str] = []

    def listening(*given: object, verdicts: bool, starts_only: bool) -> Plan:
        assert not verdicts, "a simulation has nobody who reads them"
        plan = decide(*given)  # type: ignore[arg-type]
        codes.extend(verdict.code for verdict in plan.verdicts)
        return plan

    monkeypatch.setattr(honest, "decide", listening)
    run_one(changed(small, policy=policy, cluster="homog64", jobs_scale=24))
    assert codes.count("waits-for-capacity") > 20
    assert "begins-later" not in codes
