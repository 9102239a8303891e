"""``slurmsia bench client`` and ``bench move``: a live Slurm read, and a job moved, timed. Needs a Slurm.

``bench move`` submits jobs of its own and cancels them at the end; it touches nobody else's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurmsia.config.loader import DEFAULT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psutil

    from slurmsia.slurm.client import SlurmClient

_CONFIG = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True
)
_CLIENT = click.option("--client", "kind", type=click.Choice(["command", "pyslurm"]), default="command")
#: A slow answer is measured here, not given up.
_DEADLINE_S = 60.0
#: Between two moves of one job, not counted.
_REST_S = 2.5
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _client(config_file: Path, kind: str) -> SlurmClient:
    from slurmsia.config.loader import load
    from slurmsia.slurm.command import CommandClient
    from slurmsia.slurm.pyslurm_client import PyslurmClient

    config = load(config_file)
    return PyslurmClient(config) if kind == "pyslurm" else CommandClient(config)


@click.command()
@_CONFIG
@_CLIENT
@click.option("--reads", default=100, show_default=True, help="Bulk reads of queue and nodes.")
@_JSON
def client(config_file: Path, kind: str, reads: int, as_json: bool) -> None:
    """Time bulk reads of the queue and the nodes, and watch the memory of this process and of pyslurm's worker.

    \b
    Example:
      slurmsia bench client --client command --reads 200
    """
    import psutil

    slurm = _client(config_file, kind)
    me = psutil.Process()
    slurm.snapshot(_DEADLINE_S)
    times: list[float] = []
    jobs = nodes = 0
    early_mb = worker_early_mb = 0.0
    for number in range(reads):
        begun = time.perf_counter()
        nodes = len(slurm.nodes(_DEADLINE_S))
        jobs = len(slurm.jobs(_DEADLINE_S).jobs)
        times.append((time.perf_counter() - begun) * 1000)
        if number == reads // 10:
            early_mb, worker_early_mb = _rss_mb([me]), _rss_mb(me.children())
    late_mb, worker_late_mb = _rss_mb([me]), _rss_mb(me.children())
    slurm.close()
    times.sort()
    found = {
        "client": kind,
        "jobs": jobs,
        "nodes": nodes,
        "reads": reads,
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[min(len(times) - 1, int(0.95 * len(times)))], 1),
        "rss_early_mb": round(early_mb, 1),
        "rss_late_mb": round(late_mb, 1),
        "worker_rss_early_mb": round(worker_early_mb, 1),
        "worker_rss_late_mb": round(worker_late_mb, 1),
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(
            f"{kind} client, {jobs} jobs and {nodes} nodes: queue and nodes in {found['median_ms']} ms median, "
            f"{found['p95_ms']} ms p95 of {reads}; memory after a tenth of them {found['rss_early_mb']} MB, at the end "
            f"{found['rss_late_mb']} MB (worker: {found['worker_rss_early_mb']}, {found['worker_rss_late_mb']} MB)"
        )


def _rss_mb(processes: Iterable[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 1e6


@click.command()
@_CONFIG
@_CLIENT
@click.option("--count", default=20, show_default=True, help="Moves.")
@click.option("--partition", default="batch", show_default=True)
@click.option("--types", nargs=2, default=("t4", "rtx"), show_default=True, help="GPU types to move between.")
@_JSON
def move(config_file: Path, kind: str, count: int, partition: str, types: tuple[str, str], as_json: bool) -> None:
    """Move one job of our own between two GPU types, decision to running, checkpoint excluded.

    \b
    Example:
      slurmsia bench move --client command --count 20 --types t4 rtx
    """
    from slurmsia.cluster import JobState, Shape
    from slurmsia.reshape import Reshape

    slurm = _client(config_file, kind)
    slurm.snapshot(_DEADLINE_S)
    options = [f"--partition={partition}", "--gres=gpu:1", f"--constraint={types[0]}", "--mem=100", "--requeue"]
    script = "#!/bin/bash\nwhile :; do sleep 1; done\n"
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        click.echo(f"sbatch refused: {done.stderr.strip()}", err=True)
        sys.exit(1)
    job_id = done.stdout.strip().split(";")[0]

    def wait(state: JobState, gpu_type: str | None, since: float) -> float:
        while time.perf_counter() - since < 60:
            job = next((job for job in slurm.jobs(_DEADLINE_S).jobs if job.id == job_id), None)
            held = job.allocation.gpu_type if job is not None and job.allocation is not None else None
            if job is not None and job.state is state and not job.completing and gpu_type in (None, held):
                return time.perf_counter() - since
            time.sleep(0.05)
        raise click.ClickException(f"job {job_id} was not {state.value} within 60 s")

    times: list[float] = []
    try:
        wait(JobState.RUNNING, types[0], time.perf_counter())
        for number in range(count):
            target = types[(number + 1) % 2]
            # A node on which the job ended within the same second would have Slurm end it for good (22.05).
            time.sleep(_REST_S)
            begun = time.perf_counter()
            slurm.requeue(job_id)
            wait(JobState.PENDING, None, begun)
            slurm.reshape(job_id, Reshape(Shape(target, 1, 1), 1, 1, features=target))
            times.append(wait(JobState.RUNNING, target, begun))
    finally:
        subprocess.run(["scancel", job_id], check=False)
        slurm.close()
    times.sort()
    found = {
        "client": kind,
        "moves": count,
        "median_s": round(statistics.median(times), 2),
        "worst_s": round(times[-1], 2),
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"{kind} client: {count} moves, median {found['median_s']} s, worst {found['worst_s']} s")
