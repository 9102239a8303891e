"""Recorded integer programs for ``slurmsia bench solve``: reading the file, and stacking rounds into larger ones.

A file holds rounds of one cluster: normalised goodput per job and configuration, restart factor, current
configuration, pinned jobs, and the optimum that the public code reported. Reads files; solves nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from slurmsia.cluster import Shape
from slurmsia.solver import CapacityRow, Program
from slurmsia.solver.capacity import capacity_rows

#: Recorded goodput of a configuration that is not allowed.
NOT_ALLOWED = 1e-4
#: The public code rounds costs to this many decimals and cuts them here.
ARTIFACT_DECIMALS, ARTIFACT_LARGEST = 2, 3000.0


@dataclass(frozen=True)
class Round:
    """Matrices of one round: ``goodput`` [jobs, C], ``factor`` [jobs], ``current`` and ``pinned`` [jobs] (-1 none).

    ``recorded``: the public code's optimum, ``None`` where the file has none.
    """

    name: str
    goodput: NDArray[np.float64]
    factor: NDArray[np.float64]
    current: NDArray[np.int64]
    pinned: NDArray[np.int64]
    recorded: float | None


@dataclass(frozen=True)
class Instances:
    """All rounds of a file with their shapes, GPUs per type, exponent and cost of queueing."""

    shapes: tuple[Shape, ...]
    capacity: dict[str, int]
    p: float
    lambda_n: float
    rounds: tuple[Round, ...]

    @property
    def node_sizes(self) -> dict[str, int]:
        return {
            kind: max((s.gpus_per_node for s in self.shapes if s.gpu_type == kind), default=1) for kind in self.capacity
        }

    def sums(self, gpus: int | None = None) -> tuple[CapacityRow, ...]:
        """One sum per type, scaled to ``gpus`` in all (whole nodes)."""
        total = sum(self.capacity.values())
        rows = []
        for kind, own in self.capacity.items():
            size = self.node_sizes[kind]
            limit = own if gpus is None else max(1, round(own * gpus / total / size)) * size
            need = np.array([s.gpus if s.gpu_type == kind else 0 for s in self.shapes], dtype=np.int64)
            rows.append(CapacityRow(f"{kind} GPUs", need, limit))
        return tuple(rows)

    def holes(self, gpus: int, share: float, seed: int) -> tuple[CapacityRow, ...]:
        """Rows of a cluster of which ``share`` of the nodes have lost a random part of their GPUs to other jobs."""
        rng = np.random.default_rng(seed)
        free: dict[str, list[tuple[int, int]]] = {}
        for row, kind in zip(self.sums(gpus), self.capacity, strict=True):
            size = self.node_sizes[kind]
            full = rng.random(row.limit // size) >= share
            free[kind] = [(size if whole else int(rng.integers(0, size + 1)), size) for whole in full]
        return capacity_rows(self.shapes, free)

    def stacked(self, jobs: int, seed: int) -> Round:
        """``jobs`` distinct jobs drawn from all rounds: first every recorded job once, in random order.

        Beyond that many, jobs are drawn again with each goodput changed by about 5 % and another job's restart
        factor, so that no two rows are equal. Pins are dropped: they belong to the recorded cluster.
        """
        rng = np.random.default_rng(seed)
        goodput = np.concatenate([r.goodput for r in self.rounds])
        factor = np.concatenate([r.factor for r in self.rounds])
        current = np.concatenate([r.current for r in self.rounds])
        _, first = np.unique(np.column_stack([goodput, factor, current]), axis=0, return_index=True)
        known = rng.permutation(np.sort(first))
        again = rng.integers(0, len(goodput), max(0, jobs - len(known)))
        rows = np.concatenate([known[:jobs], again])
        matrix = goodput[rows]
        fresh = slice(min(jobs, len(known)), jobs)
        noise = np.exp(rng.normal(0.0, 0.05, matrix[fresh].shape))
        matrix[fresh] = np.where(matrix[fresh] > NOT_ALLOWED, matrix[fresh] * noise, matrix[fresh])
        factors = factor[rows]
        factors[fresh] = factor[rng.integers(0, len(factor), len(again))]
        nothing = np.full(jobs, -1, dtype=np.int64)
        return Round(f"{jobs} jobs, seed {seed}", matrix, factors, current[rows], nothing, None)


def read(path: Path) -> Instances:
    """The instances of a file; a usage error that names the key where the file is not of this form."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        shapes = tuple(Shape(str(kind), int(nodes), int(gpus)) for kind, nodes, gpus in data["configs"])
        rounds = tuple(_round(k, entry, len(shapes)) for k, entry in enumerate(data["rounds"]))
        return Instances(
            shapes=shapes,
            capacity={str(kind): int(count) for kind, count in data["capacity"].items()},
            p=float(data.get("p", -0.5)),
            lambda_n=abs(float(data.get("lambda_n", 1.1))),
            rounds=rounds,
        )
    except (KeyError, TypeError, ValueError) as failure:
        raise click.UsageError(
            f"{path} is not a file of recorded programs: {type(failure).__name__}: {failure}"
        ) from None


def _round(k: int, entry: dict[str, Any], columns: int) -> Round:
    goodput = np.array(entry["G"], dtype=np.float64).reshape(-1, columns)
    jobs = len(goodput)
    current = np.array([-1 if c is None else int(c) for c in entry.get("prev", [None] * jobs)], dtype=np.int64)
    pinned = np.full(jobs, -1, dtype=np.int64)
    for i in entry.get("pinned", ()):
        pinned[int(i)] = current[int(i)]
    recorded = entry.get("objective_cbc")
    return Round(
        name=str(entry.get("index", k)),
        goodput=goodput,
        factor=np.array(entry.get("r", [1.0] * jobs), dtype=np.float64),
        current=current,
        pinned=pinned,
        recorded=None if recorded is None else float(recorded),
    )


def program(matrices: Round, rows: tuple[CapacityRow, ...], p: float, lambda_n: float, artifact: bool) -> Program:
    """The program of a round from its matrices: the published one, or with ``artifact`` the public code's rounding.

    The restart factor discounts every configuration but the current one; a job that holds nothing has no discount.
    """
    here = matrices.current[:, None] == np.arange(matrices.goodput.shape[1])
    stays = here | (matrices.current < 0)[:, None]
    power = (matrices.goodput * np.where(stays, 1.0, matrices.factor[:, None])) ** p
    valid = matrices.goodput > NOT_ALLOWED * 1.5
    if artifact:
        power = np.minimum(np.round(power, ARTIFACT_DECIMALS), ARTIFACT_LARGEST)
        valid = np.ones_like(valid)
    value = lambda_n - power if p < 0 else power + lambda_n
    return Program(value, valid, rows, (), matrices.pinned, matrices.current)


def own_objective(gain: float, jobs: int, p: float, lambda_n: float) -> float:
    """The paper's objective from the gain over leaving all jobs queued."""
    return lambda_n * jobs - gain if p < 0 else gain - lambda_n * jobs
