"""``slurmsia env``, ``slurmsia report`` and ``slurmsia job-zipapp``: what runs inside jobs, or is made for them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_FORWARD = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.command(context_settings=_FORWARD, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def env(words: tuple[str, ...]) -> None:
    """Print shell exports that mend what a reshape left stale: eval "$(slurmsia env)".

    \b
    Example:
      eval "$(slurmsia env)"
    """
    from slurmsia.job.command import main

    sys.exit(main(["env", *words]))


@click.command(context_settings=_FORWARD, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def report(words: tuple[str, ...]) -> None:
    """Write one report line of the current job.

    \b
    Example:
      slurmsia report --samples 4096 --seconds 1.2
    """
    from slurmsia.job.command import main

    sys.exit(main(["report", *words]))


@click.command("job-zipapp")
@click.option(
    "-o", "--output", default="slurmsia-job.pyz", show_default=True, type=click.Path(path_type=Path),
    help="File to write.",
)  # fmt: skip
def job_zipapp(output: Path) -> None:
    """Pack the job library into one file for sites that install nothing on their nodes.

    \b
    Example:
      slurmsia job-zipapp -o /shared/slurmsia-job.pyz
      python3 /shared/slurmsia-job.pyz report --samples 4096 --seconds 1.2
    """
    from slurmsia.job.zipapp import build

    size = build(output)
    click.echo(f"{output}: {size} bytes")
