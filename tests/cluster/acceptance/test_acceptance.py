"""The acceptance run: declared jobs of every level and undeclared neighbours under the real daemon on real Slurm."""

from __future__ import annotations

import os
import random

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import LiveDaemon
from outcome import judge, read_outcome

LEVELS = ("adaptive", "adaptive", "restartable", "restartable", "moldable", "rigid")
APPLICATIONS = ("cifar10", "bert", "deepspeech2", "yolov3")
FULL = bool(os.environ.get("SLURMSIA_ACCEPTANCE_FULL"))
#: Another policy drives the same run without any other change.
POLICY = {"policy.name": os.environ.get("SLURMSIA_ACCEPTANCE_POLICY", "sia")}
DECLARED, UNDECLARED, SPAN_S, LIMIT_S = (30, 20, 300.0, 1800.0) if FULL else (10, 5, 40.0, 240.0)
LEAST_MOVES = 10 if FULL else 4
#: What an application's jobs are to do, in samples. In the full run enough for two of the applications to fill the
#: fastest GPUs, so that jobs start elsewhere and move there, and for a restart to pay for itself.
SAMPLES = (
    {"cifar10": 6e6, "bert": 110_000, "deepspeech2": 72_000, "yolov3": 27_000}
    if FULL
    else {"cifar10": 250_000, "bert": 6_000, "deepspeech2": 12_000, "yolov3": 3_000}
)
SPEEDUP = 6.0

SCRIPT = f"""\
#!/bin/bash
eval "$(env -C {PROJECT} {VENV_PYTHON} -c 'from slurmsia_cli.main import main; main()' env)"
cd {PROJECT}
trap '' USR1  # until Python listens
exec {VENV_PYTHON} -m tests.cluster.acceptance.replay_job APP "$1" SPEED LEVEL $HOME
"""


def words(level: str, draw: random.Random) -> str:
    high = draw.choice((4, 8, 8, 16))
    if level == "rigid":
        return "sia: level=rigid"
    if level == "moldable":
        return f"sia: gpus=1-{high} level=moldable"
    if level == "restartable":
        return f"sia: gpus=1-{high} level=restartable signal=USR1@20"
    return f"sia: gpus=1-{high} level=adaptive batch=64:2048 local=8:256 signal=USR1@20"


def submit_declared(cluster: ClusterHandle, app: str, samples: float, level: str, comment: str) -> int:
    """A job of alice's that replays an application through the real job library; one GPU of any type is asked for.

    All jobs of an application and level have one script, as users' have; how much they are to do is its argument.
    """
    script = f"/home/alice/{app}-{level}.sh"
    text = SCRIPT.replace("APP", app).replace("SPEED", str(SPEEDUP)).replace("LEVEL", level)
    cluster.run(["tee", script], user="alice", input=text)
    options = ["-p", "elastic", "--gres=gpu:1", "--ntasks-per-node=1", "--mem=200", "--requeue", "-t", "60"]
    options += ["--open-mode=append", f"--comment={comment}", script, str(samples)]
    return int(cluster.run(["sbatch", "--parsable", *options], user="alice").stdout.split()[-1].split(";")[0])


def submit_all(cluster: ClusterHandle, draw: random.Random) -> tuple[dict[int, str], list[int]]:
    """Jobs over the span, in a drawn order; returns the declared ones with their level, and the others."""
    declared: dict[int, str] = {}
    undeclared: list[int] = []
    order = ["declared"] * DECLARED + ["undeclared"] * UNDECLARED
    draw.shuffle(order)
    for kind in order:
        if kind == "undeclared":
            options = ["-p", draw.choice(("batch", "rtx", "t4")), f"--gres=gpu:{draw.choice((1, 2, 4))}", "--mem=100"]
            undeclared.append(cluster.sbatch(*options, wrap=f"sleep {draw.randint(10, 25)}"))
        else:
            level = LEVELS[len(declared) % len(LEVELS)]
            app = APPLICATIONS[len(declared) % len(APPLICATIONS)]
            samples = SAMPLES[app] * draw.uniform(0.6, 1.4)
            declared[submit_declared(cluster, app, samples, level, words(level, draw))] = level
        cluster.run(["sleep", f"{draw.uniform(0, 2 * SPAN_S / len(order)):.2f}"])
    return declared, undeclared


