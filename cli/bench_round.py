"""``slurmsia bench round``: the daemon's whole round, measured by the daemon's own bench in a process of its own.

A fresh process, so that resident memory is the daemon's alone.
"""

from __future__ import annotations

import subprocess
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def round_bench(options: tuple[str, ...]) -> None:
    """Time and memory of a whole round of the daemon by phase; --help lists the options.

    \b
    Example:
      slurmsia bench round --jobs 1000 --nodes 250
    """
    sys.exit(subprocess.run([sys.executable, "-m", "slurmsia_daemon.bench_round", *options], check=False).returncode)
