"""Figures of the clients on a live Slurm: reading a large queue, memory over many reads, and live moves. They print;
what they assert is never a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from driven import driven, outcome
from harness import _TEST_CONF_HEAD as TEST_CONF_HEAD
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import toml

CONFIG = "/tmp/clients.toml"
JOBS = 2000
#: Registered and down: slurmctld lists them like any others, and no slurmd is needed.
NODES = (
    "NodeName=big-[001-244] NodeAddr=127.0.0.1 Port=[7001-7244] Sockets=2 CoresPerSocket=32 ThreadsPerCore=1 "
    "RealMemory=262144 Gres=gpu:rtx:8 Feature=rtx State=DOWN\n"
)


def bench(cluster: ClusterHandle, *words: str, timeout: float = 600) -> dict[str, Any]:
    """What ``slurmsia bench ... --json`` prints inside the controller."""
    settings: dict[str, object] = {"slurm.accept_pyslurm_of_another_release": True, "slurm.writes_per_s": 50}
    settings |= {f"gpu_types.{name}.feature": name for name in ("t4", "rtx", "a100")}
    cluster.write(CONFIG, toml(settings))
    argv = ["env", "-C", "/tmp", f"PYTHONPATH={PROJECT}", VENV_PYTHON, "-m", "slurmsia_cli", "bench", *words]
    done = cluster.run([*argv, "--config", CONFIG, "--json"], user="slurm", timeout=timeout)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"\n{cluster.suite.name} (Slurm {cluster.suite.slurm}): bench {' '.join(words)}: {json.dumps(found)}")
    assert isinstance(found, dict)
    return found


def clients(cluster: ClusterHandle) -> list[str]:
    return ["command", "pyslurm"] if cluster.suite.pyslurm else ["command"]


def set_nodes(cluster: ClusterHandle, lines: str) -> None:
    """Put nodes into the configuration: they take a restart, for a reconfiguration ends the slurmctld of 22.05."""
    cluster.kill_slurmctld("TERM")
    cluster.write("/etc/slurm/test.conf", f"{TEST_CONF_HEAD}{lines}")
    cluster.start_slurmctld()


@contextmanager
def large(cluster: ClusterHandle) -> Iterator[None]:
    """250 nodes and 2,000 waiting jobs, taken away again."""
    set_nodes(cluster, NODES)
    try:
        script = (
            f"seq {JOBS} | xargs -P 4 -I N sbatch --parsable --hold -p batch --gres=gpu:1 --mem=100 -o /dev/null "
            "--comment='sia: gpus=1-8 level=restartable' -J job-N --wrap 'sleep 60' >/dev/null"
        )
        cluster.run(["bash", "-c", script], user="alice", timeout=500)
        yield
    finally:
        cluster.run(["scancel", "-u", "alice"], user="root", timeout=120, check=False)
        cluster.wait_for(lambda: not cluster.squeue(), 120, "an empty queue")
        set_nodes(cluster, "")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_2000_jobs_and_250_nodes_are_read_while_other_threads_run_on(cluster: ClusterHandle) -> None:
    with large(cluster):
        for client in clients(cluster):
            found = bench(cluster, "client", "--client", client, "--reads", "200")
            assert found["nodes"] == 250
            assert found["jobs"] >= JOBS
        for client in clients(cluster):
            found = outcome(cluster, driven(cluster, client, 30.0, deadline_s=30.0), 180)
            assert found["answered"] > 0
            assert found.get("unavailable", 0) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_over_5000_reads(cluster: ClusterHandle) -> None:
    for _ in range(40):
        cluster.sbatch("-p", "batch", "--gres=gpu:1", "--hold", "--comment=sia: gpus=1-4", wrap="sleep 60")
    for client in clients(cluster):
        found = bench(cluster, "client", "--client", client, "--reads", "5000", timeout=3000)
        for whose in ("", "worker_"):
            assert found[f"{whose}rss_late_mb"] <= found[f"{whose}rss_early_mb"] * 1.1 + 5.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_live_move_between_gpu_types_twenty_times(cluster: ClusterHandle) -> None:
    for client in clients(cluster):
        found = bench(cluster, "move", "--client", client, "--count", "20")
        assert found["moves"] == 20
