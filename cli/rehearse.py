"""``slurmsia rehearse``: submits a script, makes it checkpoint and restart once, and shows that its progress resumed.

Everything is done as the user, through sbatch, scancel and scontrol. The job gets a spool folder of its own in the
user's data folder and no sia: words, so that no daemon is needed and none interferes; its reports say what happened. A
script that passed is remembered by its hash in the user's data folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from slurmsia.job import proof
from slurmsia.job.directive import CHECKPOINT, RUN, Directive
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.job.names import DIRECTIVES, REPORTS, report_name

from .submit import sbatch_command, script_at, split_words


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
    # the last comment counts; without sia: words no daemon has a say in the rehearsal
    command.insert(len(command) - len(rest) + script_at(rest), "--comment=a rehearsal")
    spool = _own_spool()
    job = ""
    try:
        env = {**os.environ, "SLURMSIA_SPOOL": str(spool)}
        job = _output([command[0], "--parsable", *command[1:]], env).split(";")[0].strip()
        click.echo(f"job {job}: submitted")
        before, after = _Rehearsal(job, spool, limit_s).move(after_s, signal_name, gpus_per_node)
    except Failure as failure:
        click.echo(f"not proven: {failure}", err=True)
        sys.exit(1)
    finally:
        if job:
            subprocess.run(["scancel", job], check=False)
        shutil.rmtree(spool, ignore_errors=True)
    if after < before:
        click.echo(
            f"not proven: the checkpoint was at {before:g} samples but the new run went on from {after:g}", err=True
        )
        sys.exit(1)
    at = script_at(rest)
    if at < len(rest):
        proof.remember(Path(rest[at]).read_bytes())
    click.echo(f"proven: checkpointed at {before:g} samples, resumed and at {after:g} after the move")


#: Slurm cannot start a job again within the second in which it revoked its old credential.
_SAME_NODE_PAUSE_S = 3.0
_OVER = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
)


class Failure(Exception):
    """Why a rehearsal proved nothing, in one sentence."""


def _own_spool() -> Path:
    """A spool that only the rehearsed job uses, where its nodes see the user's files."""
    base = Path(proof.memory_path()).parent
    base.mkdir(parents=True, exist_ok=True)
    spool = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=base))
    for name in (REPORTS, DIRECTIVES):
        (spool / name).mkdir()
    return spool


class _Rehearsal:
    """One job on its way through a checkpoint and a restart. Methods raise `Failure`."""

    def __init__(self, job: str, spool: Path, limit_s: float) -> None:
        self._job = job
        self._spool = spool
        self._limit_s = limit_s
        self._directives = DirectiveWriter(spool)

    def move(self, after_s: float, signal_name: str, gpus_per_node: int | None) -> tuple[float, float]:
        """(samples at the checkpoint, samples of the new run's first progress)."""
        job = self._job
        self._until(lambda: _state(job) == "RUNNING", "the job did not start")
        click.echo(f"job {job}: running; the move comes in {after_s:.0f} s")
        time.sleep(after_s)
        if _state(job) != "RUNNING":
            why = f"it runs for less than {after_s:.0f} s or failed"
            raise Failure(f"the job is {_state(job)} before its rehearsal; {why}")
        restart = _restarts(job)
        self._ask(restart, signal_name)
        done = "checkpointed"
        self._until(lambda: any(line.get("ev") == done for line in self._lines(restart)), "no checkpoint was reported")
        saved = [line for line in self._lines(restart) if line.get("ev") == done][-1]
        before = float(saved.get("progress", {}).get("samples", 0.0))
        click.echo(f"job {job}: checkpointed at {before:g} samples")
        _output(["scontrol", "requeue", job])
        self._until(lambda: _state(job) == "PENDING", "the job was not requeued")
        self._directives.write(job, Directive(seq=2, action=RUN, reason="rehearsal"))
        time.sleep(_SAME_NODE_PAUSE_S)
        changes = ["StartTime=now"] + ([f"Gres=gpu:{gpus_per_node}"] if gpus_per_node else [])
        edit = ["scontrol", "update", f"JobId={job}", *changes]
        self._until(lambda: subprocess.run(edit, capture_output=True, check=False).returncode == 0, "the edit failed")
        self._until(lambda: _state(job) == "RUNNING", "the job did not start again")
        click.echo(f"job {job}: running again")

        def progressed() -> list[float]:
            lines = self._lines(restart + 1)
            return [float(line["progress"]["samples"]) for line in lines if line.get("steps") and line.get("progress")]

        self._until(lambda: bool(progressed()), "the new run reported no progress")
        return before, progressed()[0]

    def _ask(self, restart: int, signal_name: str) -> None:
        """Asks for a checkpoint as the daemon would: by directive, and by signal where the job handles it."""
        what = "the job, which must use the library or 'slurmsia report', wrote no report"
        self._until(lambda: bool(self._lines(restart)), what)
        said = self._lines(restart)
        handled = any(line.get("handles") for line in said)
        if not handled and all("src" in line for line in said):
            raise Failure(f"no start report names a handler; an unhandled {signal_name} would end the job")
        deadline_s = time.time() + self._limit_s
        wish = Directive(seq=1, action=CHECKPOINT, deadline_s=deadline_s, reason="rehearsal")
        self._directives.write(self._job, wish)
        if handled:
            _output(["scancel", f"--signal={signal_name}", "--full", self._job])

    def _lines(self, restart: int) -> list[dict[str, Any]]:
        path = self._spool / REPORTS / report_name(self._job, restart, os.getuid())
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

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self._limit_s
        while not condition():
            state = _state(self._job)
            if state in _OVER and not condition():
                raise Failure(f"{what}: it ended as {state}")
            if time.monotonic() > end:
                raise Failure(f"{what} within {self._limit_s:.0f} s")
            time.sleep(1.0)


def _output(command: list[str], env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
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
