"""``slurmsia bench simulate`` and ``slurmsia bench neighbours``: speed of simulations, and what neighbours feel.

Each simulation runs in a process of its own, so that its time and memory are its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from slurmsia.sim.neighbours import LONGER_AT_MOST, PooledWaiting, Waiting, pooled, waiting
from slurmsia.sim.result import summary
from slurmsia.sim.runner import PHYSICS, PLAIN_SLURM, RunSpec, default_workers, run_many

#: Promised: seconds for at most so many jobs, and megabytes (EVALUATION.md promise 4).
LIMITS_S = ((160, 5.0), (960, 20.0))
LIMIT_MB = 300.0

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder with `profiles/` and `workloads/`.")
@click.option("--workload", "workloads", multiple=True, default=("saturn/1", "newtrace/1"), show_default=True)
@click.option("--policy", "policies", multiple=True, help="Policy [default: sia; sia-artifact on artifact physics].")
@click.option("--physics", multiple=True, type=click.Choice(PHYSICS), default=PHYSICS, show_default=True)
@click.option(
    "--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each; the fastest counts."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate_bench(
    data: Path, workloads: Sequence[str], policies: Sequence[str], physics: Sequence[str], repeat: int, as_json: bool
) -> None:
    """Wall time and memory of whole simulations.

    \b
    Example:
      slurmsia bench simulate --data DIR
    """
    rows = []
    for kind in physics:
        for policy in policies or (("sia-artifact",) if kind == "artifact" else ("sia",)):
            for name in workloads:
                spec = RunSpec(policy, workload_file=_file(data, name), profiles_dir=data / "profiles", physics=kind)
                rows.append(_measure(spec, name, repeat))
    if as_json:
        click.echo(json.dumps({"schema": 1, "bench": "simulate", "rows": rows}))
        return
    for row in rows:
        limit = "" if row["limit_s"] is None else f" (limit {row['limit_s']:g} s, {LIMIT_MB:g} MB)"
        click.echo(
            f"{row['workload']:12s} {row['physics']:8s} {row['policy']:13s} {row['jobs']:5d} jobs "
            f"{row['rounds']:6d} rounds {row['wall_s']:7.2f} s ({row['cpu_s']:.2f} s CPU) "
            f"{row['peak_rss_mb']:6.0f} MB{limit}: {'holds' if row['holds'] else 'MISSED'}"
        )


def _file(data: Path, name: str) -> Path:
    folder, _, number = name.rpartition("/")
    return data / "workloads" / folder / f"workload-{number}.csv"


def _measure(spec: RunSpec, name: str, repeat: int) -> dict[str, object]:
    # two workers for one spec: a fresh process, so that memory is the simulation's alone
    batches = [run_many([spec], 2) for _ in range(repeat)]
    for batch in batches:
        if batch.errors:
            raise click.ClickException(next(iter(batch.errors.values())))
    best = min((batch.results[0] for batch in batches), key=lambda result: result.wall_s)
    said = summary(best)
    limit = next((seconds for jobs, seconds in LIMITS_S if said["jobs"] <= jobs), None)
    return {
        "workload": name,
        "physics": spec.physics,
        "policy": spec.policy,
        "jobs": said["jobs"],
        "rounds": said["rounds"],
        "wall_s": said["wall_s"],
        "cpu_s": best.cpu_s,
        "peak_rss_mb": said["peak_rss_mb"],
        "solve_ms_median": said["solve_ms_median"],
        "limit_s": limit,
        "holds": (limit is None or said["wall_s"] <= limit) and said["peak_rss_mb"] <= LIMIT_MB,
    }


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder with `profiles/` and `workloads/`.")
@click.option("--workload", "workloads", multiple=True, default=("saturn/1", "philly/1"), show_default=True)
@click.option("--policy", default="sia", show_default=True, help="Policy of the run with slurmsia.")
@click.option(
    "--undeclared",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Share of jobs without a declaration.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="So many seeds, pooled.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def neighbours_bench(
    data: Path, workloads: Sequence[str], policy: str, undeclared: float, seed: int, seeds: int, as_json: bool
) -> None:
    """Waiting time of undeclared jobs on a mixed workload, with slurmsia and without.

    A seed draws which jobs are undeclared, which GPU type they ask for, and all noise.

    \b
    Examples:
      slurmsia bench neighbours --data DIR --undeclared 0.3
      slurmsia bench neighbours --data DIR --workload saturn/1 --seeds 20
    """
    specs = [
        RunSpec(
            one,
            workload_file=_file(data, name),
            profiles_dir=data / "profiles",
            undeclared=undeclared,
            seed=number,
            segments=False,
        )
        for name in workloads
        for number in range(seed, seed + seeds)
        for one in (PLAIN_SLURM, policy)
    ]
    batch = run_many(specs, default_workers())
    if batch.errors:
        raise click.ClickException(next(iter(batch.errors.values())))
    results = batch.finished()
    if batch.interrupted or len(results) < len(specs):
        raise click.ClickException("interrupted; nothing to compare")
    rows = [waiting(without, managed) for without, managed in zip(results[::2], results[1::2], strict=True)]
    together = pooled(rows)
    if as_json:
        document = {"rows": [_values(row) for row in rows], "pooled": _values(together)}
        click.echo(json.dumps({"schema": 1, "bench": "neighbours", **document}))
        return
    for row in rows:
        click.echo(
            f"{row.workload} seed {row.seed} {row.policy}: {row.jobs} undeclared jobs wait {row.mean_with_s:.0f} s on "
            f"average with slurmsia, {row.mean_without_s:.0f} s without ({row.longer:+.1%}, at most "
            f"{LONGER_AT_MOST:+.0%}: {'holds' if row.holds else 'MISSED'}); "
            f"median {row.median_with_s:.0f} / {row.median_without_s:.0f} s, "
            f"p95 {row.p95_with_s:.0f} / {row.p95_without_s:.0f} s; "
            f"declared jobs' completion time x{row.declared_jct_ratio:.2f}"
        )
    if len(rows) > 1:
        sure = "" if together.low is None else f", 95 % {together.low:+.1%} to {together.high:+.1%}"
        click.echo(
            f"{together.policy}, {together.runs} runs together: {together.jobs} undeclared jobs wait "
            f"{together.mean_with_s:.0f} s with slurmsia, {together.mean_without_s:.0f} s without "
            f"({together.longer:+.1%}{sure}, at most {LONGER_AT_MOST:+.0%}: "
            f"{'holds' if together.holds else 'MISSED'}); {together.runs_that_hold} runs hold by themselves"
        )


def _values(one: Waiting | PooledWaiting) -> dict[str, object]:
    return {**{key: getattr(one, key) for key in one.__dataclass_fields__}, "longer": one.longer, "holds": one.holds}
