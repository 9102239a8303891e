"""What every test on the cluster takes for granted, on each Slurm release."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from harness import ClusterHandle

pytestmark = [pytest.mark.smoke, pytest.mark.slurm]

DECLARED = "--comment=sia: gpus=1-8"


@pytest.mark.parametrize("gpu_type", ["t4", "rtx", "a100"])
def test_each_gpu_type_runs_a_job_that_sees_its_gpu(cluster: ClusterHandle, gpu_type: str) -> None:
    job = cluster.sbatch("-p", gpu_type, f"--gres=gpu:{gpu_type}:2", wrap="echo gpus=$CUDA_VISIBLE_DEVICES")
    fields = cluster.wait_for_state(job, "COMPLETED")
    assert fields["NodeList"].startswith(f"{gpu_type}-")
    assert cluster.job_output(job).strip() == "gpus=0,1"


def test_a_job_on_two_nodes_runs_a_step_on_both(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "t4", "-N2", "--gres=gpu:4", "--ntasks-per-node=1", wrap="srun hostname; echo end")
    cluster.wait_for_state(job, "COMPLETED")
    assert cluster.job_output(job).split() == ["compute-t4", "compute-t4", "end"]


def test_accounting_knows_a_finished_job_and_its_typed_gpus(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "rtx", "--gres=gpu:rtx:3", wrap="true")
    cluster.wait_for_state(job, "COMPLETED")
    query = ["sacct", "-X", "-n", "-P", "-j", str(job), "-o", "User,State,AllocTRES"]

    def recorded() -> str:
        out = cluster.run_as("alice", query).stdout
        return out if "COMPLETED" in out else ""

    user, state, tres = cluster.wait_for(recorded, 20, "the job in accounting").strip().split("|")
    assert (user, state) == ("alice", "COMPLETED")
    assert "gres/gpu:rtx=3" in tres.split(",")


def test_two_users_and_slurm_have_the_same_ids_everywhere(cluster: ClusterHandle) -> None:
    seen = {
        cluster.run_as("root", ["bash", "-c", "id alice; id bob; id slurm"], container=container).stdout
        for container in ("controller", "accounting", "compute-t4", "compute-rtx", "compute-a100")
    }
    assert len(seen) == 1
    assert "uid=2001(alice)" in seen.pop()


def test_a_users_home_is_the_same_files_on_controller_and_nodes(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "a100", wrap="echo written on $SLURMD_NODENAME >shared-file", user="bob")
    cluster.wait_for_state(job, "COMPLETED")
    assert cluster.run_as("bob", ["cat", "shared-file"]).stdout == "written on a100-1\n"


def test_slurmsia_is_installed_where_jobs_and_daemon_run(cluster: ClusterHandle) -> None:
    for container in ("controller", "compute-t4"):
        shown = cluster.run_as("alice", ["slurmsia", "--version"], container=container).stdout
        assert "0.1.0" in shown


def test_a_declared_job_is_leased_while_the_heartbeat_is_fresh(cluster: ClusterHandle) -> None:
    cluster.set_heartbeat(age_s=5)
    before = time.time()
    job = cluster.sbatch("-p", "elastic", "--gres=gpu:1", DECLARED, wrap="true")
    fields = cluster.show_job(job)
    assert (fields["JobState"], fields["Reason"], fields["Priority"] != "0") == ("PENDING", "BeginTime", True)
    begin = datetime.fromisoformat(fields["StartTime"] + "+00:00").timestamp()
    assert before + 590 <= begin <= time.time() + 610


@pytest.mark.parametrize("age_s", [None, 3600, -3600])
def test_a_declared_job_starts_at_once_without_a_fresh_heartbeat(cluster: ClusterHandle, age_s: float | None) -> None:
    cluster.set_heartbeat(age_s)
    job = cluster.sbatch("-p", "elastic", "--gres=gpu:1", DECLARED, wrap="true")
    cluster.wait_for_state(job, "COMPLETED")


def test_an_undeclared_job_is_never_leased(cluster: ClusterHandle) -> None:
    cluster.set_heartbeat(age_s=5)
    job = cluster.sbatch("-p", "batch", "--gres=gpu:1", "--comment=ordinary", wrap="true")
    cluster.wait_for_state(job, "COMPLETED")


def test_a_users_own_later_begin_time_is_respected(cluster: ClusterHandle) -> None:
    cluster.set_heartbeat(age_s=5)
    before = time.time()
    job = cluster.sbatch("-p", "elastic", "--gres=gpu:1", "--begin=now+7200", DECLARED, wrap="true")
    begin = datetime.fromisoformat(cluster.show_job(job)["StartTime"] + "+00:00").timestamp()
    assert begin >= before + 7190


def test_a_leased_job_starts_in_a_new_shape_by_one_update(cluster: ClusterHandle) -> None:
    cluster.set_heartbeat(age_s=5)
    job = cluster.sbatch("-p", "elastic", "-N2", "--gres=gpu:4", "--ntasks-per-node=1", DECLARED, wrap="sleep 300")
    edit = "NumNodes=1-1 NumTasks=1 NumCPUs=1-1 Gres=gpu:8 Features=rtx StartTime=now"
    cluster.scontrol("update", f"JobId={job}", *edit.split())
    fields = cluster.wait_for_state(job, "RUNNING")
    assert (fields["NumNodes"], fields["NodeList"][:4]) == ("1", "rtx-")


def test_a_requeued_job_is_begun_again_by_slurm_after_121_seconds(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "t4", "--gres=gpu:1", "--requeue", wrap="sleep 300")
    cluster.wait_for_state(job, "RUNNING")
    before = time.time()
    cluster.scontrol("requeue", str(job))
    fields = cluster.wait_for_state(job, "PENDING")
    begin = datetime.fromisoformat(fields["EligibleTime"] + "+00:00").timestamp()
    assert before + 119 <= begin <= time.time() + 123


def test_slurmctld_comes_back_after_kill_with_the_queue_it_had(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "t4", "--gres=gpu:1", wrap="sleep 300")
    cluster.wait_for_state(job, "RUNNING")
    cluster.wait_until_saved(job)
    cluster.kill_slurmctld()
    cluster.start_slurmctld()
    fields = cluster.show_job(job)
    assert fields["JobState"] == "RUNNING", fields


def test_a_stopped_node_goes_down_and_comes_back(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "a100", "--gres=gpu:1", "--no-requeue", wrap="sleep 300")
    cluster.wait_for_state(job, "RUNNING")
    sleeping = ["pgrep", "-u", "alice", "sleep"]
    cluster.wait_for(lambda: cluster.run(sleeping, container="compute-a100", check=False).stdout, 10, "the job's sleep")
    cluster.stop_node("a100-1")
    assert cluster.job_state(job) == "RUNNING", "a power cut is not reported by anybody"
    assert not cluster.run(sleeping, container="compute-a100", check=False).stdout
    cluster.wait_for(lambda: cluster.nodes()["a100-1"].startswith("down"), 90, "a100-1 to be down")
    assert cluster.nodes()["rtx-1"] == "idle"
    cluster.start_node("a100-1")
    cluster.wait_for(lambda: cluster.nodes()["a100-1"] == "idle", 60, "a100-1 to be idle again")


@pytest.mark.slurm("forky")
def test_pyslurm_reads_jobs_and_nodes(cluster: ClusterHandle) -> None:
    job = cluster.sbatch("-p", "rtx", "--gres=gpu:rtx:8", wrap="sleep 300")
    cluster.wait_for_state(job, "RUNNING")
    told = cluster.python(
        "import pyslurm\n"
        f"job = pyslurm.Jobs.load()[{job}]\n"
        "print(job.state, job.gres_per_node, len(pyslurm.Nodes.load()))"
    )
    assert told.strip() == "RUNNING {'gres/gpu:rtx': 8} 6"


def test_postgresql_answers_on_this_machine(cluster: ClusterHandle) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with sqlalchemy.create_engine(cluster.postgres_url).connect() as connection:
        assert connection.exec_driver_sql("select current_user").scalar() == "slurmsia"
