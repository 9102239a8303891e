"""What a policy may see and what it may say: the small protocol behind which every policy lives, one file each.

A policy never places, never solves and never touches Slurm. It turns candidates and their goodput into either a value
per (job, configuration) for the solver (`Terms`) or a total order with wishes (`Order`) for policies without a solver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..cluster import GpuType, JobId, Shape
from ..models.base import GoodputMatrix, JobModel


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the round: a managed job, or an undeclared pending job as rigid demand (``managed`` False).

    ``current``: index of the configuration the job holds now, -1 when it holds nothing; ``pinned``: keeps ``current``
    whatever happens; ``may_move``: False for jobs that are running and must not be restarted; ``age_s`` since first
    submission (queueing included, not reset by requeues); ``service_gpu_s`` GPU-seconds attained so far;
    ``restarts``: moves and requeues so far; ``weight``: from Slurm priority, QOS and shares, 1 = plain;
    ``requested``: what the user asked for (for rigid and fair-share policies); ``waited_s``: time in queue since it
    last held GPUs; ``gpu_h_left`` and ``walltime_left_s``: budget, ``None`` = unlimited.
    """

    job_id: JobId
    managed: bool = True
    current: int = -1
    pinned: bool = False
    may_move: bool = True
    age_s: float = 0.0
    run_s: float = 0.0
    waited_s: float = 0.0
    service_gpu_s: float = 0.0
    restarts: int = 0
    weight: float = 1.0
    priority: float = 0.0
    requested: Shape | None = None
    min_gpus: int = 1
    max_gpus: int = 1
    gpu_h_left: float | None = None
    walltime_left_s: float | None = None
    min_efficiency: float | None = None
    since_checkpoint_s: float | None = None


@dataclass(frozen=True, slots=True)
class RoundProblem:
    """All a policy sees: rows, columns, goodput, and how many GPUs there are in all.

    ``valid`` [jobs, configurations]: allowed by declaration, units, doubling, limits and memory, with goodput > 0.
    ``capacity_gpus``: usable GPUs per type this round (free or held by movable jobs).
    ``total_gpus``: GPUs per type of the cluster, up or not (for fairness shares). ``gpu_types``: power facts for the
    energy term; ``power_w`` [jobs, configurations]: measured draw, 0 where unknown.
    """

    now_s: float
    round_s: float
    candidates: tuple[Candidate, ...]
    shapes: tuple[Shape, ...]
    matrix: GoodputMatrix
    valid: NDArray[np.bool_]
    models: Mapping[JobId, JobModel]
    capacity_gpus: Mapping[str, int]
    total_gpus: Mapping[str, int]
    gpu_types: Mapping[str, GpuType] = field(default_factory=dict)
    power_w: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """A policy for the solver: maximise sum of ``value[i, c]`` over the chosen (i, c), at most one c per i.

    ``value`` is the gain over leaving job i queued (so 0 is indifferent); entries outside ``valid`` are ignored, and
    -inf forbids an entry.
    The policy's own objective is ``sign * sum + offset``: what is reported and compared with published optima.
    ``why``: named components of the value, each [jobs, configurations] or [jobs, 1], for verdict sentences.
    ``lasts_s``: how long a choice lasts in the policy's own reckoning, in which a restart for another job's sake must
    be made good; ``None`` = `policy.horizon_s`.
    """

    value: NDArray[np.float64]
    sign: float = 1.0
    offset: float = 0.0
    why: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    lasts_s: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A policy without a program: serve rows in ``order``; each tries its ``wishes`` (column indices) in turn."""

    order: tuple[int, ...]
    wishes: tuple[tuple[int, ...], ...]


class Policy(Protocol):
    """A scheduling policy. Instances are stateless between rounds and deterministic."""

    @property
    def name(self) -> str:
        """The name under which the policy file asks for it."""
        ...

    def terms(self, problem: RoundProblem) -> Terms | Order:
        """Value the configurations of one round. Never raises on finite input; pure."""
        ...
