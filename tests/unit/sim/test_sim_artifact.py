"""The public simulator's accounting and the public policy's value, wart by wart (ARTIFACT.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sim_profiles import write_profiles, write_workload

from slurmsia.cluster import Shape
from slurmsia.models.base import GoodputMatrix, JobModel, RestartCost
from slurmsia.policy.base import Candidate, RoundProblem, Terms
from slurmsia.policy.sia_artifact import SiaArtifact
from slurmsia.sim.artifact import ArtifactWorld, simulate_artifact
from slurmsia.sim.artifact_estimates import Columns
from slurmsia.sim.artifact_job import ArtifactJob, make_job
from slurmsia.sim.clusters import load_cluster
from slurmsia.sim.profiles import Profiles
from slurmsia.sim.workloads import TraceJob, load_workload
from slurmsia.solver import SolverLimits, solve

SHAPES = (Shape("t4", 1, 1), Shape("t4", 1, 2), Shape("a100", 1, 1))


def problem(goodput: list[list[float]], candidates: list[Candidate], restart_s: float = 30.0) -> RoundProblem:
    values = np.array(goodput)
    nothing = np.zeros(values.shape, dtype=np.int64)
    return RoundProblem(
        now_s=0.0,
        round_s=60.0,
        candidates=tuple(candidates),
        shapes=SHAPES,
        matrix=GoodputMatrix(
            tuple(c.job_id for c in candidates), values, values, nothing, nothing, np.zeros(values.shape)
        ),
        valid=values > 0,
        models={c.job_id: JobModel(c.job_id, restart=RestartCost(restart_s)) for c in candidates},
        capacity_gpus={},
        total_gpus={},
    )


def said(policy: SiaArtifact, of: RoundProblem) -> Terms:
    terms = policy.terms(of)
    assert isinstance(terms, Terms)
    return terms


def test_costs_are_rounded_to_two_decimals_of_the_row_normalised_goodput() -> None:
    terms = said(SiaArtifact(), problem([[10.0, 19.0, 33.0]], [Candidate("a")]))
    cost = 1.1 - terms.value
    assert cost[0].tolist() == pytest.approx([1.0, round(1.9**-0.5, 2), round(3.3**-0.5, 2)])
    assert terms.sign == -1.0
    assert terms.offset == pytest.approx(1.1)


def test_a_job_that_holds_something_pays_the_restart_factor_on_everything_else() -> None:
    holder = Candidate("a", current=0, age_s=300.0, restarts=2)
    terms = said(SiaArtifact(decimals=9), problem([[10.0, 20.0, 30.0]], [holder]))
    factor = (300.0 - 2 * 30.0) / (300.0 + 30.0)
    assert (1.1 - terms.value)[0].tolist() == pytest.approx([1.0, (2 * factor) ** -0.5, (3 * factor) ** -0.5])


@pytest.mark.parametrize(
    "free", [Candidate("a", current=-1, age_s=5000.0, restarts=9), Candidate("a", current=0, age_s=29.0, restarts=5)]
)
def test_a_job_without_gpus_or_younger_than_a_restart_is_moved_for_nothing(free: Candidate) -> None:
    terms = said(SiaArtifact(decimals=9), problem([[10.0, 20.0, 30.0]], [free]))
    assert (1.1 - terms.value)[0].tolist() == pytest.approx([1.0, 2**-0.5, 3**-0.5])


def test_a_job_restarted_too_often_costs_at_most_3000() -> None:
    worn = Candidate("a", current=0, age_s=60.0, restarts=5)
    terms = said(SiaArtifact(), problem([[10.0, 20.0, 30.0]], [worn]))
    assert (1.1 - terms.value)[0].tolist() == pytest.approx([1.0, 3000.0, 3000.0])


def test_with_positive_p_the_program_is_a_maximisation_of_the_same_expression() -> None:
    terms = said(SiaArtifact(p=0.5, lambda_n=-1.1), problem([[10.0, 20.0, 40.0]], [Candidate("a")]))
    assert terms.sign == 1.0
    assert (terms.value + -1.1)[0].tolist() == pytest.approx([1.0, 1.41, 2.0])


@pytest.fixture
def job(tmp_path: Path) -> ArtifactJob:
    profiles = Profiles(write_profiles(tmp_path / "profiles"))
    cluster = load_cluster("hetero64")
    columns = Columns(cluster.artifact_shapes(), ("t4", "a100", "rtx"), {"t4": 4, "a100": 8, "rtx": 8})
    trace = TraceJob("small-0", 0.0, "small", 2, 512)
    return make_job(trace, profiles.application("small"), columns, project=True, rigid=False)


def test_the_first_start_is_charged_but_not_counted_as_a_restart(job: ArtifactJob) -> None:
    job.place(60.0, "t4", (1,), 0)
    assert (job.restarts, job.restoring_s) == (0, 30.0)
    job.advance(60.0, 60.0)
    assert job.gpu_s_by_type == {"t4": 60.0}
    assert job.progress > 0


def test_a_job_in_restore_makes_no_progress_and_records_no_profile_point(job: ArtifactJob) -> None:
    job.place(0.0, "t4", (1,), 0)
    job.advance(0.0, 30.0)
    assert job.progress == 0.0
    assert job.estimate.params == {}


def test_same_shape_elsewhere_is_free_and_a_new_shape_is_not(job: ArtifactJob) -> None:
    job.place(0.0, "t4", (1,), 0)
    job.advance(0.0, 60.0)
    job.place(60.0, "t4", (1,), 0)
    assert (job.restarts, job.restoring_s) == (0, 0.0)
    job.place(60.0, "t4", (2,), 1)
    assert (job.restarts, job.restoring_s) == (1, 30.0)


def test_giving_gpus_up_is_free_and_coming_back_is_a_restart(job: ArtifactJob) -> None:
    job.place(0.0, "t4", (1,), 0)
    job.advance(0.0, 60.0)
    job.place(60.0, None, (), -1)
    assert job.restarts == 0
    job.advance(60.0, 60.0)
    job.place(120.0, "a100", (1,), 8)
    assert job.restarts == 1


def test_before_its_first_run_a_job_is_worth_one_gpu_of_any_type(job: ArtifactJob) -> None:
    row = job.estimate.goodput_row()
    assert row[row > 0].tolist() == [1.0, 1.0, 1.0]


def test_size_doubles_at_most_and_the_limit_is_shared_between_types(job: ArtifactJob) -> None:
    job.place(0.0, "t4", (2,), 1)
    job.advance(0.0, 60.0)
    assert job.estimate.max_gpus() == {"t4": 4, "a100": 4, "rtx": 4}


def test_an_unseen_type_is_the_first_seen_one_times_the_ratio_of_single_gpus(job: ArtifactJob) -> None:
    job.place(0.0, "t4", (1,), 0)
    job.advance(0.0, 60.0)
    row = job.estimate.goodput_row()
    shapes = job.estimate.columns.shapes
    truth = job.truth
    ratio = truth.on("a100").single_ratio / truth.on("t4").single_ratio
    assert row[shapes.index(Shape("a100", 1, 2))] == pytest.approx(row[shapes.index(Shape("t4", 1, 2))] * ratio)


def test_epochs_take_whole_seconds(job: ArtifactJob) -> None:
    job.place(0.0, "a100", (1,), 8)
    now = 0.0
    while job.end_s is None:
        job.advance(now, 60.0)
        now += 60.0
    assert job.end_s == int(job.end_s)


def test_a_small_workload_finishes_and_every_gpu_second_is_accounted(tmp_path: Path) -> None:
    world = ArtifactWorld(
        load_cluster("hetero64"),
        Profiles(write_profiles(tmp_path / "profiles")),
        SiaArtifact(),
        solve,
        SolverLimits(),
    )
    run = simulate_artifact(world, load_workload(write_workload(tmp_path / "w.csv")))
    assert len(run.jobs) == 12
    for done in run.jobs:
        held = sum((s.end_s - s.start_s) * s.gpus for s in done.segments)
        assert done.gpu_s == pytest.approx(held)
        assert done.end_s > done.start_s >= done.submit_s
