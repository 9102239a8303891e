"""``slurmsia simulate``: run workloads under policies, compare, sweep, and check against the published simulator.

Offline: talks to no daemon and no Slurm. Prints tables; ``--json`` keeps everything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from slurmsia.sim.runner import Batch, RunSpec

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class _DefaultGroup(click.Group):
    """``slurmsia simulate --workload ...`` means ``slurmsia simulate run --workload ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultGroup)
def simulate() -> None:
    """Replay workloads under policies, without a cluster.

    \b
    Examples:
      slurmsia simulate --workload w.csv --profiles profiles/ --policy sia --json out.json
      slurmsia simulate --from-sacct jobs.json --cluster mine.toml --policy sia
      slurmsia simulate compare out.json --plot plots/
      slurmsia simulate fidelity --data DIR
    """


def _run_options(command: _Command) -> _Command:
    for option in reversed(
        [
            click.option(
                "--workload", "workloads", multiple=True, type=_FILE, help="Workload CSV file; may be repeated."
            ),
            click.option("--from-sacct", "sacct_files", multiple=True, type=_FILE, help="Replay `sacct -D` output."),
            click.option("--profiles", type=_FOLDER, help="Folder with the applications' profiles."),
            click.option(
                "--cluster",
                default="hetero64",
                show_default=True,
                help="hetero64, homog64, physical44, NAMExK or a TOML file.",
            ),
            click.option(
                "--policy",
                "policies",
                multiple=True,
                default=("sia",),
                show_default=True,
                help="Policy; may be repeated, `all` for every one.",
            ),
            click.option(
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Policy-file key or simulation key; may be repeated.",
            ),
            click.option(
                "--physics",
                type=click.Choice(["honest", "artifact"]),
                default="honest",
                show_default=True,
                help="honest: Slurm's latencies and every move charged; artifact: the public simulator's accounting.",
            ),
            click.option(
                "--interval", type=float, default=None, help="Seconds between rounds [default: 60; Gavel 360]."
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn."),
            click.option(
                "--jobs-scale",
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Issue every job this many times.",
            ),
            click.option(
                "--undeclared", type=click.FloatRange(0, 1), default=0.0, help="Share of jobs without a declaration."
            ),
            click.option(
                "--rho/--no-rho", default=False, help="Also compute finish-time fairness (runs each kind of job alone)."
            ),
            click.option(
                "--workers",
                type=click.IntRange(1),
                default=None,
                help="Processes at a time [default: the processors there are].",
            ),
            click.option(
                "--json",
                "json_file",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Write everything to this file (- for standard output).",
            ),
        ]
    ):
        command = option(command)
    return command


@simulate.command()
@_run_options
def run(**given: Any) -> None:
    """Run every workload under every policy and print one line each.

    \b
    Example:
      slurmsia simulate run --workload saturn/workload-1.csv --profiles profiles/ --policy sia --policy gavel
    """
    specs = _specs(given)
    batch = _run(specs, given["workers"])
    _finish(batch, given["json_file"])


@simulate.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--baseline", help="Policy that ratios refer to [default: the first].")
@click.option(
    "--plot",
    "plot_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw JCT CDF, GPU use and Gantt into this folder (needs the `plot` extra).",
)
@click.option(
    "--format", "kind", type=click.Choice(["png", "svg"]), default="png", show_default=True, help="Picture format."
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(files: Sequence[Path], baseline: str | None, plot_dir: Path | None, kind: str, as_json: bool) -> None:
    """Put the policies of result FILES side by side: means, ratios and confidence over workloads.

    \b
    Example:
      slurmsia simulate compare out.json --baseline sia --plot plots/
    """
    from slurmsia.sim.compare import comparison, load_runs

    try:
        runs = load_runs(files)
        table = comparison(runs, baseline)
        pictures = []
        if plot_dir is not None:
            from slurmsia.sim.plots import draw_all

            pictures = draw_all(runs, plot_dir, kind)
    except (ValueError, ImportError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps({"schema": 1, "comparison": table, "pictures": [str(path) for path in pictures]}))
        return
    from .simulate_tables import print_comparison

    print_comparison(table)
    for path in pictures:
        click.echo(f"drawn: {path}")


@simulate.command()
@_run_options
@click.option(
    "--vary",
    "varied",
    multiple=True,
    required=True,
    metavar="KEY=A,B,C",
    help="Option with the values to try; may be repeated (every combination).",
)
@click.option(
    "--submitit",
    "submitit_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run as a Slurm job array through submitit; logs in this shared folder.",
)
@click.option(
    "--submitit-option",
    "submitit_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Parameter for submitit, for example slurm_partition=cpu.",
)
def sweep(varied: Sequence[str], submitit_dir: Path | None, submitit_options: Sequence[str], **given: Any) -> None:
    """Run every combination of option values on every workload and policy.

    \b
    Example:
      slurmsia simulate sweep --workload w.csv --profiles profiles/ --vary sia.p=-1,-0.5,-0.25
    """
    from slurmsia.sim.sweep import combinations, run_on_slurm

    try:
        specs = combinations(_specs(given), varied)
        if submitit_dir is None:
            batch = _run(specs, given["workers"])
        else:
            batch = run_on_slurm(specs, submitit_dir, submitit_options)
    except (ValueError, ImportError) as error:
        raise click.ClickException(str(error)) from None
    _finish(batch, given["json_file"])


@simulate.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder with `profiles/` and `workloads/`.")
@click.option("--programs", type=_FILE, help="Recorded programs [default: sia-ilp/instances.json beside DATA].")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="As for run, for example project=false.")
@click.option("--only", multiple=True, help="Only references whose title contains this text; may be repeated.")
@click.option(
    "--workers", type=click.IntRange(1), default=None, help="Processes at a time [default: the processors there are]."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything to this file (- for standard output).",
)
def fidelity(
    data: Path,
    programs: Path | None,
    only: Sequence[str],
    options: Sequence[str],
    workers: int | None,
    json_file: Path | None,
) -> None:
    """Print ours beside the published simulator for every reference run; exit code 1 when a promised line fails.

    \b
    Example:
      slurmsia simulate fidelity --data DIR
    """
    from slurmsia.sim.fidelity import compare as against
    from slurmsia.sim.fidelity import recorded_programs, references

    from .simulate_tables import fidelity_json, print_fidelity

    wanted = [ref for ref in references() if not only or any(text in ref.title for text in only)]
    file = programs or data.parent / "sia-ilp" / "instances.json"
    optima = recorded_programs(file) if file.is_file() else []
    specs = [ref.spec(data) for ref in wanted]
    batch = _run([replace(spec, options=(*spec.options, *options)) for spec in specs], workers)
    done = sorted(batch.results)
    rows, verdicts = against([wanted[i] for i in done], [batch.results[i] for i in done])
    if json_file is not None:
        _write(json_file, fidelity_json(rows, verdicts, optima))
    if json_file is None or str(json_file) != "-":
        print_fidelity(rows, verdicts, optima)
    _complain(batch)
    good = all(verdict.holds for verdict in verdicts) and all(optimum.holds for optimum in optima)
    sys.exit(0 if good and len(done) == len(wanted) else 1)


def _specs(given: dict[str, Any]) -> list[RunSpec]:
    from slurmsia.config.policy import POLICIES
    from slurmsia.sim.runner import PLAIN_SLURM, RunSpec

    workloads, records = given["workloads"], given["sacct_files"]
    if not workloads and not records:
        raise click.UsageError("name at least one --workload FILE or --from-sacct FILE")
    policies = POLICIES if "all" in given["policies"] else given["policies"]
    unknown = [name for name in policies if name not in (*POLICIES, PLAIN_SLURM)]
    if unknown:
        raise click.UsageError(f"no policy `{unknown[0]}`; there are: {', '.join((*POLICIES, PLAIN_SLURM))}")
    return [
        RunSpec(
            policy=policy,
            cluster=given["cluster"],
            workload_file=file if file in workloads else None,
            sacct_file=file if file in records else None,
            profiles_dir=given["profiles"],
            physics=given["physics"],
            options=tuple(given["options"]),
            interval_s=given["interval"],
            seed=given["seed"],
            jobs_scale=given["jobs_scale"],
            undeclared=given["undeclared"],
            rho=given["rho"],
        )
        for policy in policies
        for file in (*workloads, *records)
    ]


def _run(specs: Sequence[RunSpec], workers: int | None) -> Batch:
    from slurmsia.sim.runner import default_workers, run_many

    from .simulate_tables import progress_bar

    most = min(workers or default_workers(), len(specs))
    with progress_bar(specs) as on_progress:
        return run_many(specs, most, on_progress)


def _finish(batch: Batch, json_file: Path | None) -> None:
    from slurmsia.sim.result import as_json

    from .simulate_tables import print_summaries

    results = batch.finished()
    if json_file is not None:
        _write(json_file, as_json(results))
    if json_file is None or str(json_file) != "-":
        print_summaries(results)
    _complain(batch)
    if batch.interrupted:
        click.echo(f"interrupted: kept {len(results)} of {len(batch.specs)} runs", err=True)
        sys.exit(130)
    sys.exit(1 if batch.errors else 0)


def _complain(batch: Batch) -> None:
    for index in sorted(batch.errors):
        click.echo(batch.errors[index], err=True)


def _write(file: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1)
    if str(file) == "-":
        click.echo(text)
    else:
        file.write_text(text + "\n", encoding="utf-8")
