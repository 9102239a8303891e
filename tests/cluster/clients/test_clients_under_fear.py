"""The clients while slurmctld is frozen, killed and restarted under them, and while the pyslurm worker is killed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle, Process

#: What the scheduler of a busy machine may add to a call's deadline or a heartbeat (seconds).
_SLACK_S = 1.5
_LATE_MS = 100.0


def driven(cluster: ClusterHandle, client: str, seconds: float, kills: int = 0) -> Process:
    argv = ["env", "-C", PROJECT, VENV_PYTHON, "tests/cluster/clients/drive.py", client, str(seconds), str(kills)]
    process = cluster.spawn(argv, user="slurm")
    cluster.wait_for(lambda: "ready" in process.output(), 60, f"the client to be ready ({process.log})")
    return process


def outcome(cluster: ClusterHandle, process: Process, timeout: float) -> dict[str, Any]:
    cluster.wait_for(lambda: not process.is_alive(), timeout, f"the client to finish ({process.log})")
    said = process.output()
    print(said)
    found = json.loads(said.strip().splitlines()[-1])
    assert isinstance(found, dict)
    assert found["strange"] == [], "only named errors"
    assert found["recovered"], "everything recovers without help"
    assert found["worst_beyond_deadline_s"] <= _SLACK_S, "unavailability is said within the deadline"
    late_ms, idle_ms = found["heartbeat_worst_late_ms"], found["idle_process_worst_late_ms"]
    assert late_ms <= _LATE_MS + idle_ms, "the calling process is never blocked (beyond what an idle process sees)"
    return found


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
