"""``slurmsia bench cli``: start-up of ``slurmsia status``, in fresh processes against a real API."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

import click

from .embedded import embedded

#: What the floor is: the interpreter alone.
_COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "slurmsia --help": ["-m", "slurmsia_cli", "--help"],
    "slurmsia status --json": ["-m", "slurmsia_cli", "status", "--json"],
    "slurmsia status": ["-m", "slurmsia_cli", "status"],
}


@click.command("cli")
@click.option("--runs", default=20, show_default=True, help="Processes started of each command.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def cli_bench(runs: int, as_json: bool) -> None:
    """Milliseconds from start to end of commands in fresh processes, and of CPU; `python -c pass` is the floor.

    On a machine with other work the time from start to end is mostly waiting; CPU time is the command's own.

    \b
    Example:
      slurmsia bench cli --runs 40
    """
    with embedded("--minutes", "15", "--requests-per-s", "1000") as (address, _):
        found = {name: _measured([sys.executable, *words], address, runs) for name, words in _COMMANDS.items()}
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": runs, "ms": found}))
        return
    click.echo(f"{'':<24} {'median':>8} {'fastest':>8} {'CPU':>8}   ({runs} runs)")
    for name, row in found.items():
        click.echo(f"{name:<24} {row['median']:>5.0f} ms {row['fastest']:>5.0f} ms {row['cpu']:>5.0f} ms")


def _measured(argv: list[str], address: str, runs: int) -> dict[str, float]:
    environment = {**os.environ, "SLURMSIA_API": address}
    times, used = [], []
    for _ in range(runs):
        begun, before = time.perf_counter(), _children_cpu_s()
        subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - begun)
        used.append(_children_cpu_s() - before)
    return {
        "median": round(1000 * statistics.median(times), 1),
        "fastest": round(1000 * min(times), 1),
        "cpu": round(1000 * statistics.median(used), 1),
    }


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
