"""``slurmsia rehearse``: submits a script, makes it checkpoint and restart once, and shows that its progress resumed.

Everything is done as the user, through sbatch, scancel and scontrol; the job's own report file says what happened. A
script that passed is remembered by its hash in the user's data folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slurmsia.job import proof
from slurmsia.job.names import REPORTS, report_name, spool_dir

from .submit import sbatch_command, split_words


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--after", "after_s", default=120.0, show_default=True, help="Seconds of running before the move.")
@click.option("--limit", "limit_s", default=900.0, show_default=True, help="Longest wait for any one step, in seconds.")
@click.option("--signal", "signal_name", default="USR1", show_default=True, help="The checkpoint signal.")
@click.option("--gpus-per-node", type=click.IntRange(1), help="GPUs per node after the move (default: the same).")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def rehearse(
    after_s: float, limit_s: float, signal_name: str, gpus_per_node: int | None, words: tuple[str, ...]
) -> None:
    """Prove that a script checkpoints, moves and resumes: slurmsia rehearse [KEY=VALUE]... [sbatch options] SCRIPT.

    Exit code 0: proven; 1: not, with the reason. The job is cancelled at the end.

    \b
    Example:
      slurmsia rehearse --after 120 train.sh
    """
    own, rest = split_words(words)
    command = sbatch_command(own, rest)
    job = _output([command[0], "--parsable", *command[1:]]).split(";")[0].strip()
    click.echo(f"job {job}: submitted")
    try:
        before, after = _move(job, after_s, limit_s, signal_name, gpus_per_node)
    except Failure as failure:
        click.echo(f"not proven: {failure}", err=True)
        sys.exit(1)
    finally:
        subprocess.run(["scancel", job], check=False)
    if after < before:
        click.echo(
            f"not proven: the checkpoint was at {before:g} samples but the new run went on from {after:g}", err=True
        )
        sys.exit(1)
    script = next((Path(word) for word in rest if not word.startswith("-") and Path(word).is_file()), None)
    if script is not None:
        proof.remember(script.read_bytes())
    click.echo(f"proven: checkpointed at {before:g} samples, resumed and at {after:g} after the move")


class Failure(Exception):
    """Why a rehearsal proved nothing, in one sentence."""


def _move(job: str, after_s: float, limit_s: float, signal_name: str, gpus_per_node: int | None) -> tuple[float, float]:
    """(samples at the checkpoint, samples of the new run's first progress). Raises Failure."""
    _until(lambda: _state(job) == "RUNNING", limit_s, "the job did not start")
    click.echo(f"job {job}: running; the move comes in {after_s:.0f} s")
    time.sleep(after_s)
    if _state(job) != "RUNNING":
        raise Failure(f"the job is {_state(job)} before its rehearsal; it runs for less than {after_s:.0f} s or failed")
    restart = _restarts(job)
    first = _lines(job, restart)
    if not first:
        raise Failure("the job wrote no report; it must use the library or 'slurmsia report'")
    if not any(line.get("handles") for line in first):
        raise Failure(f"no start report names a handler; an unhandled {signal_name} would end the job")
    _output(["scancel", f"--signal={signal_name}", "--full", job])
    done = "checkpointed"
    _until(lambda: any(line.get("ev") == done for line in _lines(job, restart)), limit_s, "no checkpoint was reported")
    saved = [line for line in _lines(job, restart) if line.get("ev") == done][-1]
    before = float(saved.get("progress", {}).get("samples", 0.0))
    click.echo(f"job {job}: checkpointed at {before:g} samples")
    _output(["scontrol", "requeue", job])
    _until(lambda: _state(job) == "PENDING", limit_s, "the job was not requeued")
    changes = ["StartTime=now"] + ([f"Gres=gpu:{gpus_per_node}"] if gpus_per_node else [])
    edit = ["scontrol", "update", f"JobId={job}", *changes]
    _until(lambda: subprocess.run(edit, capture_output=True, check=False).returncode == 0, limit_s, "the edit failed")
    _until(lambda: _state(job) == "RUNNING", limit_s, "the job did not start again")
    click.echo(f"job {job}: running again")

    def progressed() -> list[float]:
        lines = _lines(job, restart + 1)
        return [float(line["progress"]["samples"]) for line in lines if line.get("steps") and line.get("progress")]

    _until(lambda: bool(progressed()), limit_s, "the new run reported no progress")
    return before, progressed()[0]


def _until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{what} within {limit_s:.0f} s")
        time.sleep(1.0)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise click.ClickException(f"{command[0]} is not on PATH; run this on a host with Slurm's commands") from None
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(command[:2])} failed: {done.stderr.strip()}")
    return done.stdout


def _shown(job: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", _output(["scontrol", "show", "job", job, "--oneliner"])))


def _state(job: str) -> str:
    return _shown(job).get("JobState", "")


def _restarts(job: str) -> int:
    return int(_shown(job).get("Restarts", "0"))


def _lines(job: str, restart: int) -> list[dict[str, Any]]:
    path = Path(spool_dir()) / REPORTS / report_name(job, restart, os.getuid())
    found = []
    try:
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                found.append(record)
    except OSError:
        return []
    return found
