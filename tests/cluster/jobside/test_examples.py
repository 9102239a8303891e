"""The examples on a real cluster: rehearsed by the command, and trained over changing sizes without losing a sample.

The moves of the training are made here by the calls that the daemon makes (directive, requeue, one edit).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle

BIN = VENV_PYTHON.rsplit("/", 1)[0]
HOME = "/home/alice/jobside"
SPOOL = f"{HOME}/spool"
EXAMPLES = f"{PROJECT}/contrib/examples"


def environment(cluster: ClusterHandle) -> dict[str, str]:
    cluster.run(["sh", "-c", f"rm -rf {HOME}; mkdir -p {SPOOL}/reports {SPOOL}/directives {HOME}/ids"], user="alice")
    path = cluster.run(["sh", "-c", "echo $PATH"], user="alice").stdout.strip()
    return {"PATH": f"{BIN}:{path}", "SLURMSIA_SPOOL": SPOOL, "PYTHON": VENV_PYTHON}


def rehearsed(cluster: ClusterHandle, env: dict[str, str], script: str, *arguments: str, gpus: int = 1) -> str:
    """What a rehearsal of an example prints; fails with all logs unless it proves the script."""
    options = ["--partition=elastic", "--constraint=t4", "--mem=4000", f"--output={HOME}/log"]
    moved = ["--after", "8", "--limit", "300", "--gpus-per-node", str(gpus)]
    done = cluster.run(
        ["slurmsia", "rehearse", *moved, *options, f"{EXAMPLES}/{script}", *arguments],
        user="alice",
        env=env,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + cluster.read(f"{HOME}/log")
    assert "proven: checkpointed at" in done.stdout
    print(done.stdout)
    return done.stdout


def test_a_shell_loop_is_proven_by_a_rehearsal_and_its_next_job_says_so(cluster: ClusterHandle) -> None:
    env = environment(cluster)
    env.update(STATE_FILE=f"{HOME}/state", SLICE_S="0.2", SLICES="3000")
    rehearsed(cluster, env, "shell-loop/loop.sbatch")
    command = [
        "sbatch",
        "--parsable",
        "--partition=elastic",
        f"--output={HOME}/log",
        f"{EXAMPLES}/shell-loop/loop.sbatch",
    ]
    job = int(cluster.run(command, user="alice", env=env).stdout.split(";")[0])
    wait(cluster, job, 0, "start")
    assert "proven" in next(line for line in lines(cluster, job, 0) if line["ev"] == "start")


def needs(cluster: ClusterHandle, module: str) -> None:
    if cluster.run([VENV_PYTHON, "-c", f"import {module}"], check=False).returncode:
        pytest.skip(f"the image has no {module}")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.slurm("bookworm")
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_hugging_face_trainer_is_proven_by_a_rehearsal(cluster: ClusterHandle, gpus: int) -> None:
    needs(cluster, "transformers")
    env = environment(cluster)
    env.update(EXAMPLE_DIR=f"{EXAMPLES}/huggingface", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    arguments = ["--output", f"{HOME}/hf", "--epochs", "10000"]
    rehearsed(cluster, env, "huggingface/train.sbatch", *arguments, gpus=gpus)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.slurm("bookworm")
def test_an_mpi_program_is_proven_by_a_rehearsal_on_more_ranks_and_then_finishes(cluster: ClusterHandle) -> None:
    needs(cluster, "mpi4py")
    env = environment(cluster)
    env.update(EXAMPLE_DIR=f"{EXAMPLES}/mpi", MPI_PLUGIN="pmi2", STATE_FILE=f"{HOME}/pi.json")
    env["MPIR_CVAR_NOLOCAL"] = "1"  # MPICH's shared memory does not fit into a container's 64 MB /dev/shm
    rehearsed(cluster, env, "mpi/job.sbatch", "--throws", "20000000000", gpus=2)
    thrown = json.loads(cluster.read(f"{HOME}/pi.json"))["thrown"]
    options = ["--parsable", "--partition=t4", "--gres=gpu:2", f"--output={HOME}/pi.log"]
    argv = ["sbatch", *options, f"{EXAMPLES}/mpi/job.sbatch", "--throws", str(thrown + 2_000_000)]
    job = int(cluster.run(argv, user="alice", env=env).stdout.split(";")[0])
    cluster.wait_for(lambda: cluster.job_state(job) == "COMPLETED", 240, "the program to go on and end")
    pi = float(cluster.read(f"{HOME}/pi.log").split("pi is about")[1])
    assert pi == pytest.approx(3.14159, abs=0.01)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.slurm("bookworm")
def test_a_pytorch_training_is_proven_by_a_rehearsal(cluster: ClusterHandle) -> None:
    env = environment(cluster)
    env.update(EXAMPLE_DIR=f"{EXAMPLES}/pytorch-ddp", OMP_NUM_THREADS="1")
    arguments = ["--epochs", "100000", "--checkpoint", f"{HOME}/checkpoints"]
    rehearsed(cluster, env, "pytorch-ddp/train.sbatch", *arguments, gpus=2)


def directive(cluster: ClusterHandle, job: int, seq: int, action: str) -> None:
    text = json.dumps({"seq": seq, "action": action, "deadline": time.time() + 120})
    path = f"{SPOOL}/directives/{job}.json"
    cluster.run(["sh", "-c", f"cat > {path}.new && mv {path}.new {path}"], user="alice", input=text)


def lines(cluster: ClusterHandle, job: int, restart: int) -> list[dict[str, Any]]:
    uid = cluster.run(["id", "-u", "alice"]).stdout.strip()
    done = cluster.run(["cat", f"{SPOOL}/reports/{job}.{restart}.{uid}.jsonl"], user="alice", check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]


def wait(cluster: ClusterHandle, job: int, restart: int, event: str) -> None:
    def seen() -> bool:
        state = cluster.job_state(job)
        assert state in ("PENDING", "RUNNING", "COMPLETING", "COMPLETED"), cluster.read(f"{HOME}/log")
        return any(line["ev"] == event for line in lines(cluster, job, restart))

    cluster.wait_for(seen, 240, f"{event} of run {restart}: {cluster.run(['tail', f'{HOME}/log'], check=False).stdout}")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.slurm("bookworm")
def test_ddp_training_over_1_2_4_2_1_processes_sees_every_sample_of_every_epoch_once(cluster: ClusterHandle) -> None:
    env = environment(cluster)
    epochs, samples = 12, 1000
    options = ["--epochs", str(epochs), "--samples", str(samples), "--batch", "40", "--record", f"{HOME}/ids"]
    options += ["--checkpoint", f"{HOME}/checkpoints", "--slow", "0.4"]
    env.update(EXAMPLE_DIR=f"{EXAMPLES}/pytorch-ddp", OMP_NUM_THREADS="1")
    command = ["sbatch", "--parsable", "--partition=t4", "--exclude=a100-1", f"--output={HOME}/log", "--nodes=1"]
    job = int(
        cluster.run([*command, f"{EXAMPLES}/pytorch-ddp/train.sbatch", *options], user="alice", env=env).stdout.split(
            ";"
        )[0]
    )
    for restart, (nodes, gpus) in enumerate([(1, 2), (2, 2), (2, 1), (1, 1)]):
        wait(cluster, job, restart, "start")
        trained = ["test", "-s", f"{HOME}/ids/ids.{restart}.0"]
        cluster.wait_for(
            lambda trained=trained: cluster.run(trained, user="alice", check=False).returncode == 0, 240, "a step"
        )
        directive(cluster, job, 2 * restart + 1, "checkpoint")
        wait(cluster, job, restart, "checkpointed")
        cluster.scontrol("requeue", str(job))
        cluster.wait_for_state(job, "PENDING", 60)
        directive(cluster, job, 2 * restart + 2, "run")
        shape = [f"NumNodes={nodes}-{nodes}", f"NumTasks={nodes}", f"NumCPUs={nodes}-{nodes}", f"Gres=gpu:{gpus}"]
        edit = ["update", f"JobId={job}", *shape, "StartTime=now"]
        cluster.wait_for(lambda edit=edit: "rror" not in cluster.scontrol(*edit, check=False), 60, "the edit")
    cluster.wait_for(lambda: cluster.job_state(job) == "COMPLETED", 400, "the end of the training")
    record = cluster.run(["sh", "-c", f"cat {HOME}/ids/ids.*"], user="alice").stdout.split()
    assert Counter(map(int, record)) == Counter(dict.fromkeys(range(samples), epochs))
    moved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    assert moved["restart"] == 4

    cluster.run(["rm", "-rf", f"{HOME}/checkpoints"], user="alice")
    options[options.index("--slow") + 1] = "0"
    alone = cluster.run(
        [*command, f"{EXAMPLES}/pytorch-ddp/train.sbatch", *options], user="alice", env=env
    ).stdout.split(";")[0]
    cluster.wait_for(lambda: cluster.job_state(int(alone)) == "COMPLETED", 300, "the training that is never moved")
    unmoved = json.loads(cluster.read(f"{HOME}/ids/result.json"))
    print(f"loss moved {moved['loss']:.5f}, never moved {unmoved['loss']:.5f}")
    assert moved["loss"] == pytest.approx(unmoved["loss"], rel=0.02)
