"""Small rounds for the policy tests: two types, a few jobs, goodput written out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slurmsia.cluster import GpuType, Shape
from slurmsia.models.base import GoodputMatrix, JobModel, RestartCost
from slurmsia.policy.base import Candidate, Order, RoundProblem, Terms
from slurmsia.policy.registry import policy
from slurmsia.solver import CapacityRow, Program, solve

A1, A2, B1, B2 = Shape("a", 1, 1), Shape("a", 1, 2), Shape("b", 1, 1), Shape("b", 1, 2)
SHAPES = (A1, A2, B1, B2)


def problem(
    goodput: Sequence[Sequence[float]],
    candidates: Sequence[Candidate] | None = None,
    models: Mapping[str, JobModel] | None = None,
    shapes: tuple[Shape, ...] = SHAPES,
    capacity: Mapping[str, int] | None = None,
    **more: object,
) -> RoundProblem:
    """A round of jobs j0, j1, ...; goodput 0 = not valid; restart costs 30 s unless ``models`` says otherwise."""
    matrix = np.array(goodput, dtype=float)
    jobs = len(matrix)
    rows = tuple(candidates or (Candidate(f"j{i}", max_gpus=2) for i in range(jobs)))
    plain = {c.job_id: JobModel(c.job_id, restart=RestartCost(mean_s=30.0)) for c in rows}
    zeros = np.zeros(matrix.shape)
    whole = np.zeros(matrix.shape, dtype=np.int64)
    capacity = capacity or {"a": 2, "b": 2}
    return RoundProblem(
        now_s=0.0,
        round_s=60.0,
        candidates=rows,
        shapes=shapes,
        matrix=GoodputMatrix(tuple(c.job_id for c in rows), matrix, matrix, whole, whole, zeros),
        valid=matrix > 0,
        models={**plain, **(models or {})},
        capacity_gpus=capacity,
        total_gpus=capacity,
        **more,  # type: ignore[arg-type]
    )


def terms(name: str, round_: RoundProblem, **options: object) -> Terms:
    from slurmsia.config.policy import PolicySection

    said = policy(name, PolicySection.model_validate({"name": name, **options})).terms(round_)
    assert isinstance(said, Terms)
    return said


def order(name: str, round_: RoundProblem, **options: object) -> Order:
    from slurmsia.config.policy import PolicySection

    said = policy(name, PolicySection.model_validate({"name": name, **options})).terms(round_)
    assert isinstance(said, Order)
    return said


def chosen(round_: RoundProblem, said: Terms) -> list[str]:
    """What the solver makes of the terms with one sum per type: a shape or "queued" per job."""
    rows = tuple(
        CapacityRow(kind, np.array([s.gpus if s.gpu_type == kind else 0 for s in round_.shapes]), limit)
        for kind, limit in round_.capacity_gpus.items()
    )
    pinned = np.array([c.current if c.pinned else -1 for c in round_.candidates])
    hint = np.array([c.current for c in round_.candidates])
    solution = solve(Program(said.value, round_.valid, rows, (), pinned, hint))
    return ["queued" if c < 0 else str(round_.shapes[c]) for c in solution.choice]


def power_types() -> dict[str, GpuType]:
    return {
        "a": GpuType("a", power_max_w=400.0, power_idle_w=50.0),
        "b": GpuType("b", power_max_w=100.0, power_idle_w=10.0),
    }
