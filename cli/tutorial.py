"""``slurmsia tutorial``: five commands on an embedded cluster, with what to look at in each. Changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from .embedded import embedded

_LESSONS = (
    ("status", "The cluster at a glance: who holds how many GPUs of each type, the last round in a sentence, my jobs."),
    ("jobs --managed", "Jobs that slurmsia manages. WHY says for each what was decided, with the numbers."),
    ("why {job}", "One job: what decided, what else was considered, what would change it."),
    ("job {job}", "Its speed on every type and size, what its moves cost, and a line that would serve it better."),
    ("gpus", "Every node; one character is one GPU."),
)


@click.command()
@click.option("--no-pause", is_flag=True, help="Do not wait for Enter between the commands.")
def tutorial(no_pause: bool) -> None:
    """Five commands on an embedded, emulated cluster; needs no Slurm and no daemon.

    \b
    Example:
      slurmsia tutorial
    """
    wait = sys.stdin.isatty() and not no_pause
    click.echo("An emulated cluster of 64 GPUs is being set up; this takes some seconds.")
    with embedded("--minutes", "41") as (address, _):
        job = _a_job(address)
        for number, (words, lesson) in enumerate(_LESSONS, start=1):
            command = words.format(job=job)
            click.echo(f"\n{number}/5  {lesson}\n$ slurmsia {command}")
            if wait:
                click.pause("(Enter runs it)")
            _run(address, command.split())
    click.echo(
        "\nOn a real cluster: put `#SBATCH --comment='sia: gpus=1-8 signal=USR1@60'` into a script and sbatch it."
    )


def _run(address: str, words: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "slurmsia_cli", *words], env={**os.environ, "SLURMSIA_API": address}, check=False
    )


def _a_job(address: str) -> str:
    from .client import Client

    rows = Client(address).get("/v1/jobs", managed=True)["jobs"]
    running = [row for row in rows if row["gpus"]] or rows
    return str(max(running, key=lambda row: row["moves"])["job_id"])
