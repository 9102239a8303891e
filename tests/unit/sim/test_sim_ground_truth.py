"""Profiles, workloads and clusters: what is true in a simulation, and what a bad file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_profiles import TYPES, step_and_sync, write_profiles, write_workload

from slurmsia.sim.clusters import ClusterError, load_cluster
from slurmsia.sim.profiles import ProfileError, Profiles, canonical, fold
from slurmsia.sim.workloads import WorkloadError, load_workload, mixed


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(write_profiles(tmp_path / "profiles"))


def test_a_measured_placement_is_linear_between_its_local_batches(profiles: Profiles) -> None:
    profile = profiles.application("small").on("t4")
    below, above = step_and_sync(0.004, 1, 2, 32), step_and_sync(0.004, 1, 2, 64)
    step, sync = profile.step_and_sync_s((2,), 40)
    assert step == pytest.approx(below[0] + (above[0] - below[0]) * 8 / 32)
    assert sync == pytest.approx(below[1])


def test_an_unmeasured_placement_is_interpolated_over_nodes_gpus_and_batch(profiles: Profiles) -> None:
    profile = profiles.application("small").on("t4")
    expected = step_and_sync(TYPES["aws"][0], 5, 20, 48)
    assert profile.step_and_sync_s((4,) * 5, 48) == pytest.approx(expected, rel=1e-6)


def test_placements_are_looked_up_by_their_smallest_rotation() -> None:
    assert canonical((4, 0, 2, 3)) == (2, 3, 4)
    assert canonical(()) == ()


def test_a_placement_wider_than_the_profiles_is_spread_over_the_profiled_nodes() -> None:
    assert fold((4,) * 4, "rtx") == (6, 6, 4)
    assert fold((8, 8), "rtx") == (8, 8)


def test_gradient_moments_are_linear_between_validated_batches_and_per_epoch(profiles: Profiles) -> None:
    truth = profiles.application("small")
    low, high = truth.moments(128, 2), truth.moments(512, 2)
    mid = truth.moments(320, 2)
    assert mid[0] == pytest.approx((low[0] + high[0]) / 2)
    assert truth.moments(128, 0) != truth.moments(128, 1)


def test_a_missing_type_says_which_file(profiles: Profiles) -> None:
    with pytest.raises(ProfileError, match=r"placements-quad\.csv"):
        profiles.application("small").on("quad")
    assert not profiles.application("small").has("quad")


def test_a_missing_application_says_which_folder(profiles: Profiles) -> None:
    with pytest.raises(ProfileError, match="nothere"):
        profiles.application("nothere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,time\na,1\n", "column 'application'"),
        ("name,time,application,num_replicas,batch_size\na,x,b,1,1\n", ":2:"),
        ("name,time,application,num_replicas,batch_size\na,1,b,0,1\n", "positive"),
        ("name,time,application,num_replicas,batch_size,category\na,1,b,1,1,odd\n", "odd"),
        ("name,time,application,num_replicas,batch_size\n", "no jobs"),
    ],
)
def test_a_bad_workload_file_says_what_and_where(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "w.csv"
    file.write_text(text)
    with pytest.raises(WorkloadError, match=r"w\.csv") as caught:
        load_workload(file)
    assert says in str(caught.value)


def test_scaling_issues_every_job_so_many_times_at_the_same_second(tmp_path: Path) -> None:
    file = write_workload(tmp_path / "saturn" / "workload-7.csv", jobs=5)
    once, thrice = load_workload(file), load_workload(file, scale=3)
    assert once.name == "saturn/7"
    assert len(thrice.jobs) == 15
    assert len({job.name for job in thrice.jobs}) == 15
    assert sorted(job.submit_s for job in thrice.jobs) == sorted(job.submit_s for job in once.jobs * 3)


def test_the_undeclared_share_is_the_same_jobs_for_every_policy(tmp_path: Path) -> None:
    workload = load_workload(write_workload(tmp_path / "w.csv", jobs=40))
    one, two = mixed(workload, 0.4, seed=3), mixed(workload, 0.4, seed=3)
    assert one == two
    assert 5 < sum(not job.declared for job in one.jobs) < 30


def test_the_papers_clusters_have_the_papers_configurations() -> None:
    assert len(load_cluster("hetero64").artifact_shapes()) == 19
    assert len(load_cluster("homog64").artifact_shapes()) == 18
    assert len(load_cluster("hetero64x32").artifact_shapes()) == 29
    assert load_cluster("hetero64x32").gpus == 2048
    assert load_cluster("physical44").gpus == 44


def test_a_cluster_file_is_read_and_a_wrong_one_says_what_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[gpu_types.a100]\nnodes = 3\ngpus_per_node = 8\n")
    assert load_cluster(str(file)).gpus == 24
    file.write_text("[gpu_types.a100]\nnodes = 3\n")
    with pytest.raises(ClusterError, match="gpus_per_node"):
        load_cluster(str(file))
    with pytest.raises(ClusterError, match="hetero64"):
        load_cluster("nosuch")
