"""``slurmsia policy``: the policy file in force, a check of another one, and the difference between the two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from .asking import answer, asking
from .client import DEFAULT_CONFIG, EXIT_USAGE, Client, Json, Refused, Unreachable, fail


@click.group()
def policy() -> None:
    """The policy file in force: show it, check another one, compare.

    \b
    Example:
      slurmsia policy show
      slurmsia policy diff /etc/slurmsia/slurmsia.toml
    """


@policy.command()
@asking
def show(server: str | None, as_json: bool) -> None:
    """The policy in force, table by table; operators see the tables on doors and databases too.

    \b
    Example:
      slurmsia policy show
    """

    def render(found: Json) -> list[Any]:
        from rich.text import Text

        known = ", ".join(_policies())
        lines = [Text(f"Policy in force: {found['policy']} (known: {known})")]
        lines += [Text(f"{key} = {value}") for key, value in sorted(flat(found["config"]).items())]
        return lines

    answer(lambda client: client.get("/v1/policy"), render, server, as_json)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
def check(file: Path) -> None:
    """Check a policy file and its conf.d folder; one sentence per mistake. Exit code 2: mistakes.

    \b
    Example:
      slurmsia policy check new.toml
    """
    from slurmsia.config.loader import check as mistakes_of

    mistakes = mistakes_of(file)
    for mistake in mistakes:
        click.echo(mistake, err=True)
    if mistakes:
        sys.exit(EXIT_USAGE)
    click.echo(f"{file}: good")


@policy.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
@asking
def diff(file: Path, server: str | None, as_json: bool) -> None:
    """What `slurmsia reconfigure` would change: FILE against the policy in force. Exit code 1: they differ.

    \b
    Example:
      slurmsia policy diff new.toml
    """
    from slurmsia.config import ConfigError
    from slurmsia.config.loader import load

    try:
        wanted = json.loads(load(file).model_dump_json())
    except ConfigError as error:
        for sentence in error.sentences:
            click.echo(sentence, err=True)
        sys.exit(EXIT_USAGE)
    try:
        found = Client(server).get("/v1/policy")
    except (Unreachable, Refused) as error:
        fail(error)
    now = flat(found["config"])
    then = {key: value for key, value in flat(wanted).items() if key.split(".")[0] in found["config"]}
    changed = {
        key: {"now": now.get(key), "then": then.get(key)}
        for key in sorted({*now, *then})
        if now.get(key) != then.get(key)
    }
    if as_json:
        click.echo(json.dumps({"schema": 1, "file": str(file), "changes": changed}, indent=2))
    else:
        for key, both in changed.items():
            click.echo(f"{key}: {both['now']} -> {both['then']}")
        if not changed:
            click.echo(f"{file} is what is in force.")
    sys.exit(1 if changed else 0)


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """``{"policy.name": "\\"sia\\""}`` and so on: every leaf as JSON text under its dotted key."""
    if isinstance(value, dict) and value:
        leaves: dict[str, str] = {}
        for key, inner in value.items():
            leaves.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
        return leaves
    return {prefix: json.dumps(value)}


def _policies() -> tuple[str, ...]:
    from slurmsia.config.policy import POLICIES

    return POLICIES