@pytest.mark.acceptance
@pytest.mark.timeout(2700)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_declared_jobs_move_undeclared_ones_are_untouched_and_every_allocation_is_as_planned(
    cluster: ClusterHandle,
) -> None:
    draw = random.Random(7)
    daemon = LiveDaemon(cluster, dict(POLICY))
    daemon.prepare()
    daemon.start()
    try:
        declared, undeclared = submit_all(cluster, draw)
        everything = {str(job) for job in (*declared, *undeclared)}
        cluster.wait_for(
            lambda: not everything & {row["job"] for row in cluster.squeue()}, LIMIT_S, "every job to end", every=2.0
        )
        outcome = read_outcome(cluster, declared, undeclared)
        print(f"\nacceptance on Slurm {cluster.suite.slurm} ({cluster.suite.name})\n{outcome}")
        problems = judge(outcome)
        assert not problems, "\n".join(problems)
        assert len(outcome.changes) >= LEAST_MOVES, f"only {len(outcome.changes)} moves changed type or size"
        assert outcome.between_sizes, "no job changed its size"
        assert outcome.between_types or not FULL, "no job changed its GPU type"
        assert "Traceback" not in daemon.log(), daemon.log()
    finally:
        daemon.stop()


DECLARED_BESIDE = 6
#: Undeclared jobs that fit only if declared ones make room: GPU type, GPUs. As many as the type has less one for each
#: declared job, since neighbours may not take the last GPU of a running job, and at most a node.
LARGE = (("rtx", 8), ("a100", 2))


@pytest.mark.acceptance
@pytest.mark.every_release
@pytest.mark.timeout(600)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_undeclared_jobs_get_their_turn_on_nodes_that_declared_jobs_hold(cluster: ClusterHandle) -> None:
    daemon = LiveDaemon(cluster, dict(POLICY))
    daemon.prepare()
    daemon.start()
    declared = {}
    try:
        for number in range(DECLARED_BESIDE):
            comment = "sia: gpus=1-16 level=adaptive batch=64:2048 local=8:256 signal=USR1@20"
            app = APPLICATIONS[number % len(APPLICATIONS)]
            declared[submit_declared(cluster, app, 1e9, "adaptive", comment)] = "adaptive"
        cluster.wait_for(
            lambda: all(most_free_gpus(cluster, gpu_type) < gpus for gpu_type, gpus in LARGE),
            180,
            "declared jobs to leave no node free",
            every=1.0,
        )
        undeclared = [
            cluster.sbatch("-p", gpu_type, f"--gres=gpu:{gpus}", "--mem=100", wrap="sleep 15")
            for gpu_type, gpus in LARGE
        ]
        waiting = {str(job) for job in undeclared}
        cluster.wait_for(
            lambda: not waiting & {row["job"] for row in cluster.squeue()}, 200, "undeclared jobs to run", every=1.0
        )
        left = {row["job"] for row in cluster.squeue()}
        gone = {str(job) for job in declared} - left
        outputs = {
            job: cluster.run(["tail", "-n", "20", f"/home/alice/slurm-{job}.out"], check=False).stdout for job in gone
        }
        assert left == {str(job) for job in declared}, f"declared jobs are gone: {outputs}; left: {left}"
        daemon.stop()
        outcome = read_outcome(cluster, declared, undeclared)
        print(f"\nundeclared jobs of {LARGE} among declared ones on Slurm {cluster.suite.slurm}\n{outcome}")
        problems = judge(outcome, ended=False)
        assert not problems, "\n".join(problems)
    finally:
        daemon.stop()


def most_free_gpus(cluster: ClusterHandle, gpu_type: str) -> int:
    """The largest number of GPUs of a type that a job on one node could have now."""
    free = []
    for line in cluster.scontrol("-o", "show", "nodes").splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        held = dict(word.split("=") for word in fields["AllocTRES"].split(",") if "=" in word)
        if fields["NodeName"].startswith(f"{gpu_type}-"):
            free.append(cluster.gpus_by_type[gpu_type][1] - int(held.get("gres/gpu", 0)))
    return max(free)
