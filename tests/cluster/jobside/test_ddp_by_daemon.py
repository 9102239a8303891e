"""PyTorch training moved by the real daemon over changing sizes: same loss, every sample of every epoch once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import SPOOL, LiveDaemon

HOME = "/home/alice/ddp"
EXAMPLE = f"{PROJECT}/contrib/examples/pytorch-ddp"
EPOCHS, SAMPLES = 14, 1000
WORDS = "sia: gpus=1-4 types=t4 level=restartable batch=40"
T4_NODES = ("t4-1", "t4-2", "t4-3")


def give_t4_nodes(cluster: ClusterHandle, gpus: int) -> None:
    """Make every t4 node have so many GPUs, as Slurm's files say, and bring the nodes back."""
    cluster.run(["sed", "-i", f"s/gpu:t4:[0-9]/gpu:t4:{gpus}/", "/etc/slurm/nodes.conf"])
    devices = f"/Type=t4/s/nvidia[[]0-[0-9][]]/nvidia[0-{gpus - 1}]/"
    cluster.run(["sed", "-i", devices, "/etc/slurm/gres.conf"])
    for node in T4_NODES:
        cluster.stop_node(node)
    cluster.restart_slurmctld()
    for node in T4_NODES:
        cluster.start_node(node)
    cluster.wait_for(lambda: set(cluster.nodes().values()) == {"idle"}, 60, f"t4 nodes with {gpus} GPUs")


@pytest.fixture
def small_nodes(cluster: ClusterHandle) -> Iterator[ClusterHandle]:
    """The cluster with two GPUs on each t4 node, so that four GPUs are two nodes."""
    give_t4_nodes(cluster, 2)
    yield cluster
    cluster.clean()
    give_t4_nodes(cluster, 4)


def submit(cluster: ClusterHandle, slow_s: float, comment: str) -> int:
    path = cluster.run(["sh", "-c", "echo $PATH"], user="alice").stdout.strip()
    env = {
        "PATH": f"{VENV_PYTHON.rsplit('/', 1)[0]}:{path}",
        "SLURMSIA_SPOOL": SPOOL,
        "PYTHON": VENV_PYTHON,
        "EXAMPLE_DIR": EXAMPLE,
        "OMP_NUM_THREADS": "1",
    }
    options = ["--partition=elastic", "--constraint=t4", "--mem=4000", f"--output={HOME}/log", "--time=60"]
    arguments = ["--epochs", str(EPOCHS), "--samples", str(SAMPLES), "--batch", "40", "--record", f"{HOME}/ids"]
    arguments += ["--checkpoint", f"{HOME}/checkpoints", "--slow", str(slow_s)]
    argv = ["sbatch", "--parsable", *options, f"--comment={comment}", f"{EXAMPLE}/train.sbatch", *arguments]
    return int(cluster.run(argv, user="alice", env=env).stdout.split()[-1].split(";")[0])


def neighbour(cluster: ClusterHandle, gpus: int) -> int:
    """An undeclared job that stays until it is cancelled; returns its id."""
    options = ["-p", "t4", f"--gres=gpu:{gpus}", "--mem=100", "--time=60"]
    return cluster.sbatch(*options, wrap="while :; do sleep 1; done", user="bob")


def gpus_held(cluster: ClusterHandle, job: int) -> int:
    fields = cluster.show_job(job)
    if fields.get("JobState") != "RUNNING":
        return 0
    tres = dict(part.split("=") for part in fields.get("AllocTRES", fields.get("TRES", "")).split(",") if "=" in part)
    return int(tres.get("gres/gpu", 0))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.slurm("bookworm")
def test_training_moved_by_the_daemon_over_two_nodes_ends_with_the_same_loss_and_no_sample_lost_or_seen_twice(
    small_nodes: ClusterHandle,
) -> None:
    cluster = small_nodes
    cluster.run(["sh", "-c", f"rm -rf {HOME}; mkdir -p {HOME}/ids"], user="alice")
    daemon = LiveDaemon(cluster, {"moves.grace_s": 90, "moves.first_report_s": 180})
    daemon.prepare()
    daemon.start()
    try:
        neighbour(cluster, 2)
        job = submit(cluster, 2.0, WORDS)
        ran_on: list[tuple[int, int]] = []

        def sized(gpus: int, why: str) -> None:
            cluster.wait_for(lambda: gpus_held(cluster, job) == gpus, 400, why)
            ran_on.append((gpus, int(cluster.show_job(job)["NumNodes"])))

        for size in (1, 2, 4):
            sized(size, f"the daemon to give it {size}")
        neighbours = [neighbour(cluster, 2)]
        sized(2, "the job to shrink to 2 for a neighbour")
        neighbours.append(neighbour(cluster, 1))
        sized(1, "the job to shrink to 1 for another")
        cluster.wait_for(lambda: cluster.job_state(job) == "COMPLETED", 900, "the end of the training", every=1.0)
        print(f"GPUs and nodes of its runs: {ran_on}")
        print(f"{'job':>6} {'kind':<8} {'outcome':<10} {'seconds':>8}")
        for job_id, kind, state, created, ended in daemon.moves():
            print(f"{job_id:>6} {kind:<8} {state:<10} {max(0.0, ended - created):8.1f}")
    finally:
        print(daemon.log()[-3000:])
        daemon.stop()
    assert ran_on == [(1, 1), (2, 1), (4, 2), (2, 1), (1, 1)]
    for one in neighbours:
        assert cluster.show_job(one)["Restarts"] == "0"
    record = cluster.run(["sh", "-c", f"cat {HOME}/ids/ids.*"], user="alice").stdout.split()
    assert Counter(map(int, record)) == Counter(dict.fromkeys(range(SAMPLES), EPOCHS))
    moved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    cluster.run(["rm", "-rf", f"{HOME}/checkpoints"], user="alice")
    alone = submit(cluster, 0.0, "")
    cluster.wait_for(lambda: cluster.job_state(alone) == "COMPLETED", 600, "the training that is never moved")
    unmoved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    print(f"restarts {moved['restart']}, loss moved {moved['loss']:.5f}, never moved {unmoved['loss']:.5f}")
    assert moved["loss"] == pytest.approx(unmoved["loss"], rel=0.02)
