"""What a job's model says, as values: the interface between learning and deciding.

`JobModel` is everything the policy may know about one job's speed; `GoodputMatrix` is the table of one round. How
the numbers are fitted and bootstrapped is the business of the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..cluster import JobId


@dataclass(frozen=True, slots=True)
class ThroughputParams:
    """The seven parameters of the step-time model (SIA.md section 1). Seconds, seconds per sample, 1.

    ``kappa``: how often the all-reduce within a node of as many GPUs is paid again on top of the one across nodes;
    0 is the published model (`throughput.sync_time`).
    """

    alpha_c: float
    beta_c: float
    alpha_n: float
    beta_n: float
    alpha_r: float
    beta_r: float
    gamma: float
    kappa: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineParams:
    """Hybrid-parallel jobs: one replica spans ``stages`` GPUs and runs ``microbatches`` of fixed size (SIA.md 1)."""

    stages: int
    microbatches: int
    microbatch_size: int
    forward_s: float
    alpha_n: float = 0.0
    beta_n: float = 0.0


#: (nodes, gpus, micro-batch, pull) per measured group: what `bias` learnt beyond the seven parameters.
Knots = tuple[tuple[int, int, float, float], ...]


@dataclass(frozen=True, slots=True)
class TypeModel:
    """One GPU type's throughput model with where it came from.

    ``source`` is one of "fit", "ratio:<type>", "similar:<likeness>", "shipped:<app>", "prior"; ``rel_error`` is one
    standard deviation of relative step-time error; ``scale`` multiplies throughput (bootstrap ratio; 1 for fits).
    ``local_max``: the largest micro-batch that fits this type's memory. ``knots``: measured deviations from the
    parameters (`bias`), empty for none.
    """

    gpu_type: str
    params: ThroughputParams | PipelineParams
    source: str
    rel_error: float
    local_max: int | None = None
    scale: float = 1.0
    max_gpus_seen: int = 0
    observations: float = 0.0
    sentence: str = ""
    knots: Knots = ()


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Batch range of a job: total M0..max, per GPU min..max. ``adaptive`` False keeps the total batch at M0."""

    initial: int = 1
    maximum: int = 1
    local_min: int = 1
    local_max: int | None = None
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class EfficiencyModel:
    """AdaScale moments at M0: |gradient|^2 and gradient variance. (0, 1) before data: bigger batches are free."""

    square: float = 0.0
    variance: float = 1.0


@dataclass(frozen=True, slots=True)
class NoiseAhead:
    """Gradient noise on the way of a job, and how far ahead the batch counts that it is told now.

    ``path``: (samples from now, log of variance / |gradient|^2 at batch ``scale`` times M0, what each doubling of the
    batch adds to that), ascending, at least one. ``held_s``: seconds of work to the time, while the job
    holds that batch, for which it is to be the best.
    """

    path: tuple[tuple[float, float, float], ...]
    scale: float
    held_s: float


@dataclass(frozen=True, slots=True)
class RestartCost:
    """Learnt cost of one move: seconds without progress, its standard deviation, and where it came from."""

    mean_s: float = 60.0
    std_s: float = 30.0
    source: str = "prior"


@dataclass(frozen=True, slots=True)
class JobModel:
    """All a policy may know of one job's speed.

    ``units``: GPUs per replica by type (1 where absent). ``known`` is False for a job of which nothing at all is
    known: every type then has a prior model. ``work_*`` in samples, ``None`` when unknown; ``remaining_std`` is one
    standard deviation of the remaining work. ``similar_gpus``: the most GPUs on which similar jobs were measured.
    ``efficiency`` is what configurations are valued with; with ``noise_ahead`` the batch told is chosen for that.
    """

    job_id: JobId
    types: Mapping[str, TypeModel] = field(default_factory=dict)
    batch: BatchLimits = field(default_factory=BatchLimits)
    efficiency: EfficiencyModel = field(default_factory=EfficiencyModel)
    restart: RestartCost = field(default_factory=RestartCost)
    units: Mapping[str, int] = field(default_factory=dict)
    known: bool = False
    work_done: float | None = None
    work_remaining: float | None = None
    remaining_std: float | None = None
    remaining_source: str = ""
    similar_gpus: int = 0
    noise_ahead: NoiseAhead | None = None
    version: int = 0

    @property
    def max_gpus_seen(self) -> int:
        """Largest GPU count with measured steps, over all types (the doubling rule's base)."""
        return max((model.max_gpus_seen for model in self.types.values()), default=0)


@dataclass(frozen=True, slots=True)
class GoodputMatrix:
    """Goodput of every job in every configuration at its best batch; 0 where the configuration is infeasible.

    Arrays are [jobs, configurations]: ``goodput`` and ``throughput`` in samples/s (goodput in M0-efficient samples),
    ``local_batch`` and ``accumulation`` the batch chosen, ``rel_error`` the model's relative standard deviation.
    """

    job_ids: tuple[JobId, ...]
    goodput: NDArray[np.float64]
    throughput: NDArray[np.float64]
    local_batch: NDArray[np.int64]
    accumulation: NDArray[np.int64]
    rel_error: NDArray[np.float64]
