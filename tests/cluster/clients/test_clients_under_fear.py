"""The clients while slurmctld is frozen, killed and restarted under them, and while the pyslurm worker is killed."""

from __future__ import annotations

import time

import pytest
from driven import driven, outcome
from harness import ClusterHandle


def frightened(cluster: ClusterHandle, client: str, pause_s: float, rounds: int) -> None:
    """Freeze, kill and restart slurmctld while the client reads and writes."""
    process = driven(cluster, client, pause_s + 12.0 * rounds)
    try:
        time.sleep(1.0)
        cluster.pause_slurmctld()
        time.sleep(pause_s)
        cluster.resume_slurmctld()
        for _ in range(rounds):
            time.sleep(1.5)
            cluster.kill_slurmctld()
            time.sleep(1.5)
            cluster.start_slurmctld()
            time.sleep(1.0)
            cluster.restart_slurmctld()
        found = outcome(cluster, process, 120 + pause_s)
    finally:
        cluster.resume_slurmctld()
        if process.is_alive():
            process.kill_group()
    assert found["unavailable"] > 0
    assert found["answered"] > 0


@pytest.mark.conformance
@pytest.mark.timeout(240)
@pytest.mark.slurm("forky")
@pytest.mark.parametrize("client", ["command", "pyslurm"])
def test_slurmctld_is_frozen_killed_and_restarted_for_seconds(cluster: ClusterHandle, client: str) -> None:
    frightened(cluster, client, pause_s=5.0, rounds=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", ["command", "pyslurm"])
def test_slurmctld_is_frozen_for_30_s_killed_and_restarted_again_and_again(
    cluster: ClusterHandle, client: str
) -> None:  # fmt: skip
    if client == "pyslurm" and cluster.suite.pyslurm is None:
        pytest.skip("no pyslurm for this release")
    frightened(cluster, client, pause_s=30.0, rounds=3)


@pytest.mark.conformance
@pytest.mark.timeout(240)
@pytest.mark.slurm("forky")
def test_the_pyslurm_worker_is_killed_five_times_in_the_middle_of_its_calls(cluster: ClusterHandle) -> None:
    process = driven(cluster, "pyslurm", 60.0, kills=5)
    assert outcome(cluster, process, 160)["kills"] == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.slurm("forky")
def test_the_pyslurm_worker_is_killed_fifty_times_in_the_middle_of_its_calls(cluster: ClusterHandle) -> None:
    process = driven(cluster, "pyslurm", 600.0, kills=50)
    assert outcome(cluster, process, 800)["kills"] == 50
