"""``slurmsia config``: check a policy file, or print the commented example. Reads files, writes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Check a policy file, or print the commented example.

    \b
    Example:
      slurmsia config example > /etc/slurmsia/slurmsia.toml
      slurmsia config check /etc/slurmsia/slurmsia.toml
    """


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the mistakes as a JSON list.")
def check(file: Path, as_json: bool) -> None:
    """Check FILE and its conf.d folder; one sentence per mistake.

    Exit code 0: good; 2: mistakes.

    \b
    Example:
      slurmsia config check /etc/slurmsia/slurmsia.toml
    """
    from slurmsia.config.loader import check as mistakes_of

    mistakes = mistakes_of(file)
    if as_json:
        click.echo(json.dumps({"schema": 1, "file": str(file), "mistakes": mistakes}))
    else:
        for mistake in mistakes:
            click.echo(mistake, err=True)
        if not mistakes:
            click.echo(f"{file}: good")
    sys.exit(2 if mistakes else 0)


@config.command()
def example() -> None:
    """Print the commented example of the policy file.

    \b
    Example:
      slurmsia config example > slurmsia.toml
    """
    from slurmsia.config.example import example as text

    click.echo(text(), nl=False)
