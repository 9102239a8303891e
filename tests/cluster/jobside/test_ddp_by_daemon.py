"""PyTorch training moved by the real daemon over changing sizes: same loss, every sample of every epoch once."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import SPOOL, LiveDaemon

HOME = "/home/alice/ddp"
EXAMPLE = f"{PROJECT}/contrib/examples/pytorch-ddp"
EPOCHS, SAMPLES = 14, 1000
WORDS = "sia: gpus=1-4 types=t4 level=restartable batch=40"


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
@pytest.mark.timeout(1500)
@pytest.mark.slurm("bookworm")
def test_training_moved_by_the_daemon_ends_with_the_same_loss_and_no_sample_lost_or_seen_twice(
    cluster: ClusterHandle,
) -> None:
    cluster.run(["sh", "-c", f"rm -rf {HOME}; mkdir -p {HOME}/ids"], user="alice")
    daemon = LiveDaemon(cluster, {"moves.grace_s": 60})
    daemon.prepare()
    daemon.start()
    try:
        for _ in range(2):
            neighbour(cluster, 4)
        job = submit(cluster, 2.0, WORDS)
        for size in (1, 2, 4):
            cluster.wait_for(lambda size=size: gpus_held(cluster, job) == size, 240, f"the daemon to give it {size}")
        neighbours = [neighbour(cluster, 2)]
        cluster.wait_for(lambda: gpus_held(cluster, job) == 2, 240, "the job to shrink to 2 for a neighbour")
        neighbours.append(neighbour(cluster, 1))
        cluster.wait_for(lambda: gpus_held(cluster, job) == 1, 240, "the job to shrink to 1 for another")
        cluster.wait_for(lambda: cluster.job_state(job) == "COMPLETED", 600, "the end of the training", every=1.0)
        print(f"{'job':>6} {'kind':<8} {'outcome':<10} {'seconds':>8}")
        for job_id, kind, state, created, ended in daemon.moves():
            print(f"{job_id:>6} {kind:<8} {state:<10} {max(0.0, ended - created):8.1f}")
    finally:
        print(daemon.log()[-3000:])
        daemon.stop()
    for one in neighbours:
        assert cluster.show_job(one)["Restarts"] == "0"
    record = cluster.run(["sh", "-c", f"cat {HOME}/ids/ids.*"], user="alice").stdout.split()
    assert Counter(map(int, record)) == Counter(dict.fromkeys(range(SAMPLES), EPOCHS))
    moved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    cluster.run(["rm", "-rf", f"{HOME}/checkpoints"], user="alice")
    alone = submit(cluster, 0.0, "")
    cluster.wait_for(lambda: cluster.job_state(alone) == "COMPLETED", 400, "the training that is never moved")
    unmoved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    print(f"restarts {moved['restart']}, loss moved {moved['loss']:.5f}, never moved {unmoved['loss']:.5f}")
    assert moved["loss"] == pytest.approx(unmoved["loss"], rel=0.02)
