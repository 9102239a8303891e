"""Ours beside the published simulator's numbers: recorded programs and whole workloads (EVALUATION.md promise 1).

The reference numbers are the package's own small table; programs and workloads come from a folder the user names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..policy.sia_artifact import SiaArtifact
from ..solver import CapacityRow, Program, SolverLimits, solve
from .result import RunResult, summary
from .runner import RunSpec

#: Promised distance from the reference: mean completion time per workload, the others pooled and per workload.
MEAN_JCT_WITHIN = 0.05
POOLED_WITHIN = 0.05
ONE_WITHIN = 0.10
OPTIMUM_WITHIN = 1e-6


@dataclass(frozen=True)
class Reference:
    """One row of the reference table: what was run and what the published simulator said."""

    workload: str
    cluster: str
    policy: str
    options: tuple[str, ...]
    values: dict[str, float | None]

    def spec(self, data: Path) -> RunSpec:
        """The same run with ours, on the files under ``data``."""
        folder, number = self.workload.split("/")
        return RunSpec(
            policy=self.policy,
            cluster=self.cluster,
            workload_file=data / "workloads" / folder / f"workload-{number}.csv",
            profiles_dir=data / "profiles",
            physics="artifact",
            options=self.options,
            segments=False,
        )

    @property
    def title(self) -> str:
        extra = "".join(f" {option}" for option in self.options)
        return f"{self.workload} {self.cluster} {self.policy}{extra}"


def references() -> tuple[Reference, ...]:
    """The reference table shipped with the package."""
    table = json.loads(files(__package__).joinpath("reference.json").read_text(encoding="utf-8"))
    return tuple(
        Reference(
            workload=row["workload"],
            cluster=row["cluster"],
            policy=row["policy"],
            options=tuple(f"{key}={value}" for key, value in row.get("options", {}).items()),
            values=dict(zip(table["keys"], row["values"], strict=False)),
        )
        for row in table["runs"]
    )


@dataclass(frozen=True)
class Row:
    """One workload compared: ours and the reference per key, and the relative difference."""

    title: str
    workload: str
    cluster: str
    policy: str
    ours: dict[str, float]
    reference: dict[str, float | None]
    off: dict[str, float]
    variant: bool = False
    """A run with an option changed: its slowest job hangs on how ties of the very first placement fall."""


@dataclass(frozen=True)
class Verdict:
    """One promised line: what it says and whether it holds."""

    sentence: str
    holds: bool


def compare(wanted: Sequence[Reference], results: Sequence[RunResult]) -> tuple[list[Row], list[Verdict]]:
    """Rows and the promised lines, for the references that have a result (same order)."""
    rows = []
    for reference, result in zip(wanted, results, strict=False):
        said = summary(result)
        ours = {key: float(said[key]) for key in reference.values}
        off = {key: ours[key] / value - 1.0 for key, value in reference.values.items() if value}
        rows.append(
            Row(
                reference.title,
                reference.workload,
                reference.cluster,
                reference.policy,
                ours,
                reference.values,
                off,
                bool(reference.options),
            )
        )
    return rows, [*_distance(rows), *_ordering(rows)]


def _distance(rows: Sequence[Row]) -> list[Verdict]:
    mine = [row for row in rows if row.policy == "sia-artifact"]
    verdicts = []
    if mine:
        worst = max(mine, key=lambda row: abs(row.off["avg_jct_h"]))
        verdicts.append(
            Verdict(
                f"mean completion time within {MEAN_JCT_WITHIN:.0%} on every workload "
                f"(worst {worst.off['avg_jct_h']:+.1%}, {worst.title})",
                abs(worst.off["avg_jct_h"]) <= MEAN_JCT_WITHIN,
            )
        )
    published = [row for row in mine if not row.variant]
    for key in ("makespan_h", "gpu_h_per_job"):
        if not published:
            break
        pooled = sum(row.ours[key] for row in published) / sum(row.reference[key] or 0.0 for row in published) - 1.0
        worst = max(published, key=lambda row: abs(row.off[key]))
        verdicts.append(
            Verdict(
                f"{key} within {POOLED_WITHIN:.0%} on the pooled mean ({pooled:+.1%}) "
                f"and {ONE_WITHIN:.0%} per workload (worst {worst.off[key]:+.1%}, {worst.title})",
                abs(pooled) <= POOLED_WITHIN and abs(worst.off[key]) <= ONE_WITHIN,
            )
        )
    return verdicts


def _ordering(rows: Sequence[Row]) -> list[Verdict]:
    verdicts = []
    for row in rows:
        if row.policy != "gavel":
            continue
        for other in rows:
            same = (other.workload, other.cluster) == (row.workload, row.cluster)
            if same and other.policy == "sia-artifact":
                verdicts.append(
                    Verdict(
                        f"{row.workload} {row.cluster}: {other.title.split(' ', 2)[2]} {other.ours['avg_jct_h']:.3f} h "
                        f"< gavel {row.ours['avg_jct_h']:.3f} h",
                        other.ours["avg_jct_h"] < row.ours["avg_jct_h"],
                    )
                )
    return verdicts


@dataclass(frozen=True)
class Optimum:
    """One recorded program: the recorded optimum and ours, as the policy reports its objective."""

    number: int
    recorded: float
    ours: float
    gap: float

    @property
    def holds(self) -> bool:
        return abs(self.ours - self.recorded) <= OPTIMUM_WITHIN * max(1.0, abs(self.recorded))


def recorded_programs(file: Path) -> list[Optimum]:
    """Solve every recorded program of a file with production's solver. Raises ValueError on another file format."""
    data = json.loads(file.read_text(encoding="utf-8"))
    configs = data["configs"]
    types = sorted({name for name, _, _ in configs})
    policy = SiaArtifact(p=float(data["p"]), lambda_n=float(data["lambda_n"]))
    rows = tuple(
        CapacityRow(
            name,
            np.array([gpus if kind == name else 0 for kind, _, gpus in configs], dtype=np.int64),
            int(data["capacity"][name]),
        )
        for name in types
    )
    return [_solve_recorded(number, entry, policy, rows) for number, entry in enumerate(data["rounds"])]


def _solve_recorded(number: int, entry: dict[str, Any], policy: SiaArtifact, rows: tuple[CapacityRow, ...]) -> Optimum:
    goodput = np.array(entry["G"], dtype=np.float64)
    jobs, configs = goodput.shape
    current = np.array([-1 if index is None else index for index in entry["prev"]], dtype=np.int64)
    discount = np.where(
        (np.arange(configs) == current.reshape(-1, 1)) | (current < 0).reshape(-1, 1),
        1.0,
        np.array(entry["r"], dtype=np.float64).reshape(-1, 1),
    )
    value = policy.lambda_n - policy.cost(goodput * discount)
    pinned = np.full(jobs, -1, dtype=np.int64)
    for index in entry["pinned"]:
        pinned[index] = current[index]
    valid = np.ones(goodput.shape, dtype=np.bool_)
    solution = solve(Program(value, valid, rows, (), pinned, current), SolverLimits(gap=0.0))
    return Optimum(number, float(entry["objective_cbc"]), policy.lambda_n * jobs - solution.objective, solution.gap)
