"""``slurmsia env`` and ``slurmsia report``, also as ``python -m slurmsia.job`` and in the zipapp.

Standard library only, Python 3.8. A report that cannot be written is a warning on stderr and exit code 0: reporting
must never end a job script that runs with ``set -e``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, Dict, List, Optional

from . import environment, proof
from .names import spool_dir
from .report_file import ReportFile


def main(argv: Optional[List[str]] = None, prog: str = "slurmsia") -> int:
    """Runs one command; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(prog=prog, description="The commands of slurmsia that run inside a job.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_env(commands)
    _add_report(commands)
    options = parser.parse_args(argv)
    return int(options.run(options))


def _add_env(commands: Any) -> None:
    text = 'Print shell exports that mend what a reshape left stale; use it as: eval "$(slurmsia env)"'
    env = commands.add_parser("env", help=text, description=text, epilog='Example: eval "$(slurmsia env)"')
    env.add_argument("--json", action="store_true", help="print JSON; null means unset")
    env.set_defaults(run=_env)


def _env(options: argparse.Namespace) -> int:
    mended = environment.mend(os.environ)
    if mended:
        since = proof.proven_since(os.getppid())
        mended[proof.VARIABLE] = None if since is None else str(since)
    if options.json:
        import json

        sys.stdout.write(json.dumps(mended) + "\n")
    else:
        sys.stdout.write(environment.shell_exports(mended))
    return 0


def _add_report(commands: Any) -> None:
    text = "Write one report line of the current job."
    report = commands.add_parser(
        "report", help=text, description=text, epilog="Example: slurmsia report --samples 4096 --seconds 1.2"
    )
    report.add_argument("--samples", type=float, help="samples done since the last report, over all GPUs")
    report.add_argument("--seconds", type=float, help="seconds that they took")
    report.add_argument("--steps", type=int, default=1, help="optimiser steps that they took (default 1)")
    report.add_argument("--local", type=float, help="samples per GPU and micro-batch, where known")
    report.add_argument("--accum", type=int, default=0, help="extra micro-batches per step (default 0)")
    report.add_argument("--done", type=float, help="samples done in all, earlier runs included")
    report.add_argument("--target", type=float, help="samples wanted in all")
    report.add_argument("--event", choices=("start", "progress", "checkpointed", "end"), default="progress")
    report.add_argument("--handles", metavar="SIGNAL", help="with --event start: the checkpoint signal that is trapped")
    report.add_argument("--save-seconds", type=float, help="seconds that saving the checkpoint took")
    report.add_argument("--load-seconds", type=float, help="seconds that loading the checkpoint took")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    job_id = environment.job_id()
    if job_id is None:
        sys.stderr.write("slurmsia report: not inside a Slurm job (SLURM_JOB_ID is not set); nothing written\n")
        return 0
    problem = _mistake(options)
    if problem:
        sys.stderr.write(f"slurmsia report: {problem}\n")
        return 2
    file = ReportFile(spool_dir(), job_id, environment.restart_count())
    if not file.append(_record(options)):
        sys.stderr.write(f"slurmsia report: {file.problem}; the job goes on unreported\n")
    return 0


def _mistake(options: argparse.Namespace) -> str:
    if options.seconds is not None and options.samples is None:
        return "--seconds needs --samples beside it"
    for name in ("samples", "seconds", "steps", "local", "target"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e18:
            return f"--{name} must be greater than 0"
    for name in ("done", "save_seconds", "load_seconds", "accum"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < 1e18:
            return "--{} must not be negative".format(name.replace("_", "-"))
    return ""


def _record(options: argparse.Namespace) -> Dict[str, Any]:
    record: Dict[str, Any] = {"t": time.time(), "ev": options.event, "src": "shell"}
    held = environment.nodes() * environment.gpus_per_node()
    if held:
        record["alloc"] = {"nodes": environment.nodes(), "gpus": held}
    if options.samples is not None and options.seconds is not None:
        local = options.local or options.samples / options.steps / max(held, 1) / (options.accum + 1)
        square = options.seconds * options.seconds / options.steps
        entry = {"local": local, "accum": options.accum, "n": options.steps, "step": options.seconds, "step2": square}
        record["steps"] = [entry]
    if options.done is not None:
        record["progress"] = {"samples": options.done}
        if options.target is not None:
            record["progress"]["target"] = options.target
    if options.handles:
        record["handles"] = options.handles
    if options.event == "start":
        record.update(proof.claimed())
    ckpt = {"save_s": options.save_seconds, "load_s": options.load_seconds}
    if any(value is not None for value in ckpt.values()):
        record["ckpt"] = {key: value for key, value in ckpt.items() if value is not None}
    return record
