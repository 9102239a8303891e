"""``slurmsia bench robustness``: a policy against a baseline where its knowledge is wrong or the cluster is odd.

One line a case: mean completion time against the baseline under the same conditions, and the longest wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

#: case -> (options of the simulation, other fields of the run)
CASES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "as told": ((), {}),
    "targets twice too large": (("target_off=2",), {}),
    "targets half of the work": (("target_off=0.5",), {}),
    "targets ten times off, either way": (("target_lies=10",), {}),
    "no targets": (("target_off=0",), {}),
    "no targets, no similar jobs": (("target_off=0", "own_scripts=1"), {}),
    "wrong models (steps differ by 30 % between runs)": (("noise=0.3",), {}),
    "every job rigid": (("all_rigid=1",), {}),
    "three times the jobs": ((), {"jobs_scale": 3}),
    "one GPU type": ((), {"cluster": "homog64"}),
    "nodes of one GPU": ((), {"cluster": "one-gpu-nodes"}),
    "five GPU types": ((), {"cluster": "five-types"}),
    "node failures (each fails every other day)": (("failures_per_node_day=0.5",), {}),
}
#: Promised: mean completion time at most so much above the baseline's.
WORSE_AT_MOST = 0.02

_CLUSTERS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "one-gpu-nodes": {"t4": (24, 1), "a100": (16, 1), "rtx": (24, 1)},
    "five-types": {"t4": (4, 4), "a100": (1, 8), "rtx": (2, 8), "quad": (1, 4), "v100": (2, 8)},
}
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder with `profiles/` and `workloads/`.")
@click.option("--workload", default="saturn/1", show_default=True)
@click.option("--policy", default="goodput", show_default=True)
@click.option("--baseline", default="sia", show_default=True)
@click.option("--case", "cases", multiple=True, help="Only cases whose name contains this text; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def robustness_bench(
    data: Path, workload: str, policy: str, baseline: str, cases: Sequence[str], seed: int, as_json: bool
) -> None:
    """Mean completion time against a baseline when targets, models or machines are not as hoped.

    \b
    Example:
      slurmsia bench robustness --data DIR --case targets
    """
    from tempfile import TemporaryDirectory

    rows = []
    with TemporaryDirectory() as folder:
        for name in [name for name in CASES if not cases or any(text in name for text in cases)]:
            row = _row(name, Path(folder), data, workload, (policy, baseline), seed)
            rows.append(row)
            if not as_json:
                _print(row, policy, baseline)
    if as_json:
        click.echo(json.dumps({"schema": 1, "bench": "robustness", "rows": rows}))


def _row(name: str, folder: Path, data: Path, workload: str, policies: tuple[str, str], seed: int) -> dict[str, Any]:
    from slurmsia.sim.result import summary
    from slurmsia.sim.runner import RunSpec, run_many

    options, fields = CASES[name]
    changed = dict(fields)
    if changed.get("cluster") in _CLUSTERS:
        changed["cluster"] = str(_cluster_file(folder, changed["cluster"]))
    kind, _, number = workload.rpartition("/")
    specs = [
        RunSpec(
            policy,
            workload_file=data / "workloads" / kind / f"workload-{number}.csv",
            profiles_dir=data / "profiles",
            options=options,
            seed=seed,
            segments=False,
            **changed,
        )
        for policy in policies
    ]
    batch = run_many(specs, 1)
    if batch.errors:
        raise click.ClickException(next(iter(batch.errors.values())))
    mine, base = (summary(batch.results[index]) for index in range(2))
    waits = [max(job.waited_s for job in batch.results[index].jobs) / 60.0 for index in range(2)]
    ratio = mine["avg_jct_h"] / base["avg_jct_h"]
    return {
        "case": name,
        "workload": workload,
        "avg_jct_h": mine["avg_jct_h"],
        "baseline_avg_jct_h": base["avg_jct_h"],
        "ratio": ratio,
        "p99_ratio": mine["p99_jct_h"] / base["p99_jct_h"],
        "restarts_per_job": mine["restarts_per_job"],
        "baseline_restarts_per_job": base["restarts_per_job"],
        "longest_wait_min": waits[0],
        "baseline_longest_wait_min": waits[1],
        "holds": ratio <= 1.0 + WORSE_AT_MOST,
    }


def _cluster_file(folder: Path, name: str) -> Path:
    file = folder / f"{name}.toml"
    tables = (
        f"[gpu_types.{kind}]\nnodes = {nodes}\ngpus_per_node = {gpus}\n"
        for kind, (nodes, gpus) in _CLUSTERS[name].items()
    )
    file.write_text("\n".join(tables), encoding="utf-8")
    return file


def _print(row: Mapping[str, Any], policy: str, baseline: str) -> None:
    verdict = "holds" if row["holds"] else "MISSED"
    click.echo(
        f"{row['case']}: mean completion {row['avg_jct_h']:.3f} h with {policy}, "
        f"{row['baseline_avg_jct_h']:.3f} h with {baseline} "
        f"({row['ratio'] - 1:+.1%}, at most {WORSE_AT_MOST:+.0%}: {verdict}); p99 x{row['p99_ratio']:.2f}; "
        f"restarts {row['restarts_per_job']:.2f} / {row['baseline_restarts_per_job']:.2f}; "
        f"longest wait {row['longest_wait_min']:.0f} / {row['baseline_longest_wait_min']:.0f} min"
    )
