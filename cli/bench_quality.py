"""``slurmsia bench quality``: policies side by side on honest physics, per workload and pooled, beside the bound.

Runs what is not already in the result files that are given, prints ratios to the baseline with a confidence interval,
and says which promised ratios of the first policy hold.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

#: Workloads on which quality is judged.
WORKLOADS = (
    *(f"saturn/{number}" for number in range(1, 6)),
    *(f"philly/{number}" for number in range(1, 5)),
    *(f"newtrace/{number}" for number in range(1, 6)),
)
#: Promised: the largest pooled ratio of the first policy to the baseline (EVALUATION.md promise 2).
PROMISED: Mapping[str, float] = {
    "avg_jct_h": 0.80,
    "p99_jct_h": 1.0,
    "restarts_per_job": 0.5,
    "gpu_h_per_job": 1.0,
}
#: Promised: the largest 99th percentile of finish-time rho among jobs of more than ten minutes.
RHO_AT_MOST, RHO_FROM_S = 1.2, 600.0
_KEYS = ("avg_jct_h", "median_jct_h", "p99_jct_h", "makespan_h", "gpu_h_per_job", "restarts_per_job")

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder with `profiles/` and `workloads/`.")
@click.option("--workload", "workloads", multiple=True, default=WORKLOADS, help="Workload [default: all fourteen].")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("goodput", "sia"),
    show_default=True,
    help="Policy; the first is the one judged.",
)
@click.option("--baseline", default="sia", show_default=True, help="Policy that ratios refer to.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="As for `simulate run`, for all policies."
)
@click.option("--from", "files", multiple=True, type=_FILE, help="Results of `simulate run --rho --json` to use.")
@click.option("--cluster", default="hetero64", show_default=True, help="As for `simulate run`.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes at a time.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Write all runs to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quality_bench(
    data: Path,
    workloads: Sequence[str],
    policies: Sequence[str],
    baseline: str,
    options: Sequence[str],
    files: Sequence[Path],
    cluster: str,
    workers: int,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Completion times, GPU-hours, restarts and fairness of policies against a baseline.

    \b
    Example:
      slurmsia bench quality --data DIR --policy goodput --policy sia --policy pollux
    """
    from slurmsia.sim.compare import comparison, load_runs
    from slurmsia.sim.result import as_json as plain
    from slurmsia.sim.runner import RunSpec, run_many

    names = tuple(dict.fromkeys((*policies, baseline)))
    try:
        runs = [run for run in (load_runs(files) if files else []) if _wanted(run, names, workloads)]
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    known = {(run["summary"]["policy"], run["summary"]["workload"]) for run in runs}
    specs = [
        RunSpec(
            policy=name,
            cluster=cluster,
            workload_file=_file(data, workload),
            profiles_dir=data / "profiles",
            options=tuple(options),
            rho=True,
            segments=False,
        )
        for workload in workloads
        for name in names
        if (name, workload) not in known
    ]
    batch = run_many(specs, workers)
    if batch.errors:
        raise click.ClickException(next(iter(batch.errors.values())))
    runs += plain(batch.finished())["runs"]
    if keep is not None:
        keep.write_text(json.dumps({"schema": 1, "runs": runs}) + "\n", encoding="utf-8")
    table = comparison(runs, baseline)
    bound = _bound_h(data, workloads, cluster)
    rho = {name: _rho(run for run in runs if run["summary"]["policy"] == name) for name in names}
    verdicts = _verdicts(names[0], table, rho)
    if as_json:
        values = {"comparison": table, "bound_h": bound, "rho_p99": rho, "verdicts": verdicts}
        click.echo(json.dumps({"schema": 1, "bench": "quality", **values}))
        return
    _print(runs, workloads, names, baseline, bound)
    from .simulate_tables import print_comparison

    print_comparison(table)
    for name in names:
        worst = "-" if rho[name] is None else f"{rho[name]:.2f}"
        click.echo(f"{name}: 99th percentile of rho over jobs of more than {RHO_FROM_S / 60:.0f} minutes {worst}")
    for sentence in verdicts:
        click.echo(sentence)


def _file(data: Path, name: str) -> Path:
    folder, _, number = name.rpartition("/")
    return data / "workloads" / folder / f"workload-{number}.csv"


def _wanted(run: Mapping[str, Any], names: Sequence[str], workloads: Sequence[str]) -> bool:
    return run["summary"]["policy"] in names and run["summary"]["workload"] in workloads


def _bound_h(data: Path, workloads: Sequence[str], cluster: str) -> dict[str, dict[str, float]]:
    """Mean, median and p99 of completion times if each job were alone on the cluster."""
    from slurmsia.sim.alone import alone
    from slurmsia.sim.clusters import load_cluster
    from slurmsia.sim.profiles import Profiles
    from slurmsia.sim.workloads import load_workload

    profiles, machines = Profiles(data / "profiles"), load_cluster(cluster)
    found = {}
    for name in workloads:
        times_h = sorted(job.jct_s / 3600.0 for job in alone(load_workload(_file(data, name)), machines, profiles))
        found[name] = {
            "avg_jct_h": statistics.fmean(times_h),
            "median_jct_h": statistics.median(times_h),
            "p99_jct_h": times_h[min(int(0.99 * len(times_h)), len(times_h) - 1)],
        }
    return found


def _rho(runs: Any) -> float | None:
    """99th percentile of rho over the long jobs of several runs."""
    rhos = sorted(
        job["rho"] for run in runs for job in run["jobs"] if job["rho"] is not None and job["jct_s"] > RHO_FROM_S
    )
    return rhos[min(int(0.99 * len(rhos)), len(rhos) - 1)] if rhos else None


def _verdicts(judged: str, table: Mapping[str, Any], rho: Mapping[str, float | None]) -> list[str]:
    mine = next(row for row in table["policies"] if row["policy"] == judged)
    said = []
    for key, most in PROMISED.items():
        ratio = mine["ratio"][key]
        if ratio is not None:
            word = "holds" if ratio["mean"] <= most else "MISSED"
            said.append(f"{word}: {judged} {key} {ratio['mean']:.3f} of {table['baseline']}, at most {most:g}")
    worst = rho[judged]
    if worst is not None:
        word = "holds" if worst <= RHO_AT_MOST else "MISSED"
        said.append(f"{word}: {judged} 99th percentile of rho {worst:.2f}, at most {RHO_AT_MOST:g}")
    return said


def _print(
    runs: Sequence[Mapping[str, Any]],
    workloads: Sequence[str],
    names: Sequence[str],
    baseline: str,
    bound: Mapping[str, Mapping[str, float]],
) -> None:
    """One line for each workload and policy: values with ratios to the baseline, and the bound above them."""
    width = max(len(name) for name in (*names, "bound"))
    click.echo(f"{'workload':12s} {'policy':{width}s} " + " ".join(f"{key:>20s}" for key in _KEYS))
    by_key = {(run["summary"]["workload"], run["summary"]["policy"]): run["summary"] for run in runs}
    for workload in workloads:
        cells = [f"{bound[workload][key]:13.3f}       " if key in bound[workload] else 20 * " " for key in _KEYS]
        click.echo(f"{workload:12s} {'bound':{width}s} " + " ".join(cells))
        base = by_key[(workload, baseline)]
        for name in names:
            mine = by_key[(workload, name)]
            cells = [f"{mine[key]:13.3f} ({mine[key] / base[key]:4.2f})" if base[key] else "" for key in _KEYS]
            click.echo(f"{workload:12s} {name:{width}s} " + " ".join(cells))
