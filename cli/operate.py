"""Operators' commands: pause, resume, reconfigure, pin, unpin, release by the API; release-all without the daemon.

Each is written into the audit table by the daemon. `release-all` talks to Slurm itself and needs no daemon.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .asking import asking
from .client import DEFAULT_CONFIG, EXIT_FAILED, EXIT_USAGE, Client, Refused, Unreachable, fail

if TYPE_CHECKING:
    from slurmsia.config import Config
    from slurmsia.moves.move import Move
    from slurmsia.standing import Standing


def _post(path: str, reason: str, server: str | None, as_json: bool) -> None:
    try:
        found = Client(server).post(path, {"reason": reason} if reason else {})
    except (Unreachable, Refused) as error:
        fail(error)
    click.echo(json.dumps(found, indent=2) if as_json else found["sentence"])


@click.command()
@click.argument("reason", nargs=-1)
@asking
def pause(reason: tuple[str, ...], server: str | None, as_json: bool) -> None:
    """Write nothing to Slurm until resumed; the REASON is shown to everybody. Outlives the daemon.

    \b
    Example:
      slurmsia pause file system maintenance until noon
    """
    _post("/v1/pause", " ".join(reason), server, as_json)


@click.command()
@asking
def resume(server: str | None, as_json: bool) -> None:
    """End a pause; a round follows at once.

    \b
    Example:
      slurmsia resume
    """
    _post("/v1/resume", "", server, as_json)


@click.command()
@asking
def reconfigure(server: str | None, as_json: bool) -> None:
    """Read the policy file again; with mistakes in it the old one stays in force.

    \b
    Example:
      slurmsia config check /etc/slurmsia/slurmsia.toml && slurmsia reconfigure
    """
    _post("/v1/reconfigure", "", server, as_json)


@click.command()
@click.argument("job_id")
@click.argument("reason", nargs=-1)
@asking
def pin(job_id: str, reason: tuple[str, ...], server: str | None, as_json: bool) -> None:
    """Never move a job again in this run.

    \b
    Example:
      slurmsia pin 1234 benchmark in progress
    """
    _post(f"/v1/jobs/{job_id}/pin", " ".join(reason), server, as_json)


@click.command()
@click.argument("job_id")
@asking
def unpin(job_id: str, server: str | None, as_json: bool) -> None:
    """Let a pinned job move again.

    \b
    Example:
      slurmsia unpin 1234
    """
    _post(f"/v1/jobs/{job_id}/unpin", "", server, as_json)


@click.command()
@click.argument("job_id")
@asking
def release(job_id: str, server: str | None, as_json: bool) -> None:
    """Drop a job's move, end its lease now, and leave it alone for this run.

    \b
    Example:
      slurmsia release 1234
    """
    _post(f"/v1/jobs/{job_id}/release", "", server, as_json)


@click.command("release-all")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True,
    help="Policy file.",
)  # fmt: skip
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for runs that are still ending.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def release_all(config_file: Path, wait_s: float, as_json: bool) -> None:
    """End every lease and clear every pin of ours in Slurm now. Needs no daemon; run it as SlurmUser or root.

    Stop or pause the daemon first, or it leases the jobs again. Exit code 1: some jobs could not be released.

    \b
    Example:
      systemctl stop slurmsia && slurmsia release-all
    """
    from slurmsia.config import ConfigError
    from slurmsia.config.loader import load
    from slurmsia.moves.release import release_all as act
    from slurmsia.slurm.client import SlurmError
    from slurmsia.slurm.command import CommandClient

    try:
        config = load(config_file)
    except ConfigError as error:
        for sentence in error.sentences:
            click.echo(sentence, err=True)
        sys.exit(EXIT_USAGE)
    client = CommandClient(config)
    try:
        cluster = config.slurm.cluster or client.site(config.slurm.call_deadline_s).cluster
        moves, standings, note = _remembered(config, cluster)
        if note:
            click.echo(f"slurmsia: {note}", err=True)
        done = act(client, moves, standings, config.moves.lease_s, wait_s=wait_s)
    except SlurmError as error:
        click.echo(f"slurmsia: Slurm could not be read, nothing was changed: {error}", err=True)
        sys.exit(EXIT_FAILED)
    finally:
        client.close()
    if as_json:
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "leases_ended": done.leases_ended,
                    "pins_cleared": done.pins_cleared,
                    "holds_ended": done.holds_ended,
                    "left": dict(done.left),
                }
            )
        )
    else:
        click.echo(
            f"{len(done.leases_ended)} leases ended, {len(done.pins_cleared)} pins cleared, "
            f"{len(done.holds_ended)} launch-failure holds ended."
        )
        for job_id, sentence in sorted(done.left.items()):
            click.echo(f"job {job_id}: {sentence}", err=True)
    sys.exit(EXIT_FAILED if done.left else 0)


def _remembered(config: Config, cluster: str) -> tuple[list[Move], dict[str, Standing], str]:
    """Unfinished moves and standings from the store; empty with a sentence when it cannot be read."""
    from slurmsia.moves.move import Move
    from slurmsia.store import StoreError, codec
    from slurmsia.store.settings import open_configured

    try:
        with open_configured(config.store, cluster, auto_upgrade=False) as store:
            records = store.unfinished_moves()
            events = store.move_events([record.move_id for record in records])
            moves = [
                codec.from_json(Move, events[record.move_id][-1].detail)
                for record in records
                if events.get(record.move_id)
            ]
            return moves, store.standing(), ""
    except StoreError as error:
        return [], {}, f"the store cannot be read, so only declared jobs on a lease are known ({error})"
