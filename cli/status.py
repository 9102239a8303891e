"""``slurmsia status``: the cluster at a glance; with the daemon away, the store's last known state and what to do."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from .asking import answer, asking, period, watching
from .client import DEFAULT_CONFIG, EXIT_UNREACHABLE, Client, Json, Refused, Unreachable, fail


@click.command()
@asking
@watching
def status(server: str | None, as_json: bool, watch: bool, iterate: float | None) -> None:
    """GPUs by type and use, mode, last sentence, my jobs.

    Exit code 3: the daemon does not answer (then the store's last round is shown where it can be read).

    \b
    Example:
      slurmsia status
      slurmsia status --json --server http://head:7843
    """
    every = period(watch, iterate)

    def render(found: Json) -> list[Any]:
        from .render import status as parts

        return parts(found, shutil.get_terminal_size((120, 24)).columns)

    if every is not None:
        answer(lambda client: client.get("/v1/status"), render, server, as_json, every)
        return
    client = Client(server)
    try:
        found = client.get("/v1/status")
    except Refused as error:
        fail(error)
    except Unreachable as error:
        click.echo(f"slurmsia: {error}", err=True)
        last = last_known()
        if as_json:
            import json

            click.echo(json.dumps({"schema": 1, "reachable": False, "sentence": str(error), "last_known": last}))
        elif last is not None:
            click.echo(f"Last known, {last['age']} ago: {last['sentence']}")
        sys.exit(EXIT_UNREACHABLE)
    answer(lambda _: found, render, server, as_json)


def last_known() -> Json | None:
    """The store's newest round and its age, where this user may read policy file and store; else ``None``."""
    from slurmsia.config import ConfigError
    from slurmsia.config.loader import load
    from slurmsia.store import StoreError
    from slurmsia.store.settings import open_configured

    from .render import span

    try:
        config = load(Path(os.environ.get("SLURMSIA_CONFIG") or DEFAULT_CONFIG))
        with open_configured(config.store, config.slurm.cluster or "cluster", auto_upgrade=False) as store:
            heads = store.rounds_between(limit=1)
            if not heads and config.slurm.cluster is None:
                heads = _of_any_cluster(store)
    except (ConfigError, StoreError, OSError):
        return None
    if not heads:
        return None
    age_s = time.time() - heads[0].taken_s
    return {
        "age_s": age_s,
        "age": span(age_s),
        "sentence": heads[0].sentence,
        "mode": heads[0].mode,
        "round_id": heads[0].id,
    }


def _of_any_cluster(store: Any) -> tuple[Any, ...]:
    """The policy file names no cluster: the only one that the store knows."""
    from sqlalchemy import text

    with store.db.read() as connection:
        names = [row[0] for row in connection.execute(text("SELECT name FROM clusters"))]
    if len(names) != 1:
        return ()
    from slurmsia.store import Store

    return Store(store.db, names[0]).rounds_between(limit=1)
