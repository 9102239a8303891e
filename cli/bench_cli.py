"""``slurmsia bench cli``: start-up of ``slurmsia status``, in fresh processes against a real API."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import click

from .embedded import embedded


@click.command("cli")
@click.option("--runs", default=20, show_default=True, help="Processes started of each command.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def cli_bench(runs: int, as_json: bool) -> None:
    """Milliseconds from start to end of commands, median of fresh processes; `python -c pass` is the floor.

    \b
    Example:
      slurmsia bench cli --runs 40
    """
    with embedded("--minutes", "15", "--requests-per-s", "1000") as (address, _):
        found = {
            "python -c pass": _median_ms([sys.executable, "-c", "pass"], address, runs),
            "slurmsia --help": _median_ms([sys.executable, "-m", "slurmsia_cli", "--help"], address, runs),
            "slurmsia status": _median_ms([sys.executable, "-m", "slurmsia_cli", "status"], address, runs),
            "slurmsia status --json": _median_ms(
                [sys.executable, "-m", "slurmsia_cli", "status", "--json"], address, runs
            ),
        }
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": runs, "median_ms": found}))
        return
    for name, milliseconds in found.items():
        click.echo(f"{name:<24} {milliseconds:6.0f} ms (median of {runs})")


def _median_ms(argv: list[str], address: str, runs: int) -> float:
    environment = {**os.environ, "SLURMSIA_API": address}
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(times), 1)
