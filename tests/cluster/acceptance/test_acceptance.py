"""The acceptance run: declared jobs of every level and undeclared neighbours under the real daemon on real Slurm."""

from __future__ import annotations

import json
import os
import random

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import LiveDaemon, accounted_runs

LEVELS = ("adaptive", "adaptive", "restartable", "restartable", "moldable", "rigid")
APPLICATIONS = ("cifar10", "bert", "deepspeech2", "yolov3")
FULL = bool(os.environ.get("SLURMSIA_ACCEPTANCE_FULL"))
DECLARED, UNDECLARED, SPAN_S, LIMIT_S = (30, 20, 300.0, 900.0) if FULL else (10, 5, 40.0, 240.0)
SPEEDUP = 6.0

SCRIPT = f"""\
#!/bin/bash
eval "$(env -C {PROJECT} {VENV_PYTHON} -c 'from slurmsia_cli.main import main; main()' env)"
cd {PROJECT}
exec {VENV_PYTHON} -m tests.cluster.acceptance.replay_job APP SAMPLES SPEED LEVEL $HOME
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


@pytest.mark.acceptance
@pytest.mark.timeout(1500)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_declared_jobs_move_undeclared_ones_are_untouched_and_every_allocation_is_as_planned(
    cluster: ClusterHandle,
) -> None:
    draw = random.Random(7)
    daemon = LiveDaemon(cluster)
    daemon.prepare()
    daemon.start()
    try:
        declared, undeclared = submit_all(cluster, draw)
        everything = {*declared, *undeclared}
        cluster.wait_for(
            lambda: all(cluster.job_state(job) in ("COMPLETED", "NONE", "") for job in everything),
            LIMIT_S,
            "every job to end",
            every=2.0,
        )
        judge(cluster, daemon, declared, undeclared)
        assert "Traceback" not in daemon.log(), daemon.log()
    finally:
        daemon.stop()


def submit_all(cluster: ClusterHandle, draw: random.Random) -> tuple[dict[int, str], list[int]]:
    """Jobs over the span, in a drawn order; returns the declared ones with their level, and the others."""
    declared: dict[int, str] = {}
    undeclared: list[int] = []
    order = ["declared"] * DECLARED + ["undeclared"] * UNDECLARED
    draw.shuffle(order)
    for kind in order:
        if kind == "undeclared":
            options = ["-p", draw.choice(("batch", "rtx", "t4")), f"--gres=gpu:{draw.choice((1, 2))}", "--mem=100"]
            undeclared.append(cluster.sbatch(*options, wrap=f"sleep {draw.randint(10, 25)}"))
        else:
            level = LEVELS[len(declared) % len(LEVELS)]
            app = APPLICATIONS[len(declared) % len(APPLICATIONS)]
            samples = {"cifar10": 250_000, "bert": 6_000, "deepspeech2": 12_000, "yolov3": 3_000}[app]
            text = SCRIPT.replace("APP", app).replace("SAMPLES", str(samples * draw.uniform(0.6, 1.4)))
            text = text.replace("SPEED", str(SPEEDUP)).replace("LEVEL", level)
            options = ["-p", "elastic", "--gres=gpu:1", "--ntasks-per-node=1", "--mem=200", "--requeue", "-t", "60"]
            comment = words(level, draw)
            job = cluster.sbatch(*options, "--open-mode=append", f"--comment={comment}", script=text, user="alice")
            declared[job] = level
        cluster.run(["sleep", f"{draw.uniform(0, 2 * SPAN_S / len(order)):.2f}"])
    return declared, undeclared


def judge(cluster: ClusterHandle, daemon: LiveDaemon, declared: dict[int, str], undeclared: list[int]) -> None:
    runs: dict[str, list[dict[str, str]]] = {}
    for run in accounted_runs(cluster):
        runs.setdefault(run["JobID"], []).append(run)
    for job in (*declared, *undeclared):
        assert runs[str(job)][-1]["State"] == "COMPLETED", runs[str(job)]
    for job in undeclared:
        assert len(runs[str(job)]) == 1, f"undeclared job {job} was restarted: {runs[str(job)]}"
    for job, level in declared.items():
        if level in ("rigid", "moldable"):
            assert len(runs[str(job)]) == 1, f"{level} job {job} was restarted: {runs[str(job)]}"
    moves = daemon.moves()
    print(f"{'job':>6} {'kind':<8} {'outcome':<10} {'seconds':>8}")
    for job_id, kind, state, created, ended in moves:
        print(f"{job_id:>6} {kind:<8} {state:<10} {max(0.0, ended - created):8.1f}")
    verified = [move for move in moves if move[1] == "move" and move[2] == "verified"]
    assert len(verified) >= (10 if FULL else 4), f"only {len(verified)} moves were verified"
    exact(daemon, runs)


def exact(daemon: LiveDaemon, runs: dict[str, list[dict[str, str]]]) -> None:
    """Every verified move's shape is what slurmdbd recorded for some run of the job."""
    rows = daemon.query(
        "select j.slurm_id, m.target_json from moves m join jobs j on j.id = m.job_id where m.state = 'verified'"
    )
    for job_id, target in rows:
        shape = json.loads(str(target))["shape"]
        if shape is None:
            continue
        held = [run["AllocTRES"] for run in runs[str(job_id)]]
        want = f"gres/gpu:{shape['gpu_type']}={shape['gpus']}"
        assert any(want in tres.split(",") for tres in held), f"job {job_id}: planned {want}, ran as {held}"
