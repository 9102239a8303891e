"""What was measured of jobs: sufficient statistics, gradients, memory, restarts. Values only, no I/O, no models.

The store keeps these, the job reports turn into these, and the models are fitted from these, so that all three agree
on units without importing one another. Statistics are sums, never averages: they pool over restarts and runs
by addition (SIA.md section 1, JOBS.md "Reports").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from .cluster import JobId

#: Cells of samples done: this many to a doubling.
NOISE_CELLS_PER_DOUBLING = 4
#: Noise beyond these is an estimator's accident: a gradient that happened to vanish, a batch without scatter.
LEAST_NOISE, LARGEST_NOISE = 1e-3, 1e6


@dataclass(frozen=True, slots=True)
class Observation:
    """Sums over ``count`` optimiser steps of one job on one shape at one batch setting.

    ``local_batch``: samples per GPU and micro-batch (m); ``accumulation``: extra micro-batches per step (s);
    ``step_sum_s``: seconds of full optimiser steps; ``step_square_sum_s2``: sum of their squares;
    ``sync_sum_s``: part of ``step_sum_s`` spent in gradient synchronisation.
    """

    gpu_type: str
    nodes: int
    gpus: int
    local_batch: float
    accumulation: int
    count: float
    step_sum_s: float
    step_square_sum_s2: float
    sync_sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gradient:
    """Gradient moments at batch scale ``scale = M / M0``: |gradient|^2 and trace of the covariance (at M0)."""

    t_s: float
    square: float
    variance: float
    scale: float


@dataclass(frozen=True, slots=True)
class NoiseCell:
    """Gradient noise r = variance / |gradient|^2 that jobs of one kind reported at about the same work and batch.

    ``samples_cell``: samples done, in cells of a quarter of a doubling; ``scale_doubling``: log2(M / M0), rounded;
    ``count`` reports with the sums of log r and of its square.
    """

    samples_cell: int
    scale_doubling: int
    count: float
    log_sum: float
    log_square_sum: float


def noise_cells(samples: float) -> float:
    """Samples done, as a coordinate of `NoiseCell.samples_cell`."""
    return NOISE_CELLS_PER_DOUBLING * math.log2(max(samples, 1.0))


def noise_cell(report: Report) -> NoiseCell | None:
    """What one report says of the noise of its kind; ``None`` without gradient and progress, or with odd numbers."""
    if report.gradient is None or report.progress is None:
        return None
    samples, square, variance, scale = (
        report.progress.samples,
        report.gradient.square,
        report.gradient.variance,
        report.gradient.scale,
    )
    if not (1.0 <= samples < 1e18 and 0 < square < math.inf and 0 <= variance < math.inf and 0 < scale < 1e9):
        return None
    log = math.log(min(max(variance / square, LEAST_NOISE), LARGEST_NOISE))
    return NoiseCell(math.floor(noise_cells(samples)), round(math.log2(max(scale, 1.0))), 1.0, log, log * log)


@dataclass(frozen=True, slots=True)
class MemoryPoint:
    """Peak GPU memory seen at a local batch on a type; ``total_bytes`` is the device's memory."""

    gpu_type: str
    local_batch: float
    peak_bytes: float
    total_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class RestartSample:
    """Seconds one restart really took, by part; ``None`` where a part was not seen."""

    save_s: float | None = None
    requeue_s: float | None = None
    load_s: float | None = None
    first_step_s: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Latest progress: samples done, samples wanted in all (``None`` unless declared or reported), and when."""

    t_s: float
    samples: float
    target_samples: float | None = None
    checkpoint_samples: float | None = None
    checkpoint_t_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobHistory:
    """All that is known of one job so far, pooled over its runs. Version grows with every change (cache key)."""

    job_id: JobId
    version: int = 0
    observations: tuple[Observation, ...] = ()
    gradient: Gradient | None = None
    memory: tuple[MemoryPoint, ...] = ()
    restarts: tuple[RestartSample, ...] = ()
    progress: Progress | None = None
    throughput_only: bool = False
    """True when the numbers come from a log regex or `slurmsia report`: batch sizes are unknown."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """What makes jobs similar: same user and script, then same script (hash), then only the cluster."""

    user_id: int
    script_hash: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class SimilarHistory:
    """Pooled observations of past jobs. ``likeness`` is "user+script", "script" or "cluster"."""

    likeness: str
    jobs: int
    observations: tuple[Observation, ...]
    restarts: tuple[RestartSample, ...] = ()
    memory: tuple[MemoryPoint, ...] = ()
    gradient: Gradient | None = None
    total_samples: tuple[float, ...] = ()
    """Samples that similar jobs had done when they ended by themselves."""
    type_ratios: tuple[tuple[str, str, float, float], ...] = ()
    """(type, reference type, ratio of 1-GPU throughput, relative standard error), from the fits of past jobs."""
    noise: tuple[NoiseCell, ...] = ()
    """Gradient noise along the work, pooled over the reports of all of them."""


class HistorySource(Protocol):
    """Where the estimator looks for similar jobs; implemented by the store and by the simulator."""

    def similar(self, kind: JobKind) -> SimilarHistory | None:
        """The closest history there is, or ``None``; must answer in milliseconds and never raise for absence."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """One line that a job wrote, after parsing and checks (JOBS.md "Reports"). Identity: (job_id, restart, seq)."""

    job_id: JobId
    restart: int
    seq: int
    t_s: float
    event: str
    """start, progress, checkpointed or end"""
    observations: tuple[Observation, ...] = ()
    gradient: Gradient | None = None
    progress: Progress | None = None
    memory: MemoryPoint | None = None
    restart_sample: RestartSample | None = None
    energy_j: float | None = None
    net_bytes: float | None = None
    handles_signal: bool = False
    script_proven: bool = False
    """Its owner rehearsed the script: it checkpoints, moves and resumes."""
    extra: tuple[tuple[str, str], ...] = field(default=())
