"""``slurmsia doctor``: the preflight check against the live cluster. Changes nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from slurmsia.config.loader import DEFAULT_FILE

_MARK = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True,
    help="Policy file.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(config_file: Path, as_json: bool) -> None:
    """Check that this site is ready: one line per finding, with what to change in which file.

    Exit code 0: all ok; 1: warnings; 2: something must be changed first.

    \b
    Example:
      slurmsia doctor --config /etc/slurmsia/slurmsia.toml
    """
    from slurmsia.config import ConfigError
    from slurmsia.config.loader import load
    from slurmsia.slurm.doctor import examine
    from slurmsia.slurm.findings import exit_code
    from slurmsia.store.settings import open_configured

    try:
        config = load(config_file)
    except ConfigError as error:
        for sentence in error.sentences:
            click.echo(sentence, err=True)
        sys.exit(2)

    def check_store() -> str:
        store = open_configured(config.store, config.slurm.cluster or "cluster", auto_upgrade=False)
        store.close()
        return "the store answers and its schema is current"

    found = examine(config, check_store)
    code = exit_code(found)
    if as_json:
        click.echo(json.dumps({"schema": 1, "exit_code": code, "findings": [asdict(one) for one in found]}, indent=2))
        sys.exit(code)
    for one in found:
        mark, colour = _MARK[one.level.value]
        click.echo(f"{click.style(mark, fg=colour)}  {one.check:<20} {one.what}")
        if one.mend:
            click.echo(f"      {'':<20} -> {one.mend}")
    counts = {level: sum(one.level.value == level for one in found) for level in _MARK}
    click.echo(f"{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} to mend")
    sys.exit(code)
