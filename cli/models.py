"""``slurmsia models``: what is known of jobs' speed, and offline work on the package's own model numbers.

`list` asks the API; `fit-shipped` reads profile files that the caller names and writes one JSON file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .asking import answer, asking


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """What is known of jobs' speed; without a command: `list`.

    \b
    Example:
      slurmsia models
      slurmsia models list -j 1234
    """
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
@click.option("-j", "--job", "job_id", default="", help="One job only.")
@asking
def list_models(job_id: str = "", server: str | None = None, as_json: bool = False) -> None:
    """The models of live jobs: by type, where they come from and how sure they are.

    \b
    Example:
      slurmsia models list -j 1234
    """

    def render(found: dict[str, Any]) -> list[Any]:
        from .render import models as parts

        return parts(found)

    answer(lambda client: client.get("/v1/models", job=job_id), render, server, as_json)


@models.command("fit-shipped")
@click.option(
    "--profiles",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with one sub-folder of CSV profiles per application.",
)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
def fit_shipped(profiles: Path, output: Path) -> None:
    """Fit every profiled application and type, and write the file that the package ships.

    \b
    Example:
      slurmsia models fit-shipped --profiles profiles/ -o shipped.json
    """
    from slurmsia.models import profiles as profile_files
    from slurmsia.models import shipped

    found = profile_files.read(profiles)
    if not found:
        raise click.ClickException(f"{profiles}: no profiles found; expected APPLICATION/placements-TYPE.csv")
    apps = profile_files.fit_applications(found)
    document = shipped.to_json(apps, shipped.NOTE)
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fits = sum(len(app.types) for app in apps.values())
    left_out = sorted({profile.application for profile in found} - set(apps))
    click.echo(f"{output}: {fits} fits of {len(apps)} applications" + (f"; left out: {left_out}" if left_out else ""))
