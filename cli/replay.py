"""``slurmsia replay``: run the decision again on a stored round, as it was or under another policy, and compare.

Reads the store, writes nothing, talks to nobody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .db import section_of, sentences, store_options

if TYPE_CHECKING:
    from slurmsia.config import Config
    from slurmsia.plan import Plan, Target


def _value(text: str) -> Any:
    """A JSON scalar or list where the text is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def reconfigured(config_text: str, policy: str | None, options: tuple[str, ...]) -> Config:
    """The round's configuration with another policy or options; keys are looked for in [policy], then at the top.

    Raises `click.BadParameter` with a sentence.
    """
    from pydantic import ValidationError

    from slurmsia.config import Config

    values: dict[str, Any] = json.loads(config_text)
    if policy is not None:
        values.setdefault("policy", {})["name"] = policy
    for option in options:
        key, separator, text = option.partition("=")
        if not separator:
            raise click.BadParameter(f"--option takes key=value, not {option!r}")
        path = key.split(".")
        at_top = path[0] in Config.model_fields and path[0] not in type(Config().policy).model_fields
        table = values if at_top else values.setdefault("policy", {})
        for step in path[:-1]:
            table = table.setdefault(step, {})
        table[path[-1]] = _value(text)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        told = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        raise click.BadParameter("; ".join(told)) from error


def _words(target: Target | None) -> str:
    if target is None:
        return "absent"
    shape = "" if target.shape is None else f" {target.shape}"
    where = "" if not target.gpus_by_node else f" at {','.join(name for name, _ in target.gpus_by_node)}"
    return f"{target.kind.value}{shape}{where}"


def changes(old: Plan, new: Plan) -> list[tuple[str, str, str]]:
    """(job, then, now) for every job whose target differs."""
    before = {target.job_id: target for target in old.targets}
    after = {target.job_id: target for target in new.targets}
    rows = []
    for job_id in sorted(before.keys() | after.keys()):
        then, now = before.get(job_id), after.get(job_id)
        said = (_words(then), _words(now))
        if said[0] != said[1] or (then is None) != (now is None):
            rows.append((job_id, *said))
    return rows


@click.command()
@click.argument("round_id", metavar="ROUND", type=int)
@click.option("--policy", help="Decide under this policy instead.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Change an option, e.g. sia.p=-1.")
@click.option("--cluster", default="cluster", show_default=True, help="Cluster name in the store.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (versioned `schema`).")
@store_options
def replay(
    round_id: int,
    policy: str | None,
    options: tuple[str, ...],
    cluster: str,
    as_json: bool,
    config_file: Path | None,
    url: str | None,
) -> None:
    """Decide round ROUND again and show what differs.

    Exit code 0: done; 1: the same configuration no longer gives the stored plan, or the round cannot be read.

    \b
    Example:
      slurmsia replay 4711
      slurmsia replay 4711 --policy srtf
      slurmsia replay 4711 --option sia.p=-1 --option hysteresis=true
    """
    from slurmsia.plan import Plan
    from slurmsia.round import decide
    from slurmsia.store import RoundHead, codec
    from slurmsia.store.settings import open_configured

    with sentences(), open_configured(section_of(config_file, url), cluster, auto_upgrade=False) as store:
        stored = store.round(round_id)
        if stored is None:
            click.echo(f"there is no round {round_id} of cluster {cluster} in the store", err=True)
            sys.exit(1)
        if isinstance(stored, RoundHead):
            click.echo(
                f"round {round_id} has lost its snapshot to retention ([store] keep_round_bodies_days)", err=True
            )
            sys.exit(1)
    config = reconfigured(stored.config_text, policy, options)
    plan = decide(stored.snapshot, stored.models, stored.standing, config, starts_only=stored.plan.starts_only)
    same = codec.to_json(Plan, plan) == codec.to_json(Plan, stored.plan)
    listed = changes(stored.plan, plan)
    if as_json:
        moved = [{"job": job_id, "then": then, "now": now} for job_id, then, now in listed]
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "round": round_id,
                    "equal": same,
                    "policy": plan.policy,
                    "objective": {"then": stored.plan.objective, "now": plan.objective},
                    "sentence": {"then": stored.plan.sentence, "now": plan.sentence},
                    "jobs": moved,
                }
            )
        )
    else:
        click.echo(f"then ({stored.plan.policy}): {stored.plan.sentence}")
        click.echo(f"now  ({plan.policy}): {plan.sentence}")
        for job_id, then, now in listed:
            click.echo(f"  job {job_id}: {then} -> {now}")
        if same:
            click.echo("the plan is the same to the byte")
        else:
            click.echo(f"{len(listed)} of {len(plan.targets)} jobs have another target")
    unchanged = policy is None and not options
    sys.exit(1 if unchanged and not same else 0)
